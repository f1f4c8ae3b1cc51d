"""Muon in fp32."""
import torch
from torch import Tensor

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan's post on Muon (2024); torch.optim.Muon has the same


def orthogonal(matrix: Tensor) -> Tensor:
    """About U Vᵀ of a matrix U S Vᵀ, by five Newton-Schulz steps x -> a x + (b x xᵀ + c (x xᵀ)²) x. fp32 (m, n).

    Singular values end between 0.68 and 1.21, those of less than about a hundredth of the norm below that.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if wide is not matrix else x


class Muon(torch.optim.Muon):
    """torch's Muon (Jordan 2024) with its Newton-Schulz steps in fp32, where torch takes bf16.

    A CPU without bf16 emulates those: 40 % of a training step of Shapes-5i was spent there. And so every machine
    computes with the same digits.
    """

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                mean = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(mean, group["momentum"]))  # Nesterov's
                high, wide = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * max(1, high / wide) ** 0.5)

"""Optimisers and the learning-rate schedule."""
import torch
from torch import Tensor, nn

MOMENTUM = 0.9                  # of SGD, as published
POWER = 0.9                     # of the poly decay, as published (PFENet, BAM)
NEWTON_SCHULZ = 5               # steps of Muon
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan's post on Muon (2024); torch.optim.Muon has the same


def orthogonal(matrix: Tensor) -> Tensor:
    """Compute about U Vᵀ of U S Vᵀ (m, n) fp32 by Newton-Schulz; singular values end in 0.68..1.21, tiny ones lower."""
    a, b, c = COEFFICIENTS
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if wide is not matrix else x


class Muon(torch.optim.Muon):
    """torch's Muon (Jordan 2024) with Newton-Schulz in fp32 instead of bf16: the same digits on every machine."""

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


class MuonAdamW:
    """Muon for the matrices of transformer blocks, AdamW for everything else, as one optimiser."""

    def __init__(self, model: nn.Module, options):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if ".resblocks." in name and p.ndim == 2]
        rest = [p for name, p in named if not (".resblocks." in name and p.ndim == 2)]
        self.parts = [Muon(matrices, options.muon_lr, weight_decay=options.weight_decay),
                      torch.optim.AdamW(rest, options.lr, weight_decay=options.weight_decay, fused=True)]

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict:
        return {parameter: state for part in self.parts for parameter, state in part.state.items()}

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def make_optimizer(model: nn.Module, options):
    """Build SGD, AdamW or Muon with AdamW over the trainable parameters; options: config section ``train``."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if options.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, options.lr, momentum=MOMENTUM, weight_decay=options.weight_decay,
                                    fused=True)
    elif options.optimizer == "adamw":
        optimizer = torch.optim.AdamW(parameters, options.lr, weight_decay=options.weight_decay, fused=True)
    else:
        optimizer = MuonAdamW(model, options)
    for group in optimizer.param_groups:
        group["full_lr"] = group["lr"]  # what the schedule multiplies
    return optimizer


def schedule(iteration: int, iterations: int, options) -> float:
    """Compute the share of the learning rate in ``iteration`` (from 0): linear warm-up times (1 - i / n) ** POWER."""
    warm = min(1.0, (iteration + 1) / options.warmup) if options.warmup else 1.0
    return warm * max(0.0, 1 - iteration / iterations) ** POWER


def set_share(optimizer, share: float) -> None:
    """Set the rate of every group to ``share`` of its full rate."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["full_lr"]

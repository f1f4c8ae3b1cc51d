"""What a model costs: its parameters, and the floating point operations of one evaluated image."""
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from util.evaluation.predict import evaluation_mode


def parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of trainable parameters and of all, the frozen ones included."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"trainable": sum(n for n, trains in sizes if trains), "total": sum(n for n, _ in sizes)}


@torch.no_grad()
def gflops_per_image(model: nn.Module, text, size: int, device, autocast) -> float:
    """10^9 floating point operations (2 a multiply-add) of evaluating one name in one image, ``size`` px square.

    Matrix products, convolutions and attention count; additions, norms and activations, some per cent, do not.
    Nor does the text encoder, which runs once a run. text: the embeddings of all names, on ``device``.
    """
    image = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)
    row = torch.zeros(1, dtype=torch.long, device=device)
    # Attention as plain products: the fused kernels differ between devices, and so might what is counted of them.
    with evaluation_mode(model), autocast, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(image, text[row])
    return counter.get_total_flops() / 1e9

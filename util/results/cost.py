"""What a model costs: its parameters, and the floating point operations of one evaluated image."""
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from util.evaluation.experiment import Experiment
from util.evaluation.predict import evaluation_mode


def parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of trainable parameters and of all, the frozen ones included."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"trainable": sum(n for n, trains in sizes if trains), "total": sum(n for n, _ in sizes)}


def count_flops(call: Callable) -> int:
    """Floating point operations, 2 a multiply-add: matrix products, convolutions, attention; forward and backward.

    Additions, norms and activations, some per cent, do not count. Attention is counted as plain products, and compiled
    blocks as uncompiled ones: the counter does not see into fused kernels, which differ between devices.
    """
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"), \
            FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@torch.no_grad()
def gflops_per_image(experiment: Experiment) -> float:
    """10^9 operations of evaluating one name in one image of the input's size.

    The text encoder, which runs once a run, is not in it.
    """
    size, device = experiment.cfg.model.size, experiment.device
    image = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)
    row = torch.zeros(1, dtype=torch.long, device=device)
    with evaluation_mode(experiment.model), experiment.autocast:
        return count_flops(lambda: experiment.model(image, experiment.text[row])) / 1e9

"""Cost of a model: parameters, and FLOPs of one evaluated image."""
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from util.evaluation.experiment import Experiment
from util.evaluation.predictor import evaluation_mode


def parameters(model: nn.Module) -> dict[str, int]:
    """Count trainable parameters and all, frozen ones included."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"trainable": sum(n for n, trains in sizes if trains), "total": sum(n for n, _ in sizes)}


def count_flops(call: Callable) -> int:
    """Count FLOPs, 2 a multiply-add, of matrix products, convolutions and attention, forward and backward."""
    # Unfused: the counter does not see into fused kernels, which differ between devices.
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"), \
            FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@torch.no_grad()
def gflops_per_image(experiment: Experiment) -> float:
    """Count the GFLOPs of evaluating one name in one image of the input's size, without the text encoder."""
    size, device = experiment.cfg.model.size, experiment.device
    image = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)
    row = torch.zeros(1, dtype=torch.long, device=device)
    with evaluation_mode(experiment.model), experiment.autocast:
        return count_flops(lambda: experiment.model(image, experiment.text[row])) / 1e9

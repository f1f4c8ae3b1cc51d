"""The optimiser and its schedule."""
import torch
from torch import nn


def make_optimizer(model: nn.Module, options) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that train. ``options``: config section ``train``."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, options.lr, momentum=options.momentum, weight_decay=options.weight_decay)
    return torch.optim.AdamW(parameters, options.lr, weight_decay=options.weight_decay)


def poly_rate(iteration: int, iterations: int, options) -> float:
    """The learning rate of ``iteration`` (from 0): linear warm-up times poly decay, lr (1 - i / n) ** power."""
    warm = min(1.0, (iteration + 1) / options.warmup) if options.warmup else 1.0
    return options.lr * warm * (1 - iteration / iterations) ** options.power


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate

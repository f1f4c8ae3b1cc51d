"""The optimiser and its schedule."""
import torch
from torch import nn

from util.training.muon import Muon

STATES = {torch.optim.SGD: {"momentum_buffer"}, Muon: {"momentum_buffer"},
          torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}}  # what each keeps of a parameter


class MuonAdamW:
    """Muon (Jordan 2024) for the matrices of transformer blocks, AdamW for everything else, as one optimiser."""

    def __init__(self, model: nn.Module, options):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if ".resblocks." in name and p.ndim == 2]
        rest = [p for name, p in named if not (".resblocks." in name and p.ndim == 2)]
        self.parts = [Muon(matrices, options.muon_lr, weight_decay=options.weight_decay),
                      torch.optim.AdamW(rest, options.lr, weight_decay=options.weight_decay, fused=True)]

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

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
    """SGD, AdamW or Muon with AdamW over the parameters that train. ``options``: config section ``train``."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if options.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, options.lr, momentum=options.momentum,
                                    weight_decay=options.weight_decay, fused=True)
    elif options.optimizer == "adamw":
        optimizer = torch.optim.AdamW(parameters, options.lr, weight_decay=options.weight_decay, fused=True)
    else:
        optimizer = MuonAdamW(model, options)
    for group in optimizer.param_groups:
        group["full_lr"] = group["lr"]  # what the schedule multiplies
    return optimizer


def restore_optimizer(optimizer, saved: dict) -> None:
    """Load what ``optimizer.state_dict()`` gave in a run with the same options.

    Raises ValueError, or what torch raises, for a state of another optimiser or of other shapes.
    """
    fresh = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for before, group in zip(fresh, optimizer.param_groups, strict=True):
        for key in before.keys() - {"params", "lr"}:
            if key in group and group[key] != before[key]:
                raise ValueError(f"{key}={group[key]!r} where this run has {before[key]!r}")
        group["full_lr"] = before["full_lr"]
    for part in getattr(optimizer, "parts", [optimizer]):
        for parameter, state in part.state.items():
            if state.keys() != STATES[type(part)]:
                raise ValueError(f"the state of a parameter holds {sorted(state)}")
            for key, value in state.items():
                if not torch.is_tensor(value) or value.shape != (() if key == "step" else parameter.shape):
                    raise ValueError(f"{key} is not of the shape of its parameter, {tuple(parameter.shape)}")
                if not value.isfinite().all():
                    raise ValueError(f"{key} holds values that are not finite")


def schedule(iteration: int, iterations: int, options) -> float:
    """Share of the learning rate in ``iteration`` (from 0): linear warm-up times poly decay, (1 - i / n) ** power."""
    warm = min(1.0, (iteration + 1) / options.warmup) if options.warmup else 1.0
    return warm * (1 - iteration / iterations) ** options.power


def set_share(optimizer, share: float) -> None:
    """Let every group learn at ``share`` of its full rate."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["full_lr"]

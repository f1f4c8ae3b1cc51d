"""An exponential moving average of the weights that train."""
import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Average:
    """The mean of a model's trained weights over its last steps. Each step weighs ``decay`` times the next one.

    The decay is smaller in the first steps, min(decay, (1 + t) / (10 + t)) in step t from 0 on, so that the weights of
    the start do not stay in it for long (TensorFlow's ExponentialMovingAverage). decay 0: the weights themselves.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad and decay}
        self.mean = [p.detach().clone() for p in self.trained.values()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step of the optimiser."""
        self.steps += 1
        if self.trained:
            decay = min(self.decay, self.steps / (9 + self.steps))
            torch._foreach_lerp_(self.mean, list(self.trained.values()), 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model's weights are the mean."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, parameter in zip(self.mean, self.trained.values()):
            kept = parameter.clone()
            parameter.copy_(mean)
            mean.copy_(kept)

    def weights(self) -> dict[str, Tensor]:
        """The mean under the weights' names; empty without an average."""
        return dict(zip(self.trained, self.mean))

    def state(self) -> dict:
        """What a run needs to go on besides the mean: the number of steps, and the weights after the last one."""
        return {"steps": self.steps, "last": {name: p.detach() for name, p in self.trained.items()}}

    @torch.no_grad()
    def restore(self, state: dict) -> None:
        """Go on where ``state`` was saved; the model holds the mean that was saved with it."""
        self.steps = int(state["steps"])
        for mean, (name, parameter) in zip(self.mean, self.trained.items()):
            mean.copy_(parameter)
            parameter.copy_(state["last"][name])

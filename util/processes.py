"""The processes that train together under torchrun, one a GPU; without torchrun there is one."""
import contextlib
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from util.stop import StopRequest


class Processes:
    """Who this process is among how many, and what they tell each other. All methods but the first are collective.

    rank: 0 .. count - 1; rank 0 writes and speaks for all.
    """

    def __init__(self, device: torch.device, stop: StopRequest | None = None):
        self.device, self.stop = device, stop
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self._wrapped: nn.Module | None = None
        if self.count > 1:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", device_id=device
                                    if device.type == "cuda" else None)

    def share(self, items: list) -> list:
        """This process's part of ``items``; those of all processes hold each item once."""
        return items[self.rank::self.count]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward averages gradients over the processes."""
        if self.count == 1:
            return model
        if self._wrapped is None:
            self._wrapped = DistributedDataParallel(model, broadcast_buffers=False)
        return self._wrapped

    def gradients_wait(self, wrapped: nn.Module, wait: bool):
        """Within it, gradients are kept and not yet averaged if ``wait``."""
        return wrapped.no_sync() if wait and self.count > 1 else contextlib.nullcontext()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of everyone's ``tensor``."""
        if self.count > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, item: Any) -> list:
        """Everyone's ``item``, by rank, for everyone."""
        if self.count == 1:
            return [item]
        items = [None] * self.count
        dist.all_gather_object(items, item)
        return items

    def agree(self, losses: Tensor) -> tuple[list[float], bool]:
        """The sums of everyone's losses, and whether anyone was asked to stop: all must end after the same step."""
        asked = bool(self.stop and self.stop.number)
        *sums, stop = self.sum(torch.cat([losses, losses.new_tensor([asked])])).tolist()
        return sums, stop > 0

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

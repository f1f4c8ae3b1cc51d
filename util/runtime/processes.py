"""The processes that train together, one a GPU, as torchrun starts them; usually there is one."""
import contextlib
import os
import signal
import threading
import time
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from util.runtime.stop import StopRequest

LONGEST = timedelta(hours=2)  # that one process waits for another; torchrun notices a lost one at once
GRACE = 300  # s for the step under way where torchrun itself is lost


class Processes:
    """Who this process is among how many, and what they tell each other.

    rank: 0 .. count - 1; rank 0 writes and speaks for all. All methods but ``share`` are collective: every process
    calls the same ones in the same order, and each of them waits for the rest.
    """

    def __init__(self, rank: int = 0, count: int = 1, stop: StopRequest | None = None):
        self.rank, self.count, self.stop = rank, count, stop
        self._wrapped: nn.Module | None = None

    @staticmethod
    def join(device: torch.device, stop: StopRequest | None = None) -> "Processes":
        """Meet the others as torchrun's variables say: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT."""
        rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if count > 1:
            threading.Thread(target=_stop_without, args=(os.getppid(),), daemon=True).start()
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=LONGEST)
        return Processes(rank, count, stop)

    def share(self, items: list) -> list:
        """This process's part of ``items``; those of all processes hold each item once."""
        return items[self.rank::self.count]

    def whole(self, part: list) -> list:
        """The list of which each process gives its ``share``, for everyone."""
        parts = self.gather(part)
        items = [None] * sum(map(len, parts))
        for rank, its_part in enumerate(parts):
            items[rank::self.count] = its_part
        return items

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward averages gradients over the processes."""
        if self.count == 1:
            return model
        if self._wrapped is None:
            # Convolutions may give gradients channels last. There are few, and copying them costs nothing.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view")
            self._wrapped = DistributedDataParallel(model)
        return self._wrapped

    def gradients_wait(self, wrapped: nn.Module, wait: bool):
        """A context in which gradients are kept and not averaged yet, if ``wait``."""
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

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.gather(None)

    @contextlib.contextmanager
    def one_first(self):
        """Rank 0 goes through the block before the others, which find on the disk what it has kept there."""
        if self.rank:
            self.wait()
        yield
        if not self.rank:
            self.wait()

    def agree(self, losses: Tensor) -> tuple[list[float], bool]:
        """The sums of everyone's losses, and whether anyone was asked to stop: all must end after the same step."""
        asked = bool(self.stop and self.stop.number)
        *sums, stop = self.sum(torch.cat([losses, losses.new_tensor([asked])])).tolist()
        return sums, stop > 0

    def close(self) -> None:
        """Leave the others. Only after success: a process that fails must not wait for them here."""
        if self.count > 1:
            dist.destroy_process_group()


def _stop_without(parent: int) -> None:
    """Stop as on SIGTERM once ``parent``, torchrun, has gone. Nothing else would end this process then."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


SINGLE_PROCESS = Processes()

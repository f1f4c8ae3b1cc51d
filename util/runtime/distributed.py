"""Distributed training: several processes, one a GPU, as torchrun starts them; usually there is one.

All functions but ``rank``, ``count`` and ``share`` are collective: every process calls the same ones in the same order,
and each waits for the rest.
"""
import contextlib
import os
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def started_by_torchrun() -> bool:
    """Tell whether torchrun has started this process. Some of its variables may be left over from another launcher."""
    return dist.is_torchelastic_launched() and all(
        os.environ.get(name, "").isdigit() for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))


def join(device: torch.device) -> None:
    """Join the process group, if torchrun has started several; torchrun ends all of them when one is lost."""
    if started_by_torchrun() and int(os.environ["WORLD_SIZE"]) > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def rank() -> int:
    """Return this process's rank, from 0; rank 0 writes and speaks for all."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(items: list) -> list:
    """Select this process's part of ``items``; those of all processes hold each item once."""
    return items[rank()::count()]


def gather(item: Any) -> list:
    """Gather everyone's ``item``, by rank, for everyone."""
    items = [item] * count()
    if dist.is_initialized():
        dist.all_gather_object(items, item)
    return items


def whole(part: list) -> list:
    """Merge the list of which each process gives its ``share``, for everyone."""
    parts = gather(part)
    items = [None] * sum(map(len, parts))
    for first, its_part in enumerate(parts):
        items[first::len(parts)] = its_part
    return items


def total(tensor: Tensor) -> Tensor:
    """Sum everyone's ``tensor``."""
    if dist.is_initialized():
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def wait() -> None:
    """Wait until all processes have come here."""
    gather(None)


@contextlib.contextmanager
def one_first():
    """Let rank 0 go through the block first; the others find on the disk what it has kept there."""
    if rank():
        wait()
    yield
    if not rank():
        wait()


def average_gradients(model: nn.Module) -> nn.Module | None:
    """Wrap the model in DistributedDataParallel; None with one process."""
    # Convolutions may give gradients channels last. There are few, and copying them costs nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view")
    return DistributedDataParallel(model) if dist.is_initialized() else None


def close() -> None:
    """Leave the process group. Only after success: a process that fails must not wait for the others here."""
    if dist.is_initialized():
        dist.destroy_process_group()

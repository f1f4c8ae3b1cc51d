"""Seconds, so taken that ratios hold on a machine that does other things too."""
import ctypes
import time
from collections.abc import Callable

import torch


def alternate(makes: dict[str, Callable[[], Callable]], rounds: int, device: torch.device,
              warm: bool = True) -> dict[str, list[float]]:
    """Seconds that what each of ``makes`` returns takes in each round; the making is not timed.

    A round runs all of them, one after the other, so that what disturbs one disturbs all. warm: each runs once before
    it is timed.
    """
    seconds = {name: [] for name in makes}
    for _ in range(rounds):
        for name, make in makes.items():
            call = make()
            give_back_memory()
            if warm:  # the system hands out memory page by page; a run has its own after the first step
                call()
            synchronise(device)
            start = time.perf_counter()
            call()
            synchronise(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def give_back_memory() -> None:
    """Return what the C library keeps of freed memory. Variants ask for pieces of different sizes, and kept ones would
    fit none of the others.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def synchronise(device: torch.device) -> None:
    """Wait for what was asked of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

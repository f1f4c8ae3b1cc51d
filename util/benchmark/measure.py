"""Time and memory of a piece of work, and the ceiling of the machine that does it."""
import os
import time
from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from util.runtime.device import set_tf32

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler tells stderr that it starts and stops
SIDES = {"cpu": 2048, "cuda": 8192}              # of matrices large enough for the full rate: 17 and 1,100 GFLOP


def seconds_of(call: Callable, device: torch.device) -> float:
    """Of one run. torch.utils.benchmark.Timer adds two runs to warm up each time: too long for a ViT on a CPU."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_bytes(call: Callable, state: list[Tensor], device: torch.device) -> int:
    """Bytes of ``state``, which stays between runs, and the most that torch's allocator gives out during one run."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        added = torch.cuda.max_memory_allocated(device) - before
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            call()
        events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
        added = max(accumulate((e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())), initial=0))
    return added + sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state}.values())


def ceiling(device: torch.device, precision: str, seconds: float) -> float:
    """FLOP/s of the fastest square matrix product within ``seconds``."""
    side, taken, end = SIDES[device.type], [], time.perf_counter() + seconds
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    set_tf32(device, precision)
    with torch.inference_mode():
        seconds_of(lambda: a @ a, device)
        while not taken or time.perf_counter() < end:
            taken.append(seconds_of(lambda: a @ a, device))
    return 2 * side ** 3 / min(taken)

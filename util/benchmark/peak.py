"""The most memory that a piece of work holds at once."""
import os
from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells stderr that it starts and stops


def bytes_of(tensors: list[Tensor]) -> int:
    """Of their storages, each once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def peak_bytes(do: Callable[[], object], variant, device: torch.device) -> int:
    """Bytes of what stays between two runs of ``do`` by ``variant``, and the most that a run adds to it.

    CUDA: torch.cuda.max_memory_allocated. CPU: what torch's allocator gives out and takes back, as its profiler reports
    it, which is the same measure; neither sees what libraries and the process itself need.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        do()
        torch.cuda.synchronize(device)
        added = torch.cuda.max_memory_allocated(device) - before
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            do()
        events = (e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]")
        added = max(accumulate((e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())), initial=0))
    return bytes_of(variant.state()) + added

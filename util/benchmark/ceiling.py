"""The rate of a large square matrix product, this machine's ceiling; and how many operations a piece of work takes."""
import contextlib
import time
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from util.benchmark.timing import synchronise
from util.runtime.device import allow_tf32

SIDES = {"cpu": 2048, "cuda": 8192}    # large enough for the full rate: 17 and 1,100 GFLOP


def ceiling(device: torch.device, precision: str, seconds: float) -> float:
    """FLOP/s of the fastest square matmul within some seconds; precision fp32, tf32 or bf16."""
    side = SIDES[device.type]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best, end = 0.0, None
    with multiplying_in(precision), torch.inference_mode():
        a @ b
        while end is None or time.perf_counter() < end:
            end = end or time.perf_counter() + seconds
            synchronise(device)
            start = time.perf_counter()
            a @ b
            synchronise(device)
            best = max(best, 2 * side ** 3 / (time.perf_counter() - start))
    return best


@contextlib.contextmanager
def multiplying_in(precision: str):
    """Whether fp32 products and convolutions may be done in TF32, as torch's global settings say it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    allow_tf32(precision == "tf32")
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def count_flops(do: Callable[[], object]) -> int:
    """Floating point operations of one run, 2 a multiply-add: matrix products, convolutions and attention, forward and
    backward. Attention is counted as plain products, as util/results/cost.py does and for its reason.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        do()
    return counter.get_total_flops()

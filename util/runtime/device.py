"""Device and precision of the computation."""
import contextlib
import os
import platform
import random

import numpy as np
import torch

from util.runtime import distributed
from util.runtime.errors import UserError


def pick_device(wish: str) -> torch.device:
    """Choose the device (auto: CUDA, else the CPU), a GPU a process. Raises UserError for one that is not there."""
    mine = os.environ if distributed.started_by_torchrun() else {}
    rank, count = int(mine.get("LOCAL_RANK", 0)), int(mine.get("LOCAL_WORLD_SIZE", 1))
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    if count > 1 and wish == "cuda":
        wish = f"cuda:{rank}"
    try:
        if wish not in ("cpu", "cpu:0") and wish.partition(":")[0] != "cuda":
            raise ValueError("only cpu, cuda, cuda:1 and so on compute here")
        device = torch.device(wish)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"device={wish}: {str(error).splitlines()[0]}; use device=cpu or device=auto") from None
    return device


def autocast(device: torch.device, precision: str):
    """Return the autocast context of ``precision`` (fp32, tf32, bf16 or auto) on ``device``."""
    if computes_in_bf16(device, precision):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def computes_in_bf16(device: torch.device, precision: str) -> bool:
    """Tell whether ``autocast`` of the same arguments computes in bf16."""
    return precision == "bf16" or precision == "auto" and _fast_bf16(device)


def set_tf32(device: torch.device, precision: str) -> None:
    """Allow TF32 for tf32, else forbid it: convolutions have it by default. Raises UserError for tf32 on a CPU."""
    if precision == "tf32" and device.type != "cuda":
        raise UserError("precision=tf32: only CUDA has it; use precision=fp32, or auto for bf16 where that is fast")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    try:  # on a CPU bf16 pays only if its units multiply in bf16
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            return any(line.startswith("flags") and ("avx512_bf16" in line or "amx_bf16" in line) for line in info)
    except OSError:
        return False


def place(model: torch.nn.Module, cfg, device: torch.device) -> torch.nn.Module:
    """Move ``model`` to ``device``, blocks computed as ``cfg`` says (precision, compile, train.checkpoint_blocks)."""
    if computes_in_bf16(device, cfg.precision):
        model.cast_frozen(torch.bfloat16)
    if cfg.train.checkpoint_blocks:
        model.recompute_blocks()
    if cfg.compile:
        model.compile_blocks()
    return model.to(device)


def make_deterministic(seed: int) -> None:
    """Seed every generator and choose deterministic operations; torch warns where CUDA has none (fused attention)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch's condition for deterministic cuBLAS
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import Inductor, for a second
    torch.backends.cudnn.benchmark = False


def describe(device: torch.device, precision: str) -> str:
    """Describe device, precision and versions in one line for logs and results."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else (
        f"{platform.machine()} CPU, {torch.get_num_threads()} threads")
    words = "bf16 autocast" if computes_in_bf16(device, precision) else "tf32" if precision == "tf32" else "fp32"
    if distributed.count() > 1:
        name = f"{distributed.count()} processes, each on {name}"
    return f"{name}, {words}, torch {torch.__version__}, Python {platform.python_version()}"

"""Where and in which precision the computation runs."""
import contextlib
import os
import platform
import random
import shutil

import numpy as np
import torch

from util.runtime.errors import UserError


def pick_device(wish: str) -> torch.device:
    """``auto`` is CUDA where there is a GPU, else the CPU. Raises UserError for a device that is not there.

    Of several processes on a machine each gets a GPU of its own.
    """
    rank, count = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    if count > 1 and wish.startswith("cuda"):
        if wish != "cuda" or torch.cuda.device_count() < count:
            raise UserError(f"device={wish}: {count} processes want a GPU each, and there are "
                            f"{torch.cuda.device_count()}; use device=cuda with one process a GPU, or device=cpu")
        wish = f"cuda:{rank}"
    try:
        device = torch.device(wish)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"device={wish}: {first}; use device=cpu or device=auto") from None
    return device


def autocast(device: torch.device, precision: str):
    """The autocast context of ``precision`` (fp32, tf32, bf16 or auto) on ``device``."""
    if computes_in_bf16(device, precision):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def computes_in_bf16(device: torch.device, precision: str) -> bool:
    """Whether ``autocast`` of the same arguments computes in bf16."""
    return precision == "bf16" or precision == "auto" and _fast_bf16(device)


def set_tf32(device: torch.device, precision: str) -> None:
    """Allow a GPU to multiply fp32 numbers in TF32 (10 bits of mantissa instead of 23) if ``precision`` asks for it.

    Otherwise forbid it: torch allows it in convolutions by default. Raises UserError for tf32 on a CPU.
    """
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
    """``model`` on ``device``, its blocks computed as ``cfg`` says (precision, compile, train.checkpoint_blocks).

    Raises UserError if torch.compile would find no C++ compiler.
    """
    if hasattr(model, "cast_frozen"):  # no baseline
        if computes_in_bf16(device, cfg.precision):
            model.cast_frozen(torch.bfloat16)
        if cfg.train.checkpoint_blocks:
            model.recompute_blocks()
        if cfg.compile:
            compiler = os.environ.get("CXX", "g++")
            if shutil.which(compiler) is None:
                raise UserError(f"compile=true needs a C++ compiler, and there is no {compiler}; install one or leave "
                                f"compile away")
            model.compile_blocks()
    return model.to(device)


def make_deterministic(seed: int) -> None:
    """Seed every generator, and take operations that do not depend on the order in which threads finish.

    On CUDA there is none for the gradient of fused attention; torch warns of that.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch's condition for deterministic cuBLAS
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import Inductor, for a second
    torch.backends.cudnn.benchmark = False


def describe(device: torch.device, precision: str, processes: int = 1) -> str:
    """What this runs on, in one line for logs and results."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else (
        f"{platform.machine()} CPU, {torch.get_num_threads()} threads")
    words = "bf16 autocast" if computes_in_bf16(device, precision) else "tf32" if precision == "tf32" else "fp32"
    name = f"{processes} processes, each on {name}" if processes > 1 else name
    return f"{name}, {words}, torch {torch.__version__}, Python {platform.python_version()}"

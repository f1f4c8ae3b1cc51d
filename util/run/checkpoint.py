"""Tensors and plain values in files that are whole or absent, read back without running any code in them."""
import io
from pathlib import Path

import safetensors.torch
import torch

from util.run.atomic import IN_A_RUN, write_bytes_atomically
from util.runtime.errors import UserError, require_file


def write_atomically(path: str | Path, content: dict, remedy: str = IN_A_RUN) -> None:
    """``torch.save`` of tensors and plain values, atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes_atomically(path, buffer.getbuffer(), remedy)


def write_safetensors_atomically(path: str | Path, tensors: dict, metadata: dict[str, str], remedy: str) -> None:
    """A safetensors file, atomically."""
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    write_bytes_atomically(path, safetensors.torch.save(own, metadata), remedy)  # which takes no views


def read(path: str | Path, remedy: str) -> dict:
    """Read what the two above wrote, tensors on the CPU; safetensors come as {"tensors": ..., "metadata": ...}.

    Nothing is unpickled that could run code.
    """
    path = require_file(path, remedy)
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                return {"tensors": {name: file.get_tensor(name) for name in file.keys()},
                        "metadata": file.metadata() or {}}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise UserError(f"{path}: not a checkpoint of this project ({type(error).__name__}); {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint; {remedy}")
    return content


def restore(model: torch.nn.Module, saved: dict, path: str | Path, clip: str) -> None:
    """Put the trained weights of a checkpoint of train.py into ``model``; the frozen rest is CLIP's.

    Raises UserError where the checkpoint was trained on other CLIP weights than those of fingerprint ``clip``, and,
    naming the first differences, where it is of another architecture.
    """
    if saved["clip"] != clip:
        raise UserError(f"{path}: was trained on other CLIP weights than these; set model.clip to the file of that run")
    state, own = saved["model"], model.trainable_state()
    problems = {"it lacks": sorted(own.keys() - state.keys()), "it also holds": sorted(state.keys() - own.keys()),
                "of another shape:": sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)}
    found = "; ".join(f"{what} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
                      for what, names in problems.items() if names)
    if found:
        raise UserError(f"{path}: a checkpoint of another architecture ({found}); use the config it was trained with, "
                        f"config.yaml in its run's folder")
    model.load_state_dict(state, strict=False)

"""Tensors and plain values in files that are whole or absent, read back without running any code in them."""
import io
import json
import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from util.run.atomic import IN_A_RUN, write_bytes_atomically
from util.runtime.errors import UserError, require_file

WEIGHTS = {"model": dict, "epoch": int, "clip": str, "config": dict}  # entries of every checkpoint of train.py ...
STATE = {"optimizer": dict, "at": dict, "best": dict, "last_scores": (dict, type(None)), "seconds": (int, float),
         "rng": Tensor, "cuda_rng": (Tensor, type(None))}             # ... and those that last.pt has besides


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
        foreign = re.search(r"GLOBAL (\S+)", str(error))  # as torch names what it does not load
        reason = f"it holds a {foreign[1]}, which could run code" if foreign else type(error).__name__
        raise UserError(f"{path}: not a checkpoint of this project ({reason}); {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint; {remedy}")
    return content


def require_entries(saved: dict, entries: dict, path: str | Path, remedy: str) -> None:
    """Raise UserError for the first of ``entries``, {name: type or types}, that is missing or of another type."""
    for name, types in entries.items():
        odd = f"it lacks {name!r}" if name not in saved else f"its {name!r} is a {type(saved[name]).__name__}"
        if name not in saved or not isinstance(saved[name], types) or isinstance(saved[name], bool):
            raise UserError(f"{path}: not a checkpoint of train.py ({odd}); {remedy}")
    for name in ("config", "trained_on"):  # which results.json repeats
        try:
            json.dumps(saved.get(name))
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a checkpoint of train.py (its {name!r} holds more than plain values: "
                            f"{error}); {remedy}") from None


def restore(model: torch.nn.Module, saved: dict, path: str | Path, clip: str) -> None:
    """Put the trained weights of a checkpoint of train.py into ``model``; the frozen rest is CLIP's.

    Raises UserError where the checkpoint was trained on other CLIP weights than those of fingerprint ``clip``, where
    it is of another architecture, naming the first differences, and where a weight is not finite.
    """
    if saved["clip"] != clip:
        raise UserError(f"{path}: was trained on other CLIP weights than these; set model.clip to the file of that run"
                        + ", and model.activation" * (saved["clip"].split("+")[0] == clip.split("+")[0]))
    state, own = saved["model"], model.trainable_state()
    here, there = {k for k in own if k in state}, set(map(str, state))
    odd = sorted(k for k in here if not isinstance(state[k], Tensor) or not state[k].is_floating_point()
                 or state[k].layout != torch.strided or state[k].is_meta)
    problems = {"it lacks": sorted(own.keys() - here), "it also holds": sorted(there - own.keys()),
                "no weights in": odd,
                "of another shape:": sorted(k for k in here - set(odd) if own[k].shape != state[k].shape)}
    found = "; ".join(f"{what} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
                      for what, names in problems.items() if names)
    if found:
        raise UserError(f"{path}: a checkpoint of another architecture ({found}); use the config it was trained with, "
                        f"config.yaml in its run's folder")
    broken = [name for name in own if not state[name].float().isfinite().all()]
    if broken:
        raise UserError(f"{path}: {broken[0]} holds values that are not finite (NaN or infinity), as after training "
                        f"that diverged; use an earlier checkpoint, or train again with a lower train.lr or with "
                        f"train.clip_grad")
    model.load_state_dict(state, strict=False)

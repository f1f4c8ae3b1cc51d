"""Files that are either whole or absent, and read back without running any code in them."""
import io
import os
from pathlib import Path

import torch

from util.errors import UserError, require_file


def write_bytes_atomically(path: str | Path, data: bytes) -> None:
    """Write beside ``path`` and rename over it, so that a reader finds the old file or the new, never half of one.

    Raises UserError where the disk is full or not writable; what was at ``path`` is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass
        raise UserError(f"{path}: could not be written ({error.strerror}); what was there before is intact; "
                        f"free some space or choose another place with exp=, then go on with resume=") from None


def write_atomically(path: str | Path, content: dict) -> None:
    """``torch.save`` of tensors and plain values, atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes_atomically(path, buffer.getbuffer())


def read(path: str | Path, remedy: str) -> dict:
    """Read what :func:`write_atomically` wrote, tensors on the CPU. Nothing is unpickled that could run code."""
    path = require_file(path, remedy)
    try:
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

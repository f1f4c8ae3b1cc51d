"""Checkpoints: what train.py saves, and the same from the other two forms in which trained weights come.

    .pt             checkpoints/best.pt and last.pt of a run: torch.save of tensors and plain values
    .safetensors    the trained tensors of one of these alone, to hand on (convert.py)
    .pth, .pt       of ESDA's authors, with CLIP in it (model/clip/formats.py); never written

Nothing is unpickled that could run code. CLIP's frozen weights stay in their own file, known by a fingerprint.
"""
import io
import json
from pathlib import Path

import safetensors.torch
import torch

from model.clip.formats import from_released, plain_state
from model.clip.weights import differences
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import UserError, require_file

VERSION = 2     # 1: ESDA+ asked CLIP's patches for presence, so a threshold of then is one of another logit
FORMS = "give checkpoints/best.pt of a run, a .safetensors of convert.py or a released checkpoint"
ABOUT = ("epoch", "clip", "config", "trained_on", "presence_threshold")  # beside the tensors


def save(path: str | Path, checkpoint: dict) -> None:
    """Save a run's checkpoint, as ``load`` returns it and with whatever else ``resume=`` needs, atomically."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **checkpoint}, buffer)
    write_bytes_atomically(path, buffer.getbuffer())


def save_trained(path: str | Path, checkpoint: dict, half: bool) -> None:
    """Save the trained tensors and what is known of them as safetensors, atomically; half: fp16 instead of fp32."""
    dtype = torch.float16 if half else torch.float32
    tensors = {name: (tensor if name == "rivals" else tensor.to(dtype)).contiguous()  # CLIP's own, not trained
               for name, tensor in checkpoint["model"].items()}
    about = json.dumps({entry: checkpoint[entry] for entry in ABOUT})
    write_bytes_atomically(path, safetensors.torch.save(tensors, {"version": str(VERSION), "about": about}))


def load(path: str | Path) -> dict:
    """Load a checkpoint of any form, tensors on the CPU.

    Returns model (state_dict of the trained tensors), epoch (from 0), clip (fingerprint of the CLIP they were trained
    on; None: of the one in this file, for ``read_clip``), config (options as plain values; None if released),
    trained_on (as util/run/origin.py; None: unknown), presence_threshold (a logit; None: not calibrated); last.pt: also
    what resume= needs. Raises UserError for a file that is missing, of another kind or of another version of train.py.
    """
    path = require_file(path, FORMS)
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                saved = {"model": {name: file.get_tensor(name) for name in file.keys()},
                         "version": int(metadata["version"]), **json.loads(metadata["about"])}
        else:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if "version" not in saved:
                saved = {"version": VERSION, "model": from_released(plain_state(saved))[1], "epoch": saved["epoch"]}
        version = saved.get("version")
        if version == 1:
            version = saved["version"] = VERSION
            saved["presence_threshold"] = None
    except Exception as error:  # torch and safetensors raise many kinds for a file that is not theirs
        raise UserError(f"{path}: not a checkpoint ({type(error).__name__}); {FORMS}") from None
    if version != VERSION:
        raise UserError(f"{path}: not a checkpoint of this version of train.py (version {version} instead of "
                        f"{VERSION}); {FORMS}")
    return {**dict.fromkeys(ABOUT), **saved}


def restore(model: torch.nn.Module, checkpoint: dict, path: str | Path, clip: str) -> None:
    """Load the trained state_dict, strictly; clip: fingerprint. Raises UserError for another CLIP or architecture."""
    if checkpoint["clip"] not in (None, clip):
        options = checkpoint["config"]["model"]
        raise UserError(f"{path}: was trained on other CLIP weights than these; set model.clip to the file of that "
                        f"run, then {options['clip']}, and model.activation={options['activation']} as there")
    own, found = ({name: tensor for name, tensor in state.items() if name != "rivals"}  # of which there may be others
                  for state in (model.trainable_state(), checkpoint["model"]))
    if problems := differences(own, found) if own else "they train nothing":
        raise UserError(f"{path}: of another architecture than these options say ({problems}); use the config it was "
                        f"trained with, config.yaml in its run's folder")
    model.load_state_dict(checkpoint["model"], strict=False)

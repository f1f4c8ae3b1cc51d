"""A checkpoint to hand on: the trained tensors alone, as safetensors. CLIP stays in its own file."""
import json
import math

import torch
from torch import Tensor

from model.clip.weights import fingerprint_of
from util.runtime.errors import UserError

HOLDS = "trained tensors"   # metadata ``holds``, which tells these files from those that carry CLIP along
ABSENT = "presence_threshold"   # a checkpoint may have it


def trained_content(saved: dict, path, half: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of such a file from ``saved``, a checkpoint of train.py that restores into its model.

    half: fp16 instead of fp32. Raises UserError where a value does not fit into fp16.
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {name: tensor.to(dtype) for name, tensor in saved["model"].items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: {name} holds values beyond {torch.finfo(dtype).max:g}, too large for --half; "
                            f"leave it away")
    metadata = {"holds": HOLDS, "epoch": str(saved["epoch"]), "config": json.dumps(saved["config"]),
                "trained_on": json.dumps(saved.get("trained_on")), "fingerprint": saved["clip"],
                "values": fingerprint_of(tensors)}
    return tensors, metadata | ({ABSENT: json.dumps(saved[ABSENT])} if ABSENT in saved else {})


def trained_checkpoint(content: dict, path) -> dict | None:
    """``content``, a file as util/run/checkpoint.py read it, in the form of train.py's checkpoints; None where it is
    no such file. Raises UserError where its metadata is odd or its values are not those that were written.
    """
    metadata = content.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("holds") != HOLDS:
        return None
    remedy = "convert the run's checkpoint again with convert.py --trained-only"
    try:
        trained_on = json.loads(metadata["trained_on"])
        saved = {"model": content["tensors"], "epoch": int(metadata["epoch"]), "clip": metadata["fingerprint"],
                 "config": json.loads(metadata["config"]), **({"trained_on": trained_on} if trained_on else {}),
                 **({ABSENT: json.loads(metadata[ABSENT])} if ABSENT in metadata else {})}
        values = metadata["values"]
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not written by convert.py: its metadata lacks {error}; {remedy}") from None
    if fingerprint_of(saved["model"]) != values:
        raise UserError(f"{path}: damaged: its tensors are not those that were written; {remedy}")
    return saved


def require_threshold(saved: dict, path) -> None:
    """Raise UserError where a checkpoint has a threshold of presence that is no finite number."""
    threshold = saved.get(ABSENT, 0.0)
    if not isinstance(threshold, int | float) or isinstance(threshold, bool) or not math.isfinite(threshold):
        raise UserError(f"{path}: not a checkpoint of train.py (its '{ABSENT}' is {threshold!r}, no finite number)")


def threshold_in(saved: dict) -> float | None:
    """The threshold of presence that a checkpoint holds; None: it holds none, or one of another presence.

    ESDA+ learned to ask CLIP for presence when model.decoder_channels became an option. A threshold from before would
    let every name pass.
    """
    options = (saved["config"] or {}).get("model", {})
    before = isinstance(options, dict) and options.get("presence_head") and "decoder_channels" not in options
    return None if before or ABSENT not in saved else float(saved[ABSENT])

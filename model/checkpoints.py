"""Checkpoints that carry CLIP along, read as one thing: the authors' released format, and ours in safetensors.

The released module tree is another cut of the same model: what it calls the decoder is our interactor and mask decoder.
"""
import json
import re
from typing import NamedTuple

import torch
from torch import Tensor

from model.clip.text_encoder import TextEncoder
from model.clip.weights import (
    NOT_OF_ONE_MODEL,
    ClipWeights,
    WeightsError,
    differences,
    fingerprint_of,
    require_weights,
    text_sizes,
    vision_sizes,
)
from model.esda import ESDA
from model.image_encoder import ImageEncoder, LowRankBranch
from model.interactor import Interactor
from model.mask_decoder import MaskDecoder

ADDED = ("image_encoder.text_proj.", "image_encoder.branches.", "interactor.", "decoder.")  # to CLIP, by ESDA
PARTS = (  # (ours, theirs); where both start a name, the longer comes first
    ("image_encoder.text_proj.", "image_encoder.text_cls_proj."),
    ("image_encoder.", "image_encoder."),                 # CLIP's `visual.` names
    ("text_encoder.", "text_encoder."),                   # CLIP's other names
    ("interactor.cls_proj.", "decoder.text_embedding_proj."),    # theirs serves cls and tokens: both are D wide there
    ("interactor.fuse_proj.", "decoder.text_img_concat_proj."),
    ("interactor.vl.", "decoder.VL_interaction."),
    ("interactor.iee.", "decoder.IEE."),
    ("interactor.sse.", "decoder.SSE."),
    ("decoder.res.", "decoder.res2."),
    ("decoder.cls.", "decoder.cls."),
)


class FullCheckpoint(NamedTuple):
    """All of an ESDA's state dict.

    state: under our names, values and types as in the file. The image position embedding is at the training grid.
    epoch: the one that was saved, as its file counts. config: the options of its run as plain values; None: not known.
    trained_on: what it was trained on, as checkpoints of train.py have it; None: not known.
    activation: of CLIP's blocks; released checkpoints stand on OpenAI's CLIP.
    """
    state: dict[str, Tensor]
    epoch: int
    config: dict | None
    trained_on: dict | None = None
    activation: str = "quickgelu"

    @property
    def trained(self) -> dict[str, Tensor]:
        """What training changed, as ESDA.trainable_state."""
        return {name: tensor for name, tensor in self.state.items() if name.startswith(ADDED)}

    @property
    def saved(self) -> dict:
        """In the form of train.py's checkpoints: what was trained, and on which CLIP."""
        return {"model": self.trained, "clip": self.clip.fingerprint, "epoch": self.epoch, "config": self.config,
                **({"trained_on": self.trained_on} if self.trained_on else {})}

    @property
    def clip(self) -> ClipWeights:
        """The CLIP it carries. Its fingerprint is of the tensors carried, and differs from that of CLIP's own file."""
        frozen = {name: tensor for name, tensor in self.state.items() if not name.startswith(ADDED)}
        visual, text = ({name.removeprefix(prefix): tensor.float() for name, tensor in frozen.items()
                         if name.startswith(prefix)} for prefix in ("image_encoder.", "text_encoder."))
        return ClipWeights(visual, text, None, fingerprint_of(frozen), self.activation).with_activation("auto", "")

    def summary(self, size: int | None = None) -> str:
        """One line on what there is, and on what an input of ``size`` px makes of the position embedding."""
        side, patch, *_ = vision_sizes(self.state, "image_encoder.")
        grid = side // patch
        line = (f"{len(self.state)} tensors, {len(self.trained)} trained and {len(self.state) - len(self.trained)} of "
                f"CLIP, all placed; image position embedding at {grid} x {grid} patches")
        return line if size in (None, side) else f"{line}, resized to {size // patch} x {size // patch}"


def full_checkpoint(content: dict, path) -> FullCheckpoint | None:
    """The content of ``path``, as util/run/checkpoint.py read it; None where it is of neither format.

    Raises WeightsError that names every tensor which is missing, superfluous, of another shape or not finite.
    """
    if content.keys() == {"tensors", "metadata"}:
        return _from_safetensors(content["tensors"], content["metadata"], path)
    if "state_dict" not in content:
        return None
    state = content["state_dict"]
    if not isinstance(content.get("epoch"), int) or not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()):
        raise WeightsError(f"{path}: not a released checkpoint, which holds an epoch and a state_dict of tensors")
    require_weights(state, path)
    return FullCheckpoint(from_released(state, path), content["epoch"], None)


def safetensors_content(full: FullCheckpoint, path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of our format. Raises WeightsError for a model of other parts than the described ones."""
    _require_esda(_described(full.state, path), full.state, path)
    return full.state, {"epoch": str(full.epoch), "config": json.dumps(full.config),
                        "trained_on": json.dumps(full.trained_on), "fingerprint": full.clip.fingerprint,
                        "activation": full.activation}


def released_content(full: FullCheckpoint, path) -> dict:
    """What torch.save makes a released checkpoint of. The optimiser's state has not been kept."""
    if full.activation != "quickgelu":
        raise WeightsError(f"{path}: the released format has no place for model.activation={full.activation}")
    return {"epoch": full.epoch, "state_dict": to_released(full.state, path), "optimizer": {}}


def _from_safetensors(state: dict[str, Tensor], metadata: dict[str, str], path) -> FullCheckpoint:
    require_weights(state, path)
    _require_esda(_described(state, path), state, path)
    try:
        full = FullCheckpoint(state, int(metadata["epoch"]), json.loads(metadata["config"]),
                              json.loads(metadata.get("trained_on", "null")),
                              metadata.get("activation", "quickgelu"))  # the first files could have no other
        known = metadata["fingerprint"]
        if not isinstance(full.config, dict | None) or full.config is not None and not full.config.keys() >= {
                "dataset", "fold", "model"}:
            raise ValueError("the options of its run")
    except (KeyError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not written by convert.py: its metadata lacks {error}") from None
    if full.clip.fingerprint != known:
        raise WeightsError(f"{path}: CLIP's tensors do not have the fingerprint that the file states; convert again")
    return full


def released_name(name: str) -> str | None:
    """Our name to theirs; None where their format has no place for it."""
    branch = re.fullmatch(r"image_encoder\.branches\.(\d+)\.(down|up)", name)
    if branch:  # theirs is one list: A of block 0, B of block 0, A of block 1, ...
        return f"image_encoder.prompt.{2 * int(branch[1]) + (branch[2] == 'up')}"
    return next((theirs + name[len(ours):] for ours, theirs in PARTS if name.startswith(ours)), None)


def our_name(name: str) -> str | None:
    """Their name to ours; None where it starts like none of theirs."""
    prompt = re.fullmatch(r"image_encoder\.prompt\.(\d+)", name)
    if prompt:
        block, second = divmod(int(prompt[1]), 2)
        return f"image_encoder.branches.{block}.{'up' if second else 'down'}"
    return next((ours + name[len(theirs):] for ours, theirs in PARTS if name.startswith(theirs)), None)


def from_released(state: dict[str, Tensor], where) -> dict[str, Tensor]:
    """A released state dict under our names, the tensors as they are. Its names may start with ``module.``.

    Raises WeightsError as :func:`full_checkpoint` does.
    """
    if all(name.startswith("module.") for name in state):  # of DataParallel
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    ours = {our_name(name): tensor for name, tensor in state.items()}
    expected = _described(ours, where, every_block=True)
    _require_esda({released_name(name): tensor for name, tensor in expected.items()}, state, where)
    return ours


def to_released(state: dict[str, Tensor], where) -> dict[str, Tensor]:
    """The inverse of :func:`from_released`; raises WeightsError for a model that the released format cannot hold."""
    foreign = sorted(name for name in state if released_name(name) is None)
    if foreign:
        raise WeightsError(f"{where}: the released format has no place for {', '.join(foreign)}; its one Linear serves "
                           f"the text's cls and tokens, which here differ in width")
    out = {released_name(name): tensor for name, tensor in state.items()}
    from_released(out, where)  # which rejects a model with branches at some blocks only
    return out


def _require_esda(expected: dict[str, Tensor], state: dict[str, Tensor], where) -> None:
    found = differences(expected, state)
    if found:
        raise WeightsError(f"{where}: not the tensors of one ESDA: {found}")


def _described(state: dict[str | None, Tensor], where, every_block: bool = False) -> dict[str, Tensor]:
    """The state dict, without values, of the ESDA whose sizes the tensors of ``state`` (our names) tell.

    every_block: a branch beside one block means one beside each.
    """
    visual, text, interactor = ({name.removeprefix(prefix): tensor for name, tensor in state.items()
                                 if name and name.startswith(prefix)}
                                for prefix in ("image_encoder.", "text_encoder.", "interactor."))
    down = {int(name.split(".")[1]): tensor for name, tensor in visual.items()
            if re.fullmatch(r"branches\.\d+\.down", name)}
    layers = {name.split(".")[1] for name in interactor if name.startswith("vl.")}
    try:
        sizes, of_text = vision_sizes(visual), text_sizes(text)
        _, _, width, blocks, heads, embed_dim = sizes
        branches = range(blocks) if down and every_block else [block for block in down if block < blocks]
        rank = next(iter(down.values())).shape[1] if down else 0
        with torch.device("meta"):  # shapes only
            image_encoder = ImageEncoder(*sizes, replace_indices=(), branch=lambda width: LowRankBranch(width, rank),
                                         branch_indices=branches)
            model = ESDA(TextEncoder(*of_text, embed_dim), image_encoder,
                         Interactor(width, heads, embed_dim, of_text[2], len(layers),
                                    text_tokens="token_proj.weight" in interactor),
                         MaskDecoder(width), [0.0] * 3, [1.0] * 3)
    except NOT_OF_ONE_MODEL as error:
        raise WeightsError(f"{where}: not the tensors of one ESDA: missing or odd {error}") from None
    return model.state_dict()

"""CLIP's weights from any file of model/clip/formats.py, and the encoders built from them."""
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model.clip.clip import CLIP
from model.clip.errors import WeightsError
from model.clip.formats import BUFFERS, read_state
from model.clip.source import how_to_fetch
from model.clip.text_encoder import TextEncoder
from model.clip.vision_transformer import VisionTransformer, resize_position_embedding

NOT_WEIGHTS = (*BUFFERS, "attn_mask", "position_ids")  # the last two some exports carry and the code remakes
HEAD_WIDTH = 64  # in all of OpenAI's encoders (OpenAI CLIP, build_model) and in every text encoder of OpenCLIP
SHOWN = 4  # names in one message


class ClipWeights(NamedTuple):
    """CLIP's state_dict under OpenAI's names, fp32."""
    visual: dict[str, Tensor]           # without the prefix "visual."
    text: dict[str, Tensor]
    logit_scale: Tensor
    fingerprint: str                    # SHA-256 of the values, with another ending where the activation is GELU
    activation: str = "quickgelu"       # of the blocks' MLPs, a name in ACTIVATIONS


def read_clip(path: str | Path, activation: str = "auto") -> ClipWeights:
    """Read CLIP's weights. activation: option ``model.activation``; "auto": as told by the file or one beside it.

    Raises WeightsError if the file is missing (with the download command), of no known kind or holds other objects than
    tensors; for missing, superfluous or misshapen tensors (each named); and for an unknown activation.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: CLIP's weights are not there; {how_to_fetch(path)}")
    try:
        state, told = read_state(path)
        state = {name: tensor for name, tensor in state.items() if name.split(".")[-1] not in NOT_WEIGHTS}
        visual = {name.removeprefix("visual."): t for name, t in state.items() if name.startswith("visual.")}
        with torch.device("meta"):  # shapes only
            clip = CLIP(VisionTransformer(*vision_sizes(visual)), TextEncoder(*text_sizes(state)))
        found = differences({k: t for k, t in clip.state_dict_openai().items() if k not in BUFFERS}, state)
        if found:
            raise ValueError(found)
    except Exception as error:  # torch, safetensors and pickle raise many kinds for a file that is not their own
        reason = (str(error).splitlines() or [""])[0].split(". ")[0]  # torch goes on with unsafe advice
        raise WeightsError(f"{path}: not the weights of a CLIP with a vision transformer ({type(error).__name__}: "
                           f"{reason}); `python -m data.prepare clip` fetches OpenAI's") from None
    activation = told if activation == "auto" else activation
    if activation is None:
        raise WeightsError(f"{path}: the file does not tell the activation that its CLIP was trained with; set "
                           f"model.activation=quickgelu (OpenAI's weights) or =gelu (most of OpenCLIP's)")
    visual = {name: tensor.float() for name, tensor in visual.items()}
    text = {name: t.float() for name, t in state.items() if not name.startswith("visual.") and name != "logit_scale"}
    fingerprint = fingerprint_of(state) + "+gelu" * (activation == "gelu")
    return ClipWeights(visual, text, state["logit_scale"].float(), fingerprint, activation)


def differences(expected: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """Name missing, superfluous and misshapen tensors; "" if there are none."""
    problems = {"missing": expected.keys() - state.keys(), "superfluous": state.keys() - expected.keys(),
                "of another shape": {name for name in expected.keys() & state.keys()
                                     if expected[name].shape != state[name].shape}}
    return "; ".join(f"{what}: {', '.join(sorted(names)[:SHOWN])}" + " ..." * (len(names) > SHOWN)
                     for what, names in problems.items() if names)


def fingerprint_of(state: dict[str, Tensor]) -> str:
    """Hash names and fp16 values by SHA-256, the same for every file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].half().contiguous().view(torch.uint8).numpy() if state[name].ndim
                      else str(state[name].half().item()).encode())
    return digest.hexdigest()


def vision_sizes(state: dict[str, Tensor]) -> tuple[int, ...]:
    """Infer VisionTransformer's arguments from its tensors; side: the one it was trained at."""
    width, _, patch, _ = state["conv1.weight"].shape
    grid = round((len(state["positional_embedding"]) - 1) ** 0.5)
    heads = 16 if width == 1280 else width // HEAD_WIDTH  # OpenCLIP's ViT-H/14 has heads 80 wide (ViT-H-14.json)
    return grid * patch, patch, width, depth(state), heads, state["proj"].shape[1]


def text_sizes(state: dict[str, Tensor]) -> tuple[int, ...]:
    """Infer TextEncoder's arguments from its tensors."""
    vocabulary, width = state["token_embedding.weight"].shape
    return (vocabulary, len(state["positional_embedding"]), width, depth(state), width // HEAD_WIDTH,
            state["text_projection"].shape[1])


def depth(state: dict[str, Tensor]) -> int:
    """Count the blocks of a tower."""
    return len({name.split(".")[2] for name in state if re.match(r"transformer\.resblocks\.", name)})


def build_vision(weights: ClipWeights, side: int | None = None, cls=VisionTransformer, **options):
    """Build the image encoder, position embedding resized to ``side`` px (None: as trained).

    cls: VisionTransformer or a subclass, which gets ``options`` and may add parameters. Raises WeightsError if ``side``
    is no multiple of the patch.
    """
    trained_at, patch, *sizes = vision_sizes(weights.visual)
    side = side or trained_at
    if side % patch:
        raise WeightsError(f"model.size={side} is not a multiple of the image encoder's patch of {patch} px; the "
                           f"nearest below is {side - side % patch}")
    encoder = cls(side, patch, *sizes, activation=weights.activation, **options)
    positions = resize_position_embedding(weights.visual["positional_embedding"], side // patch)
    encoder.load_state_dict({**weights.visual, "positional_embedding": positions}, strict=False)
    return encoder


def build_text(weights: ClipWeights) -> TextEncoder:
    """Build the text encoder."""
    encoder = TextEncoder(*text_sizes(weights.text), weights.activation)
    encoder.load_state_dict(weights.text)
    return encoder


def build_clip(weights: ClipWeights, side: int | None = None) -> CLIP:
    """Build both encoders and the temperature."""
    clip = CLIP(build_vision(weights, side), build_text(weights))
    clip.logit_scale.data.copy_(weights.logit_scale)
    return clip

"""CLIP's weights from any of the files of model/clip/formats.py, checked, and the encoders that they describe."""
import hashlib
import math
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model.clip.clip import CLIP
from model.clip.errors import WeightsError
from model.clip.formats import activation_beside, foreign_object, from_hugging_face, read_state
from model.clip.source import how_to_fetch
from model.clip.text_encoder import TextEncoder
from model.clip.vision_transformer import VisionTransformer, resize_position_embedding

BUFFERS = ("input_resolution", "context_length", "vocab_size")
DERIVED = re.compile(r"(^|\.)(attn_mask|position_ids)$")  # tensors that some exports carry and the code remakes
HEAD_WIDTH = 64  # in all of OpenAI's encoders (OpenAI CLIP, build_model) and in every text encoder of OpenCLIP
VISION_HEADS = {1280: 16}  # ... but not in OpenCLIP's ViT-H/14, whose heads are 80 wide (open_clip, ViT-H-14.json)
# What is raised where sizes are read off tensors that are missing or odd, and a model of these sizes is built.
NOT_OF_ONE_MODEL = (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError, OverflowError, RuntimeError)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHOWN = 8  # names in one message


class ClipWeights(NamedTuple):
    """Weights under OpenAI's names, in fp32; ``visual`` without its prefix. fingerprint: SHA-256 of the values.

    logit_scale: None where a checkpoint of ESDA carries CLIP, which does without.
    activation: of the blocks' MLPs, "quickgelu" or "gelu"; None: the file does not tell.
    """
    visual: dict[str, Tensor]
    text: dict[str, Tensor]
    logit_scale: Tensor | None
    fingerprint: str
    activation: str | None = "quickgelu"

    def with_activation(self, option: str, path: str | Path) -> "ClipWeights":
        """These with the activation of option ``model.activation``. Raises WeightsError for "auto" where the file does
        not tell.
        """
        if option == "auto" and self.activation is None:
            raise WeightsError(f"{path}: the file does not tell the activation that its CLIP was trained with; set "
                               f"model.activation=quickgelu (OpenAI's weights) or =gelu (most of OpenCLIP's)")
        activation = self.activation if option == "auto" else option
        values = self.fingerprint.split("+")[0]  # with GELU the same values are another CLIP
        return self._replace(activation=activation, fingerprint=values + ("+gelu" if activation == "gelu" else ""))


def read_clip(path: str | Path) -> ClipWeights:
    """Read and check a weights file.

    Raises WeightsError if the file is missing (with the official download line), if it is of no known kind, if it
    holds other objects than tensors, or if tensors are missing, superfluous, of a shape that does not fit, of a type
    that weights do not have, or not finite (each named).
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: CLIP's weights are not there; {how_to_fetch(path)}")
    try:
        state, activation = read_state(path)
    except Exception as error:  # torch, safetensors and pickle raise many kinds for a file that is not their own
        foreign = foreign_object(error)
        if foreign:
            raise WeightsError(f"{path}: holds a {foreign}, and only tensors are read from a weights file; save the "
                               f"state dict alone, torch.save(model.state_dict(), FILE), and give that file") from None
        reason = (str(error).strip().splitlines() or [""])[0].split(". ")[0]  # torch goes on with unsafe advice
        raise WeightsError(f"{path}: cannot be read as CLIP weights ({type(error).__name__}: {reason}); "
                           f"`python -m data.prepare clip` fetches OpenAI's to weights/ViT-B-16.pt") from None
    if all(name in state for name in BUFFERS):  # which OpenAI's archives alone hold
        activation = activation or "quickgelu"
    state = {name: tensor for name, tensor in state.items() if name not in BUFFERS and not DERIVED.search(name)}
    require_weights(state, path)
    if any(name.startswith("vision_model.") for name in state):
        state = from_hugging_face(state, path)
    _check(state, path)
    fingerprint, in_half = fingerprint_of(state), _in_half(state)
    state = {name: tensor.float() for name, tensor in state.items()}
    visual = {name.removeprefix("visual."): state.pop(name) for name in list(state) if name.startswith("visual.")}
    activation = (activation or activation_beside(path, (len(visual["class_embedding"]), depth(visual)))
                  or ("quickgelu" if in_half else None))
    return ClipWeights(visual, state, state.pop("logit_scale"), fingerprint, activation)


def require_weights(state: dict[str, Tensor], where: str | Path) -> None:
    """Raise WeightsError that names the tensors which cannot be weights: of a type other than floats, of more values
    than the file holds, or not finite.
    """
    odd = [f"{name} ({'too few values for ' + str(tuple(t.shape)) if t.dtype in FLOATS else str(t.dtype)[6:]})"
           for name, t in state.items() if t.dtype not in FLOATS or t.layout != torch.strided or t.is_meta
           or t.numel() * t.itemsize > t.untyped_storage().nbytes()]
    if odd:
        raise WeightsError(f"{where}: holds tensors that are no weights: {some(odd)}")
    wrong = [name for name, t in state.items() if not t.float().isfinite().all()]
    if wrong:
        raise WeightsError(f"{where}: holds NaN or infinity: {some(wrong)}; take an earlier checkpoint or another copy")


def some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def vision_heads(width: int) -> int:
    """Attention heads of an image encoder, of which its weights tell only the width. ValueError: no CLIP is so wide."""
    if width % HEAD_WIDTH:
        raise ValueError(f"width {width}: no CLIP's image encoder has it")
    return VISION_HEADS.get(width, width // HEAD_WIDTH)


def vision_sizes(state: dict[str, Tensor], prefix: str = "") -> tuple[int, ...]:
    """What the tensors of an image encoder tell: side in px at which it was trained, patch in px, width, blocks, heads
    and joint width D. prefix: what stands before their names.
    """
    width, _, patch, _ = state[f"{prefix}conv1.weight"].shape
    grid = round((len(state[f"{prefix}positional_embedding"]) - 1) ** 0.5)
    return grid * patch, patch, width, depth(state, prefix), vision_heads(width), state[f"{prefix}proj"].shape[1]


def text_sizes(state: dict[str, Tensor]) -> tuple[int, ...]:
    """What the tensors of a text encoder tell: vocabulary, context length, width, blocks and heads."""
    vocabulary, width = state["token_embedding.weight"].shape
    return vocabulary, len(state["positional_embedding"]), width, depth(state), width // HEAD_WIDTH


def build_vision(weights: ClipWeights, side: int | None = None, cls=VisionTransformer, **options):
    """The image encoder that these weights describe, position embedding resized to ``side`` px (None: as trained).

    ``cls`` is VisionTransformer or a subclass, which gets ``options``; only parameters that the subclass adds may
    be absent from the weights.
    """
    state = dict(weights.visual)
    trained_at, patch, *sizes = vision_sizes(state)
    side = trained_at if side is None else side
    if side % patch:
        near = " or ".join(str(valid) for valid in (side - side % patch, side - side % patch + patch) if valid)
        raise WeightsError(f"model.size={side} is not a multiple of the image encoder's patch of {patch} px; the "
                           f"nearest that is one is {near}")
    encoder = cls(side, patch, *sizes, activation=weights.activation, **options)
    state["positional_embedding"] = resize_position_embedding(state["positional_embedding"], side // patch)
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    trunk = set(weights.visual)
    if unexpected or trunk & set(missing):
        raise WeightsError(f"weights and image encoder differ in {sorted(unexpected) + sorted(trunk & set(missing))}")
    return encoder


def build_text(weights: ClipWeights) -> TextEncoder:
    """The text encoder that these weights describe."""
    encoder = TextEncoder(*text_sizes(weights.text), weights.text["text_projection"].shape[1], weights.activation)
    encoder.load_state_dict(weights.text)
    return encoder


def build_clip(weights: ClipWeights, side: int | None = None) -> CLIP:
    """Both encoders and the temperature. Raises WeightsError where the activation is not known."""
    weights = weights.with_activation("auto", "CLIP's weights")
    clip = CLIP(build_vision(weights, side), build_text(weights))
    clip.logit_scale.data.copy_(weights.logit_scale)
    return clip


def _in_half(state: dict[str, Tensor]) -> bool:
    """Whether the blocks' matrices hold fp16 values and others do not, as OpenAI's weights do in every format.

    OpenAI published layer norms and embeddings in fp32 (OpenAI CLIP, convert_weights). Where these hold fp16 values,
    too, somebody has rounded the whole, and it may be anybody's CLIP.
    """
    def rounded(tensors: list[Tensor]) -> bool:
        return all(t.dtype != torch.bfloat16 and torch.equal(t.half().to(t.dtype), t) for t in tensors)

    return (rounded([t for name, t in state.items() if ".resblocks." in name and t.ndim == 2])
            and not rounded(list(state.values())))


def depth(state: dict[str, Tensor], prefix: str = "") -> int:
    """How many blocks a tower has; 0 where it has none. ValueError where their numbers have gaps."""
    found = (re.match(re.escape(prefix) + r"transformer\.resblocks\.(\d{1,9})\.", name) for name in state)
    numbers = {int(match[1]) for match in found if match}
    if numbers and max(numbers) >= len(numbers):
        raise ValueError(f"block: there is a block {max(numbers)}, but only {len(numbers)} blocks")
    return len(numbers)


def _check(state: dict[str, Tensor], path: Path) -> None:
    """Compare names and shapes with those of the architecture that the weights themselves describe."""
    try:
        with torch.device("meta"):
            sizes, text = vision_sizes(state, "visual."), text_sizes(state)
            if sizes[0] < 1 or text[1] < 3:
                raise ValueError(f"sizes: images of {sizes[0]} px and {text[1]} positions of text")
            model = CLIP(VisionTransformer(*sizes), TextEncoder(*text, sizes[-1]))
    except NOT_OF_ONE_MODEL as error:
        raise WeightsError(f"{path}: not a CLIP with a vision transformer: missing or odd {error}") from None
    expected = {name: t for name, t in model.state_dict_openai().items() if name not in BUFFERS}
    found = differences(expected, state)
    if found:
        raise WeightsError(f"{path}: not the weights of one CLIP: {found}")
    if not 0 < state["logit_scale"].float().exp() < math.inf:
        raise WeightsError(f"{path}: logit_scale is {state['logit_scale'].item():g}, the logarithm of no temperature "
                           f"(OpenAI's is 4.6); take another copy")


def differences(expected: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """Every tensor that is missing, superfluous or of another shape, in words; "" where there is none."""
    problems = {"missing": sorted(expected.keys() - state.keys()),
                "superfluous": sorted(state.keys() - expected.keys()),
                "of another shape": sorted(name for name in expected.keys() & state.keys()
                                           if expected[name].shape != state[name].shape)}
    return "; ".join(f"{what}: {some(names)}" for what, names in problems.items() if names)


def fingerprint_of(state: dict[str, Tensor]) -> str:
    """SHA-256 over names and fp16 values, the same whichever file format the weights came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].half().contiguous().view(torch.uint8).numpy() if state[name].ndim
                      else str(state[name].half().item()).encode())
    return digest.hexdigest()

"""CLIP's weights from any of the files they circulate in, told apart by their contents.

These are OpenAI's TorchScript archive (ViT-B-16.pt as published), a plain state dict saved with torch.save, and
safetensors. The names may be OpenAI's (also OpenCLIP's) or Hugging Face's. Nothing is unpickled that could run code.
"""
import hashlib
import io
import json
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model.clip.clip import CLIP
from model.clip.errors import WeightsError
from model.clip.source import URL
from model.clip.text_encoder import TextEncoder
from model.clip.vision_transformer import VisionTransformer, resize_position_embedding

BUFFERS = ("input_resolution", "context_length", "vocab_size")
DERIVED = re.compile(r"(^|\.)(attn_mask|position_ids)$")  # tensors that some exports carry and the code remakes
HEAD_WIDTH = 64  # in all of OpenAI's encoders (OpenAI CLIP, build_model) and in every text encoder of OpenCLIP
VISION_HEADS = {1280: 16}  # ... but not in OpenCLIP's ViT-H/14, whose heads are 80 wide (open_clip, ViT-H-14.json)
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
        raise WeightsError(f"{path}: CLIP's weights are not there; `python -m data.prepare clip --out {path}` fetches "
                           f"and checks them, or by hand: curl -L -o {path} {URL}")
    try:
        state, activation = _read_state(path)
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
        state = _from_hugging_face(state, path)
    _check(state, path)
    fingerprint, in_half = fingerprint_of(state), _in_half(state)
    state = {name: tensor.float() for name, tensor in state.items()}
    visual = {name.removeprefix("visual."): state.pop(name) for name in list(state) if name.startswith("visual.")}
    activation = activation or _activation_beside(path, visual) or ("quickgelu" if in_half else None)
    return ClipWeights(visual, state, state.pop("logit_scale"), fingerprint, activation)


def foreign_object(error: Exception) -> str | None:
    """The class or function for whose sake torch.load(weights_only=True), or the reader below, rejected a file."""
    found = re.search(r"GLOBAL ([\w.]+)|holds a ([\w.]+\.[\w.]+),", str(error))
    return found and (found[1] or found[2])


def require_weights(state: dict[str, Tensor], where: str | Path) -> None:
    """Raise WeightsError that names the tensors which cannot be weights: of a type other than floats, of more values
    than the file holds, or not finite."""
    odd = [f"{name} ({'too few values for ' + str(tuple(t.shape)) if t.dtype in FLOATS else str(t.dtype)[6:]})"
           for name, t in state.items() if t.dtype not in FLOATS or t.layout != torch.strided
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


def build_vision(weights: ClipWeights, side: int | None = None, cls=VisionTransformer, **options):
    """The image encoder that these weights describe, position embedding resized to ``side`` px (None: as trained).

    ``cls`` is VisionTransformer or a subclass, which gets ``options``; only parameters that the subclass adds may
    be absent from the weights.
    """
    state = dict(weights.visual)
    width, _, patch, _ = state["conv1.weight"].shape
    grid = round((len(state["positional_embedding"]) - 1) ** 0.5)
    side = grid * patch if side is None else side
    if side % patch:
        raise WeightsError(f"model.size={side} is not a multiple of the image encoder's patch of {patch} px")
    encoder = cls(side, patch, width, depth(state), vision_heads(width), state["proj"].shape[1],
                  activation=weights.activation, **options)
    state["positional_embedding"] = resize_position_embedding(state["positional_embedding"], side // patch)
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    trunk = set(weights.visual)
    if unexpected or trunk & set(missing):
        raise WeightsError(f"weights and image encoder differ in {sorted(unexpected) + sorted(trunk & set(missing))}")
    return encoder


def build_text(weights: ClipWeights) -> TextEncoder:
    """The text encoder that these weights describe."""
    vocabulary, width = weights.text["token_embedding.weight"].shape
    encoder = TextEncoder(vocabulary, len(weights.text["positional_embedding"]), width, depth(weights.text),
                          width // HEAD_WIDTH, weights.text["text_projection"].shape[1], weights.activation)
    encoder.load_state_dict(weights.text)
    return encoder


def build_clip(weights: ClipWeights, side: int | None = None) -> CLIP:
    """Both encoders and the temperature. Raises WeightsError where the activation is not known."""
    weights = weights.with_activation("auto", "CLIP's weights")
    clip = CLIP(build_vision(weights, side), build_text(weights))
    clip.logit_scale.data.copy_(weights.logit_scale)
    return clip


def _read_state(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors, and the activation where the file itself tells it."""
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:9] == b"{" and not start.startswith(b"PK"):
        from safetensors.torch import load_file
        return load_file(path), None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return _read_torchscript(archive)
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("neither a TorchScript archive nor a state dict of tensors")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}, None


def _in_half(state: dict[str, Tensor]) -> bool:
    """Whether the blocks' matrices hold fp16 values, as OpenAI's do in every format they circulate in.

    Weights that others trained in fp32 hold such values only where they were rounded to fp16 afterwards.
    """
    matrices = [t for name, t in state.items() if ".resblocks." in name and t.ndim == 2]
    return all(t.dtype != torch.bfloat16 and torch.equal(t.half().to(t.dtype), t) for t in matrices)


def _activation_beside(path: Path, visual: dict[str, Tensor]) -> str | None:
    """The activation that a published config beside the weights tells, where it describes an encoder of their size.

    Such are Hugging Face's config.json, which leaves out what is its default, and OpenCLIP's open_clip_config.json.
    """
    size = len(visual["class_embedding"]), depth(visual)
    for name in ("config.json", "open_clip_config.json"):
        try:
            config = json.loads((path.parent / name).read_text(encoding="utf-8"))
            if name == "config.json":
                vision = config["vision_config"]
                found = vision.get("hidden_size", 768), vision.get("num_hidden_layers", 12)
                activation = {"quick_gelu": "quickgelu", "gelu": "gelu"}.get(vision.get("hidden_act", "quick_gelu"))
            else:
                vision = config["model_cfg"]["vision_cfg"]
                found = vision["width"], vision["layers"]
                activation = "quickgelu" if config["model_cfg"].get("quick_gelu") else "gelu"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        if found == size:
            return activation
    return None


class _Module:
    """A TorchScript module read as nothing but its attributes."""

    def __setstate__(self, state):
        self.attributes = state if isinstance(state, dict) else {}


class _TorchScriptUnpickler(pickle.Unpickler):
    """Reads the data of a TorchScript archive without torch.jit, which is being retired, and without its code.

    Only tensors, plain values and containers come out; any other class in the file is an error.
    """
    STORAGES = {"HalfStorage": torch.float16, "FloatStorage": torch.float32, "DoubleStorage": torch.float64,
                "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
                "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
                "BoolStorage": torch.bool}

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str):
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in self.STORAGES:
            return self.STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # typed lists and dictionaries
            return lambda value, *_: value
        raise pickle.UnpicklingError(f"the archive holds a {module}.{name}, which CLIP's weights do not")

    def persistent_load(self, key):
        kind, dtype, number, _device, count = key
        entry = self.archive.getinfo(f"{self.folder}/data/{number}")
        if kind != "storage" or entry.file_size != count * dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {number} has another size than the archive states")
        data = bytearray(self.archive.read(entry))
        return torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)

    @staticmethod
    def tensor(storage, offset, size, stride, *_) -> Tensor:
        if math.prod(size) > len(storage):
            raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} lies in a storage of {len(storage)} values")
        return torch.as_strided(storage, size, stride, offset).clone()


def _read_torchscript(archive: zipfile.ZipFile) -> tuple[dict[str, Tensor], str | None]:
    """The tensors, and the activation as the archive's code computes it: QuickGELU by a sigmoid, GELU by its name."""
    folder = next(name for name in archive.namelist() if name.endswith("/data.pkl")).rsplit("/", 1)[0]
    state: dict[str, Tensor] = {}

    def collect(module: _Module, prefix: str) -> None:
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                state[prefix + name] = value
            elif isinstance(value, _Module):
                collect(value, f"{prefix}{name}.")

    collect(_TorchScriptUnpickler(archive, folder).load(), "")
    code = "".join(archive.read(name).decode("utf-8", "replace") for name in archive.namelist()
                   if name.startswith(f"{folder}/code/") and name.endswith(".py"))
    return state, "gelu" if "torch.gelu(" in code else "quickgelu" if "torch.sigmoid(" in code else None


def _from_hugging_face(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Hugging Face's CLIPModel names to OpenAI's; what has no counterpart keeps its name, for the error."""
    plain = {"text_model.embeddings.token_embedding.weight": "token_embedding.weight",
             "text_model.embeddings.position_embedding.weight": "positional_embedding",
             "text_model.final_layer_norm": "ln_final",
             "vision_model.embeddings.class_embedding": "visual.class_embedding",
             "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
             "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
             "vision_model.pre_layrnorm": "visual.ln_pre",  # the misspelling is theirs
             "vision_model.post_layernorm": "visual.ln_post",
             "text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}
    out, split = {}, {}
    for name, tensor in state.items():
        layer = re.fullmatch(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        stem, _, kind = name.rpartition(".")
        if layer:
            tower, number, part, kind = layer.groups()
            block = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{number}."
            if part in inner:
                out[f"{block}{inner[part]}.{kind}"] = tensor
            elif part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                split.setdefault(f"{block}attn.in_proj_{kind}", {})[part[10]] = tensor
            else:
                out[name] = tensor
        elif name in ("text_projection.weight", "visual_projection.weight"):
            out[plain[name]] = tensor.T.contiguous()  # theirs is a Linear, OpenAI's a matrix on the right
        elif name in plain:
            out[plain[name]] = tensor
        elif stem in plain:
            out[f"{plain[stem]}.{kind}"] = tensor
        else:
            out[name] = tensor
    for name, parts in split.items():
        if set(parts) != set("qkv"):
            raise WeightsError(f"{path}: {name} lacks {sorted(set('qkv') - set(parts))} of its q, k and v")
        if len({parts[part].shape for part in "qkv"}) > 1:
            raise WeightsError(f"{path}: not the weights of one CLIP: of another shape: q, k or v of {name}")
        out[name] = torch.cat([parts[part] for part in "qkv"])
    return out


def depth(state: dict[str, Tensor]) -> int:
    """How many blocks a tower has; 0 where it has none. ValueError where their numbers have gaps."""
    found = (re.match(r"transformer\.resblocks\.(\d{1,9})\.", name) for name in state)
    numbers = {int(match[1]) for match in found if match}
    if numbers and max(numbers) >= len(numbers):
        raise ValueError(f"block: there is a block {max(numbers)}, but only {len(numbers)} blocks")
    return len(numbers)


def _check(state: dict[str, Tensor], path: Path) -> None:
    """Compare names and shapes with those of the architecture that the weights themselves describe."""
    try:
        with torch.device("meta"):
            visual = {name.removeprefix("visual."): t for name, t in state.items() if name.startswith("visual.")}
            text = {name: t for name, t in state.items() if not name.startswith("visual.")}
            width, _, patch, _ = state["visual.conv1.weight"].shape
            grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
            embed_dim = state["visual.proj"].shape[1]
            vocabulary, text_width = text["token_embedding.weight"].shape
            model = CLIP(VisionTransformer(grid * patch, patch, width, depth(visual), vision_heads(width), embed_dim),
                         TextEncoder(vocabulary, len(text["positional_embedding"]), text_width, depth(text),
                                     text_width // HEAD_WIDTH, embed_dim))
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError, OverflowError, RuntimeError) as error:
        raise WeightsError(f"{path}: not a CLIP with a vision transformer: missing or odd {error}") from None
    expected = {name: t for name, t in model.state_dict_openai().items() if name not in BUFFERS}
    found = differences(expected, state)
    if found:
        raise WeightsError(f"{path}: not the weights of one CLIP: {found}")


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

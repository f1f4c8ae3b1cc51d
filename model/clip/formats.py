"""The files that CLIP's weights circulate in, told apart by their contents.

These are OpenAI's TorchScript archive (ViT-B-16.pt as published), a plain state dict saved with torch.save, and
safetensors. The names may be OpenAI's (also OpenCLIP's) or Hugging Face's. Nothing is unpickled that could run code.
"""
import io
import json
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from model.clip.errors import WeightsError


def read_state(path: Path) -> tuple[dict[str, Tensor], str | None]:
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
    if any(name.startswith("module.") and name.removeprefix("module.") in state for name in state):
        raise ValueError("it holds two models, one of them under module.")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}, None


def foreign_object(error: Exception) -> str | None:
    """The class or function for whose sake torch.load(weights_only=True), or the reader below, rejected a file."""
    found = re.search(r"GLOBAL ([\w.]+)|holds a ([\w.]+\.[\w.]+),", str(error))
    return found and (found[1] or found[2])


class _Module:
    """A TorchScript module read as nothing but its attributes."""

    def __setstate__(self, state):
        self.attributes = state if isinstance(state, dict) else {}


class TorchScriptUnpickler(pickle.Unpickler):
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

    collect(TorchScriptUnpickler(archive, folder).load(), "")
    code = "".join(archive.read(name).decode("utf-8", "replace") for name in archive.namelist()
                   if name.startswith(f"{folder}/code/") and name.endswith(".py"))
    return state, "gelu" if "torch.gelu(" in code else "quickgelu" if "torch.sigmoid(" in code else None


HUGGING_FACE = (  # parts of the names in its CLIPModel, and OpenAI's for them
    ("text_model.embeddings.token_embedding.", "token_embedding."),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("text_model.final_layer_norm.", "ln_final."),
    ("text_projection.weight", "text_projection"),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.", "visual.conv1."),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm.", "visual.ln_pre."),  # the misspelling is theirs
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("vision_model.post_layernorm.", "visual.ln_post."),
    ("visual_projection.weight", "visual.proj"),
    (".layer_norm1.", ".ln_1."), (".self_attn.", ".attn."),
    (".layer_norm2.", ".ln_2."), (".mlp.fc1.", ".mlp.c_fc."), (".mlp.fc2.", ".mlp.c_proj."))


def from_hugging_face(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Hugging Face's CLIPModel under OpenAI's names. What has no counterpart keeps its name, for the error."""
    out, split = {}, {}
    for name, tensor in state.items():
        if name in ("text_projection.weight", "visual_projection.weight"):
            tensor = tensor.T.contiguous()  # theirs is a Linear, OpenAI's a matrix on the right
        for theirs, openais in HUGGING_FACE:
            name = name.replace(theirs, openais)
        one_of_three = re.fullmatch(r"(.+\.attn\.)([qkv])_proj\.(weight|bias)", name)  # which OpenAI has as one
        if one_of_three:
            split.setdefault(f"{one_of_three[1]}in_proj_{one_of_three[3]}", {})[one_of_three[2]] = tensor
        else:
            out[name] = tensor
    for name, parts in split.items():
        if set(parts) != set("qkv"):
            raise WeightsError(f"{path}: {name} lacks {sorted(set('qkv') - set(parts))} of its q, k and v")
        if len({parts[part].shape for part in "qkv"}) > 1:
            raise WeightsError(f"{path}: not the weights of one CLIP: of another shape: q, k or v of {name}")
        out[name] = torch.cat([parts[part] for part in "qkv"])
    return out


def activation_beside(path: Path, size: tuple[int, int]) -> str | None:
    """The activation by a published config beside the weights; None where none is of ``size``, width and blocks.

    Hugging Face's config.json, which omits what is the default, and OpenCLIP's open_clip_config.json are known.
    """
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

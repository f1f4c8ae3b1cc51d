"""Readers of CLIP's file formats, told apart by content. Nothing is unpickled that could run code.

OpenAI's TorchScript archive, a state_dict saved by torch.save, and safetensors, under OpenAI's names (also OpenCLIP's),
Hugging Face's, or those of ESDA's released checkpoints, which bundle CLIP; in nested dicts and behind any prefix.
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

WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")    # of torch
PATCHES = re.compile(r"(.*\.)?((visual|image_encoder)\.conv1|vision_model\.embeddings\.patch_embedding)\.weight")
BUFFERS = ("input_resolution", "context_length", "vocab_size")  # which OpenAI's models alone have


def read_state(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Read the tensors under OpenAI's names, and the activation if the file or a config beside it tells it."""
    with open(path, "rb") as file:
        start = file.read(9)
    archive = zipfile.ZipFile(path) if zipfile.is_zipfile(path) else None
    if start[8:] == b"{":  # safetensors: eight bytes of length, then JSON
        from safetensors.torch import load_file
        state = plain_state(load_file(path))
    elif archive and any(name.endswith("/constants.pkl") for name in archive.namelist()):
        return tensors_of(TorchScriptUnpickler(archive).load()), "quickgelu"
    else:
        state = plain_state(torch.load(path, map_location="cpu", weights_only=True))
    if any(name.startswith("image_encoder.") for name in state):
        return from_released(state)[0], "quickgelu"  # they stand on OpenAI's CLIP
    if any(name.startswith("vision_model.") for name in state):
        state = from_hugging_face(state)
    return state, "quickgelu" if all(name in state for name in BUFFERS) else activation_beside(path)


def plain_state(saved: dict) -> dict[str, Tensor]:
    """Find the tensors of a model with CLIP in nested dicts, and strip what stands before. Raises ValueError."""
    parts = [("", saved)]
    for place, part in parts:   # which grow
        parts += [(f"{place}{name}/", inner) for name, inner in part.items()
                  if isinstance(inner, dict) and not any(inner is known for _, known in parts)]
    names = [(f"{place}{name}", WRAPPERS.sub("", str(name)), part) for place, part in parts for name in part]
    found = [(place, match[1] or "", part) for place, name, part in names if (match := PATCHES.fullmatch(name))]
    found = [one for one in found if one[0].startswith("state_dict/")] or found     # not their moving average
    if len(found) != 1:
        raise ValueError(f"{len(found)} image encoders of a CLIP, where one is wanted, by visual.conv1.weight, among "
                         + ", ".join(place for place, *_ in (found or names)[:4]))
    _, prefix, part = found[0]
    return {WRAPPERS.sub("", name).removeprefix(prefix): tensor for name, tensor in part.items()}


def activation_beside(path: Path) -> str | None:
    """Read the activation from Hugging Face's or OpenCLIP's config beside the weights; None without one."""
    theirs, open_clips = path.with_name("config.json"), path.with_name("open_clip_config.json")
    if theirs.is_file():
        named = json.loads(theirs.read_text())["vision_config"].get("hidden_act", "quick_gelu")  # transformers' default
        return {"quick_gelu": "quickgelu", "gelu": "gelu"}[named]
    if open_clips.is_file():
        return "quickgelu" if json.loads(open_clips.read_text())["model_cfg"].get("quick_gelu") else "gelu"
    return None


class _Module:
    """TorchScript module, reduced to its attributes."""

    def __setstate__(self, state: dict):
        self.attributes = state


class TorchScriptUnpickler(pickle.Unpickler):
    """TorchScript reader without torch.jit: tensors, plain values, containers; UnpicklingError for any other class."""
    STORAGES = {"HalfStorage": torch.float16, "FloatStorage": torch.float32, "LongStorage": torch.int64}

    def __init__(self, archive: zipfile.ZipFile):
        entry = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        super().__init__(io.BytesIO(archive.read(entry)))
        self.archive, self.folder = archive, entry.removesuffix(".pkl")

    def find_class(self, module: str, name: str):
        if module.startswith("__torch__"):
            return _Module
        if module == "torch.jit._pickle":  # typed lists and dictionaries
            return lambda value, *_: value
        if module == "torch" and name in self.STORAGES:
            return self.STORAGES[name]
        known = {"torch._utils._rebuild_tensor_v2": self.tensor, "collections.OrderedDict": OrderedDict}
        if f"{module}.{name}" in known:
            return known[f"{module}.{name}"]
        raise pickle.UnpicklingError(f"the archive holds a {module}.{name}, which CLIP's weights do not")

    def persistent_load(self, key):
        _, dtype, number, _, count = key
        return torch.frombuffer(bytearray(self.archive.read(f"{self.folder}/{number}")), dtype=dtype, count=count)

    @staticmethod
    def tensor(storage, offset, size, stride, *_) -> Tensor:
        return storage.as_strided(size, stride, offset).clone()


def tensors_of(module: _Module, prefix: str = "") -> dict[str, Tensor]:
    """Collect the tensors of a TorchScript module and its submodules: {dotted name: tensor}."""
    state = {prefix + name: value for name, value in module.attributes.items() if isinstance(value, Tensor)}
    for name, value in module.attributes.items():
        if isinstance(value, _Module):
            state |= tensors_of(value, f"{prefix}{name}.")
    return state


HUGGING_FACE = (  # parts of the names in its CLIPModel, and OpenAI's for them
    ("text_model.", ""), ("text_projection.weight", "text_projection"),
    ("vision_model.", "visual."), ("visual_projection.weight", "visual.proj"),
    ("embeddings.position_embedding.weight", "positional_embedding"), ("embeddings.patch_embedding.", "conv1."),
    ("embeddings.", ""), ("encoder.layers.", "transformer.resblocks."), ("final_layer_norm.", "ln_final."),
    ("pre_layrnorm.", "ln_pre."), ("post_layernorm.", "ln_post."), ("layer_norm", "ln_"),  # the misspelling is theirs
    ("self_attn.", "attn."), ("mlp.fc1.", "mlp.c_fc."), ("mlp.fc2.", "mlp.c_proj."))


def from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename Hugging Face's CLIPModel to OpenAI's names. Unknown names stay, for the error."""
    out = {}
    for name, tensor in state.items():
        if name.endswith("_projection.weight"):
            tensor = tensor.T.contiguous()  # theirs is a Linear, OpenAI's a matrix on the right
        if ".q_proj." in name:  # q, k and v, which OpenAI has as one
            tensor = torch.cat([state[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
            name = name.replace(".q_proj.", ".in_proj_")
        for theirs, openais in HUGGING_FACE:
            name = name.replace(theirs, openais)
        if ".k_proj." not in name and ".v_proj." not in name:
            out[name] = tensor
    return out


RELEASED = (  # the other way round: parts of the released names, and ours. Their decoder has our interactor in it
    ("text_encoder.", "clip "), ("image_encoder.text_cls_proj.", "image_encoder.text_proj."),
    ("image_encoder.", "clip visual."), ("decoder.text_embedding_proj.", "interactor.cls_proj."),
    ("decoder.text_img_concat_proj.", "interactor.fuse_proj."), ("decoder.VL_interaction.", "interactor.vl."),
    ("decoder.IEE.", "interactor.iee."), ("decoder.SSE.", "interactor.sse."), ("decoder.res2.", "decoder.res."),
    ("decoder.cls.", "decoder.cls."))


def our_name(name: str) -> str:
    """Map a released name to ours, CLIP's to "clip " and OpenAI's name, any other to "unknown " and itself."""
    prompt = re.fullmatch(r"image_encoder\.prompt\.(\d+)", name)
    if prompt:  # one list: A of block 0, B of block 0, A of block 1, ...
        block, second = divmod(int(prompt[1]), 2)
        return f"image_encoder.branches.{block}.{'up' if second else 'down'}"
    return next((ours + name[len(theirs):] for theirs, ours in RELEASED if name.startswith(theirs)), f"unknown {name}")


def from_released(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a released state_dict: its CLIP under OpenAI's names, and the trained parameters under ours.

    It lacks CLIP's temperature; OpenAI's training ended at the largest allowed, 100 (Radford 2021, 2.5).
    """
    named = {our_name(name): tensor for name, tensor in state.items()}
    clip = {name.removeprefix("clip "): named.pop(name) for name in list(named) if name.startswith("clip ")}
    return {**clip, "logit_scale": torch.tensor(math.log(100))}, named

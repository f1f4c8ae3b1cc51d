"""read_clip: one and the same CLIP out of every file format, one clear line for every file that is wrong."""
import contextlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from reference_clip import ReferenceCLIP, small_clip, small_ids
from safetensors.torch import save_file
from torch import nn

from model.build import build_model
from model.clip.clip import CLIP
from model.clip.formats import BUFFERS
from model.clip.layers import QuickGELU
from model.clip.source import MODELS
from model.clip.vision_transformer import VisionTransformer, resize_position_embedding
from model.clip.weights import WeightsError, build_clip, build_vision, read_clip, vision_sizes
from util.config import ROOT
from util.options import Config, Model

# Made once with write_torchscript and torch 2.15 of a random CLIP of 16 px and one block, less the debug files with
# their local paths: the day will come when torch.jit is gone.
FIXTURE = ROOT / "tests" / "helpers" / "tiny_clip_torchscript.pt"
FIXTURE_FINGERPRINT = "77a5be401a6044fb6593dd7505c575a1e9b7eece4c7a8ccdb6e0628fe99401d7"


def openai_state(clip: CLIP) -> dict:
    """As OpenAI ships it: fp16 and with the three buffers."""
    return {name: t.half() if t.is_floating_point() else t for name, t in clip.state_dict_openai().items()}


def write_plain(clip: CLIP, path: Path) -> None:
    torch.save(openai_state(clip), path)


def write_training_checkpoint(clip: CLIP, path: Path) -> None:
    inside = "module._orig_mod.clip."    # of a compiled model in several processes, with a compiled block
    state = {inside + name.replace("blocks.1.", "blocks.1._orig_mod."): x for name, x in openai_state(clip).items()}
    torch.save({"epoch": 32, "model": {"net": state}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}, path)


def write_safetensors(clip: CLIP, path: Path) -> None:
    """As OpenCLIP's files are: OpenAI's names, without the buffers."""
    state = {name: t.contiguous() for name, t in clip.state_dict_openai().items() if name not in BUFFERS}
    save_file(state, path, metadata={"format": "pt"})


HUGGING_FACE = {  # parts of our names and of those of transformers' CLIPModel
    "transformer.resblocks.": "encoder.layers.", "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1",
    "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "ln_final": "final_layer_norm",
    "ln_pre": "pre_layrnorm", "ln_post": "post_layernorm", "token_embedding": "embeddings.token_embedding",
    "positional_embedding": "embeddings.position_embedding.weight", "conv1": "embeddings.patch_embedding",
    "class_embedding": "embeddings.class_embedding"}


def write_hugging_face(clip: CLIP, path: Path) -> None:
    """As transformers' CLIPModel in a wrapper: Linears for the projections, q, k and v each on its own."""
    out = {"logit_scale": clip.logit_scale, "text_projection.weight": clip.text.text_projection.T,
           "visual_projection.weight": clip.visual.proj.T, "text_model.embeddings.position_ids": torch.arange(12)[None]}
    for tower, encoder in (("text_model", clip.text), ("vision_model", clip.visual)):
        for name, tensor in encoder.state_dict().items():
            for ours, theirs in HUGGING_FACE.items():
                name = name.replace(ours, theirs)
            if "attn.in_proj_" in name:
                out |= {f"{tower}.{name}".replace("attn.in_proj_", f"self_attn.{part}_proj."): x
                        for part, x in zip("qkv", tensor.chunk(3))}
            elif not name.endswith("proj") and not name.endswith("projection"):
                out[f"{tower}.{name}"] = tensor
    save_file({f"module.{k}": x.detach().clone().contiguous() for k, x in out.items()}, path, metadata={"format": "pt"})


def write_torchscript(clip: CLIP, path: Path) -> None:
    """Traced in fp16 from a module in OpenAI's layout, as ViT-B-16.pt was."""
    module = ReferenceCLIP(clip).eval().half().requires_grad_(False)
    module.text_projection.data = module.text_projection.data.T.contiguous().T  # archives may hold columns first
    example = torch.randn(3, 3, clip.visual.side, clip.visual.side).half(), small_ids()
    torch.jit.save(torch.jit.trace(module, example, check_trace=False), path)


class Evil:
    """Unpickling it runs a command that touches ``file``."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def zipped(path: Path, pickled: bytes) -> None:
    """A file that looks like a TorchScript archive, with ``pickled`` for its data."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip/data.pkl", pickled)
        archive.writestr("clip/constants.pkl", pickle.dumps(()))


def error_of(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_clip(path, "quickgelu")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return small_clip()


@pytest.fixture
def plain(clip, tmp_path) -> Path:
    write_plain(clip, tmp_path / "plain.pt")
    return tmp_path / "plain.pt"


TRACED = pytest.param(write_torchscript, marks=[
    pytest.mark.skipif(not hasattr(getattr(torch, "jit", None), "trace"), reason="torch.jit is gone"),
    pytest.mark.filterwarnings("ignore")])


@pytest.mark.parametrize("write", [write_plain, write_training_checkpoint, write_safetensors, write_hugging_face,
                                   TRACED])
@torch.no_grad()
def test_every_format_gives_the_same_weights(write, clip, plain, tmp_path):
    path = tmp_path / "clip.bin"  # the name says nothing of the format
    write(clip, path)
    weights, built = read_clip(path, "quickgelu"), build_clip(read_clip(path, "quickgelu"))
    for found, expected in ((weights.visual, clip.visual), (weights.text, clip.text), (built.state_dict(), clip)):
        assert found.keys() == expected.state_dict().keys()
        for name, tensor in expected.state_dict().items():
            assert found[name].dtype == torch.float32 and torch.equal(found[name], tensor), name
    assert weights.fingerprint == read_clip(plain).fingerprint
    state = openai_state(clip)
    torch.save({"state_dict": state, "state_dict_ema": {name: 2 * x for name, x in state.items()}}, path)
    assert weights.fingerprint == read_clip(path, "quickgelu").fingerprint, "not the moving average beside them"


def test_torchscript_without_torch_jit(monkeypatch):
    with monkeypatch.context() as without:
        without.delattr(torch, "jit", raising=False)
        weights = read_clip(FIXTURE)
    assert weights.fingerprint == FIXTURE_FINGERPRINT and weights.activation == "quickgelu"
    assert build_vision(weights).side == 16


def test_the_fingerprint_tells_weights_apart(clip, plain):
    before, state = read_clip(plain).fingerprint, openai_state(clip)
    state["logit_scale"] += 0.5
    torch.save(state, plain)
    assert read_clip(plain).fingerprint != before


def test_a_missing_file_is_told_with_the_command_that_fetches_it(tmp_path):
    for name, model in ("ViT-L-14.pt", "ViT-L/14"), ("mine.pt", "ViT-B/16"):
        message = error_of(tmp_path / name)
        assert MODELS[model] in message and f"python -m data.prepare clip --model {model} --out" in message


@pytest.mark.parametrize("changes, said", [
    ({"visual.transformer.resblocks.1.ln_2.bias": None, "ln_final.weight": None},
     "missing: ln_final.weight, visual.transformer.resblocks.1.ln_2.bias"),
    ({"visual.conv1.weight": None}, "visual.conv1.weight"), ({"ema.visual.conv1.weight": torch.zeros(1)}, " ema.vis"),
    ({"visual.attnpool.k_proj.bias": torch.zeros(3)}, "superfluous: visual.attnpool.k_proj.bias"),
    ({"visual.positional_embedding": torch.zeros(13, 128), "logit_scale": torch.zeros(1)},
     "of another shape: logit_scale, visual.positional_embedding")])
def test_tensors_that_do_not_fit_are_named(changes, said, clip, tmp_path):
    state = {name: tensor for name, tensor in (openai_state(clip) | changes).items() if tensor is not None}
    torch.save(state, tmp_path / "clip.pt")
    assert said in error_of(tmp_path / "clip.pt")


@pytest.mark.parametrize("content", [b"", b"weights {of CLIP}\n", FIXTURE.read_bytes()[:-1000], b"\x08\0\0\0\0\0\0\0{",
                                     [1, 2], {"epoch": 1}])
def test_a_file_of_another_kind_is_told(content, tmp_path):
    path = tmp_path / "clip.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    assert "python -m data.prepare clip" in error_of(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pickle_is_not_run(clip, tmp_path):
    touched = tmp_path / "touched"
    pickle.loads(pickle.dumps(Evil(touched)))
    assert touched.exists()  # it does bite
    touched.unlink()
    evil = openai_state(clip) | {"extra": Evil(touched)}
    torch.save(evil, tmp_path / "zip.pt")
    torch.save(evil, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    for protocol in (0, 4):
        zipped(tmp_path / f"script{protocol}.pt", pickle.dumps({"visual": Evil(touched)}, protocol=protocol))
    zipped(tmp_path / "load.pt", b"ctorch\nload\n(S'1'\ntR.")   # an archive may name nothing but tensors
    for path in sorted(tmp_path.glob("*.pt")):
        error_of(path)
        assert not touched.exists(), path.name
    assert "torch.load" in error_of(tmp_path / "load.pt")


def test_another_side_resizes_the_position_embedding_and_is_a_multiple_of_the_patch(clip, plain):
    weights = read_clip(plain)
    assert torch.equal(build_vision(weights).positional_embedding, clip.visual.positional_embedding)
    larger = build_vision(weights, 96)
    assert torch.equal(larger.positional_embedding, resize_position_embedding(clip.visual.positional_embedding, 6))
    assert (larger.side, larger.grid, larger.patch) == (96, 6, 16)
    assert len(weights.visual["positional_embedding"]) == 1 + 3 * 3  # the weights themselves stay as read
    with pytest.raises(WeightsError, match="model.size=65 is not a multiple.*of 16 px.* is 64$"):
        build_vision(weights, 65)


@pytest.mark.parametrize("name, config, expected", [
    ("config.json", {"vision_config": {"hidden_act": "gelu"}}, "gelu"),
    ("config.json", {"vision_config": {}}, "quickgelu"),          # transformers' default
    ("open_clip_config.json", {"model_cfg": {}}, "gelu"),
    ("open_clip_config.json", {"model_cfg": {"quick_gelu": True}}, "quickgelu"),
    ("other.json", {}, None)])
def test_the_activation_is_what_the_config_beside_the_weights_says(name, config, expected, clip, plain, tmp_path):
    """The option comes first, then OpenAI's buffers; GELU makes another CLIP of the same values."""
    write_safetensors(clip, tmp_path / "model.safetensors")
    (tmp_path / name).write_text(json.dumps(config))
    assert read_clip(plain).activation == "quickgelu"
    with contextlib.nullcontext() if expected else pytest.raises(WeightsError, match="file does not tell .*=quickgelu"):
        assert read_clip(tmp_path / "model.safetensors").activation == expected
    same, other = (read_clip(tmp_path / "model.safetensors", option) for option in ("quickgelu", "gelu"))
    assert same.fingerprint == read_clip(plain).fingerprint and other.fingerprint == same.fingerprint + "+gelu"


def test_gelu_reaches_every_block_of_clip_and_no_other(plain):
    model = build_model(Config(model=Model(size=48, replace_indices=[1], clip=str(plain), activation="gelu")))
    kinds = {part: {type(m.mlp.gelu) for m in getattr(model, part).modules() if hasattr(m, "mlp")}
             for part in ("text_encoder", "image_encoder", "interactor")}
    assert kinds == {"text_encoder": {nn.GELU}, "image_encoder": {nn.GELU}, "interactor": {QuickGELU}}


def test_vit_h_14_has_16_heads():
    """OpenCLIP's ViT-H-14.json: width 1280, head_width 80, patch 14. Heads of every other width are 64 wide."""
    with torch.device("meta"):
        states = [VisionTransformer(224, 14, width, 2, 16, 1024).state_dict() for width in (768, 1024, 1280)]
    assert [vision_sizes(state) for state in states] == [
        (224, 14, width, 2, heads, 1024) for width, heads in ((768, 12), (1024, 16), (1280, 16))]

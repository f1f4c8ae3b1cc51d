"""read_clip: one and the same CLIP out of every file format, one clear line for every file that is wrong."""
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from reference_clip import ReferenceCLIP
from safetensors.torch import save_file
from torch import nn

from model.build import build_esda, build_model, embed_names
from model.clip.clip import CLIP
from model.clip.formats import TorchScriptUnpickler
from model.clip.layers import QuickGELU
from model.clip.source import MODELS, URL
from model.clip.text_encoder import TextEncoder
from model.clip.vision_transformer import VisionTransformer, resize_position_embedding
from model.clip.weights import (
    BUFFERS,
    ClipWeights,
    WeightsError,
    build_clip,
    build_vision,
    read_clip,
    vision_heads,
)
from util.config import ROOT
from util.options import Model

MINI_CLIP = ROOT / "data" / "shapes" / "mini_clip.pt"
# Made once with write_torchscript(smallest_clip(), FIXTURE) and torch 2.15, less the debug files with their local
# paths: the day will come when torch.jit is gone.
FIXTURE = ROOT / "tests" / "helpers" / "tiny_clip_torchscript.pt"
FIXTURE_FINGERPRINT = "77a5be401a6044fb6593dd7505c575a1e9b7eece4c7a8ccdb6e0628fe99401d7"


def fp16_exact(clip: CLIP) -> CLIP:
    """Random weights everywhere, those that start as constants included, which fp16 holds without rounding."""
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).half())
    return clip.eval()


def two_layer_clip() -> CLIP:
    torch.manual_seed(0)
    return fp16_exact(CLIP(VisionTransformer(side=64, patch=16, width=64, layers=2, heads=1, embed_dim=24),
                           TextEncoder(vocabulary=100, context_length=12, width=64, layers=2, heads=1, embed_dim=24)))


def smallest_clip() -> CLIP:
    torch.manual_seed(1)
    return fp16_exact(CLIP(VisionTransformer(side=16, patch=8, width=64, layers=1, heads=1, embed_dim=8),
                           TextEncoder(vocabulary=16, context_length=6, width=64, layers=1, heads=1, embed_dim=8)))


def half(state: dict) -> dict:
    return {name: t.half() if t.is_floating_point() else t for name, t in state.items()}


def openai_state(clip: CLIP) -> dict:
    """As OpenAI ships it: fp16 and with the three buffers."""
    state = half(clip.state_dict_openai())
    assert set(BUFFERS) < set(state)
    return state


def write_plain(clip: CLIP, path: Path) -> None:
    torch.save(openai_state(clip), path)


def write_legacy(clip: CLIP, path: Path) -> None:
    torch.save(openai_state(clip), path, _use_new_zipfile_serialization=False)


def write_training_checkpoint(clip: CLIP, path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in openai_state(clip).items()}
    torch.save({"epoch": 32, "name": "ViT", "state_dict": state}, path)


def write_safetensors(clip: CLIP, path: Path) -> None:
    state = {name: t.contiguous() for name, t in clip.state_dict_openai().items()}
    save_file({name: state[name] for name in state if name not in BUFFERS}, path, metadata={"format": "pt"})


def hugging_face_state(clip: CLIP) -> dict:
    """Under the names of transformers' CLIPModel: Linears for the projections, q, k and v each on its own."""
    visual, text = clip.visual.state_dict(), clip.text.state_dict()
    out = {
        "logit_scale": clip.logit_scale.detach(),
        "text_model.embeddings.token_embedding.weight": text["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": text["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(clip.text.context_length)[None],
        "text_projection.weight": text["text_projection"].T,
        "vision_model.embeddings.class_embedding": visual["class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": visual["conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": visual["positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(len(visual["positional_embedding"]))[None],
        "visual_projection.weight": visual["proj"].T,
    }
    norms = {"text_model.final_layer_norm": (text, "ln_final"), "vision_model.pre_layrnorm": (visual, "ln_pre"),
             "vision_model.post_layernorm": (visual, "ln_post")}
    for name, (state, ours) in norms.items():
        for kind in ("weight", "bias"):
            out[f"{name}.{kind}"] = state[f"{ours}.{kind}"]
    for tower, encoder in (("text", clip.text), ("vision", clip.visual)):
        for i, block in enumerate(encoder.transformer.resblocks):
            layer = f"{tower}_model.encoder.layers.{i}"
            for kind in ("weight", "bias"):
                for part, tensor in zip("qkv", getattr(block.attn, f"in_proj_{kind}").detach().chunk(3)):
                    out[f"{layer}.self_attn.{part}_proj.{kind}"] = tensor
                for name, module in (("self_attn.out_proj", block.attn.out_proj), ("layer_norm1", block.ln_1),
                                     ("layer_norm2", block.ln_2), ("mlp.fc1", block.mlp.c_fc),
                                     ("mlp.fc2", block.mlp.c_proj)):
                    out[f"{layer}.{name}.{kind}"] = getattr(module, kind).detach()
    return {name: tensor.clone().contiguous() for name, tensor in out.items()}


def write_hugging_face(clip: CLIP, path: Path) -> None:
    save_file(hugging_face_state(clip), path, metadata={"format": "pt"})


def write_torchscript(clip: CLIP, path: Path) -> None:
    """Traced in fp16 from a module in OpenAI's layout, as ViT-B-16.pt was."""
    module = ReferenceCLIP(clip).eval().half().requires_grad_(False)
    module.text_projection.data = module.text_projection.data.T.contiguous().T  # archives may hold columns first
    ids = torch.zeros(2, clip.text.context_length, dtype=torch.long)
    ids[:, 3] = clip.text.token_embedding.num_embeddings - 1
    example = torch.randn(2, 3, clip.visual.side, clip.visual.side).half(), ids
    torch.jit.save(torch.jit.trace(module, example, check_trace=False), path)


class Evil:
    """Unpickling it runs a command that touches ``file``."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def zipped(path: Path, pickled: bytes | None) -> None:
    """A file that looks like a TorchScript archive, with ``pickled`` for its data, if any."""
    with zipfile.ZipFile(path, "w") as archive:
        if pickled is not None:
            archive.writestr("clip/data.pkl", pickled)
        archive.writestr("clip/constants.pkl", pickle.dumps(()))


def assert_holds(weights, clip: CLIP) -> None:
    """``weights`` are exactly those of ``clip``, in fp32."""
    for found, expected in ((weights.visual, clip.visual.state_dict()), (weights.text, clip.text.state_dict()),
                            ({"logit_scale": weights.logit_scale}, {"logit_scale": clip.logit_scale.detach()})):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == torch.float32 and torch.equal(found[name], tensor), name


def error_of(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_clip(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return two_layer_clip()


@pytest.fixture(scope="module")
def fingerprint(clip, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("plain") / "clip.pt"
    write_plain(clip, path)
    return read_clip(path).fingerprint


WRITERS = [write_plain, write_legacy, write_training_checkpoint, write_safetensors, write_hugging_face]
TRACED = pytest.param(write_torchscript, marks=[
    pytest.mark.skipif(not hasattr(getattr(torch, "jit", None), "trace"), reason="torch.jit is gone"),
    pytest.mark.filterwarnings("ignore")])


@pytest.mark.parametrize("write", [*WRITERS, TRACED])
def test_every_format_gives_the_same_weights(write, clip, fingerprint, tmp_path):
    path = tmp_path / "clip.bin"  # the name says nothing of the format
    write(clip, path)
    weights = read_clip(path)
    assert_holds(weights, clip)
    assert weights.fingerprint == fingerprint


def test_torchscript_without_torch_jit(tmp_path, monkeypatch):
    assert FIXTURE.stat().st_size < 300_000
    with monkeypatch.context() as without:
        without.delattr(torch, "jit", raising=False)
        weights = read_clip(FIXTURE)
    assert weights.fingerprint == FIXTURE_FINGERPRINT
    assert build_vision(weights).side == 16


@pytest.mark.parametrize("name, place", [("visual.ln_post.bias", 3), ("logit_scale", ())])
def test_the_fingerprint_tells_weights_apart(name, place, clip, fingerprint, tmp_path):
    state = openai_state(clip)
    state[name] = state[name].clone()
    state[name][place] += 0.5
    torch.save(state, tmp_path / "clip.pt")
    assert read_clip(tmp_path / "clip.pt").fingerprint != fingerprint


@torch.no_grad()
def test_built_clip_is_the_clip_that_was_saved(clip, tmp_path):
    write_hugging_face(clip, tmp_path / "clip.safetensors")
    built = build_clip(read_clip(tmp_path / "clip.safetensors").with_activation("quickgelu", "")).eval()
    images, ids = torch.randn(2, 3, 64, 64), torch.tensor([[98, 5, 99, 0], [98, 7, 8, 99]])
    assert torch.equal(built.encode_image(images), clip.encode_image(images))
    assert torch.equal(built.encode_text(ids), clip.encode_text(ids))
    assert torch.equal(built.logit_scale, clip.logit_scale)


def test_missing_file_names_path_and_official_url(tmp_path):
    message = error_of(tmp_path / "ViT-B-16.pt")
    assert URL in message and "python -m data.prepare clip" in message
    message = error_of(tmp_path / "ViT-L-14.pt")
    assert MODELS["ViT-L/14"] in message and "python -m data.prepare clip --model ViT-L/14 --out" in message


@pytest.mark.parametrize("size, near", [(60, "48 or 64"), (7, "16"), (65, "64 or 80")])
def test_a_size_between_two_patches_names_the_nearest(clip, size, near, tmp_path):
    write_hugging_face(clip, tmp_path / "clip.safetensors")
    weights = read_clip(tmp_path / "clip.safetensors").with_activation("quickgelu", "")
    with pytest.raises(WeightsError, match=f"model.size={size} is not a multiple.*of 16 px.*nearest.* is {near}$"):
        build_clip(weights, size)


@pytest.mark.parametrize("changes, said", [
    ({"visual.transformer.resblocks.1.ln_2.bias": None, "ln_final.weight": None},
     "missing: ln_final.weight, visual.transformer.resblocks.1.ln_2.bias"),
    *(({name: None}, f"'{name}'") for name in ("visual.conv1.weight", "visual.proj", "visual.positional_embedding",
                                               "token_embedding.weight", "positional_embedding")),
    ({"text_projection": None}, "missing: text_projection"),
    ({"visual.attnpool.k_proj.bias": torch.zeros(3)}, "superfluous: visual.attnpool.k_proj.bias"),
    ({"transformer.resblocks.0.mlp.c_fc.bias": torch.zeros(3)},
     "one CLIP: of another shape: transformer.resblocks.0.mlp.c_fc.bias"),
    *(({name: torch.zeros(shape)}, "") for name, shape in (  # those that give the sizes
        ("visual.conv1.weight", (64, 3)), ("visual.conv1.weight", (8, 3, 16, 16)), ("visual.proj", (64,)),
        ("visual.positional_embedding", ()), ("visual.positional_embedding", (13, 64)), ("positional_embedding", ()),
        ("token_embedding.weight", (64,)), ("text_projection", (24,)), ("logit_scale", (1,)))),
    ({"visual.conv1.weight": torch.zeros(0, 3, 16, 16)}, "missing or odd"),
    ({"visual.conv1.weight": torch.zeros(96, 3, 16, 16)}, "width 96"),
    ({"visual.conv1.weight": torch.zeros(64, 3, 16, 16, dtype=torch.int8)}, "visual.conv1.weight (int8)"),
    ({"ln_final.bias": torch.zeros(64, dtype=torch.bool)}, "ln_final.bias (bool)"),
    ({"visual.proj": torch.zeros(64, 24, dtype=torch.complex64)}, "visual.proj (complex64)"),
    ({"text_projection": torch.zeros(1).expand(64, 24)}, "text_projection (too few values for (64, 24))"),
    ({"token_embedding.weight": torch.zeros(1).expand(10**12, 64)}, "too few values for (1000000000000, 64)"),
    ({"visual.ln_post.bias": torch.full((64,), float("nan"))}, "NaN or infinity: visual.ln_post.bias"),
    ({"visual.ln_post.bias": torch.full((64,), 1e300, dtype=torch.float64)}, "NaN or infinity: visual.ln_post.bias"),
    ({"visual.transformer.resblocks.999999.ln_1.bias": torch.zeros(64)}, "a block 999999, but only 3 blocks"),
    ({"visual.ln_post.bias": torch.zeros(64, device="meta")}, "no weights: visual.ln_post.bias"),
    ({"visual.positional_embedding": torch.zeros(1, 64)}, "images of 0 px"),
    ({"positional_embedding": torch.zeros(0, 64)}, "0 positions of text"),
    ({"logit_scale": torch.tensor(1000.0)}, "logit_scale is 1000"),
    ({"logit_scale": torch.tensor(-1000.0)}, "logit_scale is -1000"),
    ({"module.visual.ln_post.bias": torch.zeros(64)}, "two models, one of them under module."),
])
def test_tensors_that_do_not_fit_are_named(changes, said, clip, tmp_path):
    state = openai_state(clip) | changes
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "clip.pt")
    message = error_of(tmp_path / "clip.pt")
    assert said in message and len(message) < 600 and "\n" not in message


def test_hugging_face_tensors_are_checked_too(clip, tmp_path):
    state = hugging_face_state(clip)
    del state["text_model.encoder.layers.1.self_attn.k_proj.bias"]
    save_file(state, tmp_path / "lacking")
    message = error_of(tmp_path / "lacking")
    assert "transformer.resblocks.1.attn.in_proj_bias" in message and "'k'" in message
    save_file(hugging_face_state(clip) | {"vision_model.head.weight": torch.zeros(2)}, tmp_path / "more")
    assert "vision_model.head.weight" in error_of(tmp_path / "more")
    odd = {"text_model.encoder.layers.1.self_attn.q_proj.weight": torch.zeros(64, 5)}
    save_file(hugging_face_state(clip) | odd, tmp_path / "odd")
    assert "transformer.resblocks.1.attn.in_proj_weight" in error_of(tmp_path / "odd")


def copy_of_torchscript(clip: CLIP, path: Path) -> None:
    path.write_bytes(FIXTURE.read_bytes())


@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
@pytest.mark.parametrize("write", [*WRITERS, copy_of_torchscript])
def test_truncated_file(write, share, clip, tmp_path):
    path = tmp_path / "clip.bin"
    write(clip, path)
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    assert "python -m data.prepare clip" in error_of(path)


@pytest.mark.parametrize("content", [
    b"", b"PK", b"<!DOCTYPE html><html>404</html>\n", b"abcdefgh{}",
    b"weights {of CLIP}\n",  # a brace where safetensors has its first
    b"version https://git-lfs.github.com/spec/v1\noid sha256:58\nsize 350\n",
    [1, 2], {"state_dict": 3}, {"epoch": 1}, {0: torch.zeros(2)}, torch.zeros(2), {},
])
def test_file_of_another_kind(content, tmp_path):
    path = tmp_path / "clip.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    message = error_of(path)
    assert "cannot be read as CLIP weights" in message or not isinstance(content, bytes)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pickle_is_not_run(clip, tmp_path):
    touched = tmp_path / "touched"
    pickle.loads(pickle.dumps(Evil(touched)))
    assert touched.exists()  # it does bite
    touched.unlink()
    evil = openai_state(clip) | {"extra": Evil(touched)}
    torch.save(evil, tmp_path / "zip.pt")
    torch.save(evil, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil(touched)))
    for protocol in (0, 2, 4):
        zipped(tmp_path / f"script{protocol}.pt", pickle.dumps({"visual": Evil(touched)}, protocol=protocol))
    for path in sorted(tmp_path.glob("*.pt")):
        error_of(path)
        assert not touched.exists(), path.name


@pytest.mark.parametrize("function", ["builtins eval", "torch load", "torch._utils _rebuild_tensor", "torch.jit load",
                                      "torch.hub load", "__builtin__ exec"])
def test_torchscript_archive_may_name_nothing_but_tensors(function, tmp_path):
    module, name = function.split()
    zipped(tmp_path / "clip.pt", f"c{module}\n{name}\n(S'1'\ntR.".encode())
    assert f"{module}.{name}" in error_of(tmp_path / "clip.pt")


@pytest.mark.parametrize("pickled", [b"", b"hello", pickle.dumps(3), pickle.dumps({"visual": 1}),
                                     b"\x80\x02K\x01Q.",  # a storage that is a number
                                     b"ctorch._utils\n_rebuild_tensor_v2\n)R.",  # a tensor of nothing
                                     b"c__torch__.a\nb\n}b.",  # attributes of a class
                                     None])
def test_torchscript_archive_of_nonsense(pickled, tmp_path):
    zipped(tmp_path / "clip.pt", pickled)
    error_of(tmp_path / "clip.pt")


def test_torchscript_storage_shorter_than_claimed(tmp_path):
    with zipfile.ZipFile(FIXTURE) as whole, zipfile.ZipFile(tmp_path / "clip.pt", "w") as archive:
        for entry in whole.namelist():
            data = whole.read(entry)
            archive.writestr(entry, data[:len(data) // 2] if entry.endswith("/data/0") else data)
    assert "storage 0" in error_of(tmp_path / "clip.pt")


@torch.no_grad()
def test_build_vision_resizes_the_position_embedding(clip, tmp_path):
    write_plain(clip, tmp_path / "clip.pt")
    weights = read_clip(tmp_path / "clip.pt")
    as_trained, larger = build_vision(weights), build_vision(weights, 96)
    assert torch.equal(as_trained.positional_embedding, clip.visual.positional_embedding)
    assert torch.equal(larger.positional_embedding, resize_position_embedding(clip.visual.positional_embedding, 6))
    assert (larger.side, larger.grid, larger.patch) == (96, 6, 16)
    assert larger(torch.randn(1, 3, 96, 96)).shape == (1, 1 + 6 * 6, 64)
    for name, tensor in as_trained.state_dict().items():
        assert name == "positional_embedding" or torch.equal(tensor, larger.state_dict()[name])
    assert len(weights.visual["positional_embedding"]) == 1 + 4 * 4  # the weights themselves stay as read


@pytest.mark.skipif(not MINI_CLIP.is_file(), reason="data/shapes/mini_clip.pt has not been made yet")
def test_shipped_mini_clip_loads_and_is_small():
    assert MINI_CLIP.stat().st_size <= 12_000_000
    build_clip(read_clip(MINI_CLIP))


# What is no weights, and what others trained

def test_a_text_encoder_of_another_tokenizer_is_refused(clip):
    with pytest.raises(WeightsError, match="w.pt: the text encoder knows 100 tokens, and CLIP's tokenizer has 49,408"):
        embed_names(clip.text, ["cat"], Model(clip="w.pt"))


def test_a_torchscript_tensor_larger_than_its_storage_is_refused():
    storage = torch.zeros(4)
    with pytest.raises(pickle.UnpicklingError, match="lies in a storage of 4 values"):
        TorchScriptUnpickler.tensor(storage, 0, (10**6, 10**6), (0, 0))


def test_a_foreign_object_is_named_and_nobody_is_told_to_overwrite_the_file(clip, tmp_path):
    for write in (True, False):
        torch.save({"state_dict": openai_state(clip), "args": Evil(tmp_path / "x")}, tmp_path / "clip.pt",
                   _use_new_zipfile_serialization=write)
        message = error_of(tmp_path / "clip.pt")
        assert "holds a posix.system" in message and "data.prepare" not in message and "state_dict()" in message
    zipped(tmp_path / "clip.pt", b"cmy.module\nThing\n(tR.")
    assert "holds a my.module.Thing" in error_of(tmp_path / "clip.pt")


def hugging_face_config(act: str | None, layers: int = 2) -> dict:
    vision = {"hidden_size": 64, "num_hidden_layers": layers} | ({"hidden_act": act} if act else {})
    return {"model_type": "clip", "vision_config": vision}


def open_clip_config(quick: bool | None) -> dict:
    quick = {} if quick is None else {"quick_gelu": quick}
    return {"model_cfg": {"embed_dim": 24, "vision_cfg": {"width": 64, "layers": 2}, **quick}}


@pytest.mark.parametrize("name, config, expected", [
    ("config.json", hugging_face_config("gelu"), "gelu"),
    ("config.json", hugging_face_config("quick_gelu"), "quickgelu"),
    ("config.json", hugging_face_config(None), "quickgelu"),          # transformers' default
    ("config.json", hugging_face_config("gelu", layers=3), None),     # of another model
    ("config.json", hugging_face_config("relu"), None),
    ("config.json", ["odd"], None), ("config.json", {"vision_config": 3}, None), ("config.json", None, None),
    ("open_clip_config.json", open_clip_config(None), "gelu"),
    ("open_clip_config.json", open_clip_config(True), "quickgelu"),
])
def test_the_activation_is_what_the_config_beside_the_weights_says(name, config, expected, tmp_path):
    clip = two_layer_clip()
    clip.visual.transformer.resblocks[0].mlp.c_fc.weight.data += 1e-5  # no fp16 value any more
    write_safetensors(clip, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / name).write_text(json.dumps(config))
    assert read_clip(tmp_path / "model.safetensors").activation == expected


def test_what_the_file_itself_tells_of_its_activation(clip, tmp_path):
    assert read_clip(FIXTURE).activation == "quickgelu"                # the archive's code
    write_plain(clip, tmp_path / "clip.pt")
    assert read_clip(tmp_path / "clip.pt").activation == "quickgelu"   # OpenAI's buffers
    write_hugging_face(clip, tmp_path / "half")
    assert read_clip(tmp_path / "half").activation is None             # all rounded to fp16, by whom it does not tell
    clip.visual.ln_post.bias.data += 1e-5  # no fp16 value any more
    write_hugging_face(clip, tmp_path / "openai")
    assert read_clip(tmp_path / "openai").activation == "quickgelu"    # fp16 where OpenAI published fp16
    with zipfile.ZipFile(FIXTURE) as whole, zipfile.ZipFile(tmp_path / "gelu.pt", "w") as archive:
        for entry in whole.namelist():
            archive.writestr(entry, whole.read(entry).replace(b"torch.sigmoid(", b"torch.gelu("))
    assert read_clip(tmp_path / "gelu.pt").activation == "gelu"


@torch.no_grad()
def test_gelu_reaches_every_block_of_clip_and_no_other():
    """The option decides; "auto" is what the file tells; where it tells nothing, the line says what to set."""
    clip = two_layer_clip()
    weights = ClipWeights(clip.visual.state_dict(), clip.text.state_dict(), clip.logit_scale.detach(), "f", None)
    with pytest.raises(WeightsError, match="c.pt: the file does not tell .*model.activation=quickgelu .*=gelu"):
        build_esda(Model(clip="c.pt", size=64, replace_indices=[1]), weights)
    told = weights._replace(activation="gelu")
    for options, given in (({"activation": "gelu"}, weights), ({}, told)):
        model, resolved = build_model(Model(size=64, replace_indices=[1], **options), given)
        assert resolved.fingerprint == "f+gelu"
        assert resolved.with_activation("auto", "").fingerprint == "f+gelu"
        kinds = {part: {type(m.mlp.gelu) for m in getattr(model, part).modules() if hasattr(m, "mlp")}
                 for part in ("text_encoder", "image_encoder", "interactor")}
        assert kinds == {"text_encoder": {nn.GELU}, "image_encoder": {nn.GELU}, "interactor": {QuickGELU}}
    x, gelu = torch.linspace(-3, 3, 64), model.text_encoder.transformer.resblocks[0].mlp.gelu
    torch.testing.assert_close(gelu(x), x * (1 + torch.erf(x / 2**0.5)) / 2, atol=1e-5, rtol=1e-4)
    _, resolved = build_model(Model(size=64, replace_indices=[1], activation="quickgelu"), told)
    assert (resolved.activation, resolved.fingerprint) == ("quickgelu", "f")


def test_vit_h_14_has_16_heads():
    """OpenCLIP's ViT-H-14.json: width 1280, head_width 80, patch 14. Heads of every other width are 64 wide."""
    assert [vision_heads(width) for width in (768, 1024, 1280)] == [12, 16, 16]
    with torch.device("meta"):
        visual = VisionTransformer(224, 14, 1280, 2, 16, 1024)
    weights, built = ClipWeights(visual.state_dict(), {}, None, "H"), []

    class Seen(VisionTransformer):
        def __init__(self, side, patch, width, layers, heads, *rest, **options):
            built.append((side, patch, width, layers, heads))
            raise KeyError

    with pytest.raises(KeyError):
        build_vision(weights, cls=Seen)
    assert built == [(224, 14, 1280, 2, 16)]

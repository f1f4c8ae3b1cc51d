"""Released checkpoints, and what the released code does differently around the model: names, geometry, configs."""
import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from released_reference import OPTIONS, Reference
from runs import complains, in_process

from data.fold import FoldData
from data.folds import Classes, classes_of
from data.transform import FITS, to_input_released, to_original_released
from model.build import build_model
from model.clip.formats import from_released
from model.clip.tokenizer import Tokenizer
from model.clip.weights import WeightsError, read_clip
from util.config import ROOT, Config, flat, load, to_dict
from util.evaluation.evaluate import evaluate
from util.evaluation.predictor import Predictor
from util.options import Model
from util.run import checkpoint
from util.runtime.errors import UserError

RELEASED = "config/shapes/released.yaml"


def save(reference: Reference, path: Path, prefix: str = "", **changes) -> Path:
    """A released checkpoint."""
    state = {prefix + name: tensor for name, tensor in reference.state_dict().items()}
    optimizer = torch.optim.SGD(reference.parameters(), 0.1, momentum=0.9).state_dict()
    state = {name: tensor for name, tensor in {**state, **changes}.items() if tensor is not None}
    torch.save({"epoch": 6, "state_dict": state, "optimizer": optimizer}, path)
    return path


def ours(path: Path, **options):
    """The model that test.py would make of a released checkpoint."""
    clip = read_clip(path)
    model = build_model(Config(model=Model(**{**OPTIONS, **options})), clip)
    checkpoint.restore(model, checkpoint.load(path), path, clip.fingerprint)
    return model


def test_names_as_in_the_annotation_files():
    words, annotation = (Classes.read(ROOT / "lists/pascal/classes.yaml", naming=naming)
                         for naming in ("words", "annotation"))
    changed = {a: b for a, b in zip(words.names, annotation.names) if a != b}
    assert changed == {"dining table": "diningtable", "potted plant": "pottedplant", "tv monitor": "tvmonitor"}
    for arch, expected in (("esda", words), ("released", annotation)):
        assert classes_of(load(Config, ROOT / "config/pascal" / f"{arch}.yaml").data) == expected


# Evaluation geometry

@pytest.mark.parametrize("height, width, inner", [
    (375, 500, (360, 480)), (333, 500, (312, 480)),  # 333 * 0.96 = 319.7: 319, and 312
    (500, 500, (480, 480)), (4, 500, (8, 480)),
    (427, 427, (480, 472))])  # int(427 * (480 / 427)) is 479: so it is there too
def test_released_fit_by_hand(height, width, inner):
    image = np.random.default_rng(0).integers(1, 255, (height, width, 3)).astype(np.uint8)
    canvas, found = to_input_released(image, 480, (123, 117, 104))
    assert found == inner and canvas.shape == (480, 480, 3) and canvas.dtype == np.uint8
    assert np.array_equal(canvas[:inner[0], :inner[1]], cv2.resize(image, inner[::-1], interpolation=cv2.INTER_LINEAR))
    assert not canvas[inner[0]:].any() and not canvas[:, inner[1]:].any()


def test_released_way_back_by_hand():
    """375 x 500: the 480 x 480 logits become 500 x 500, corner on corner, and the top 375 rows are scored."""
    rows, columns = torch.meshgrid(torch.arange(480.0), torch.arange(480.0), indexing="ij")
    for ramp, index in ((rows, torch.arange(375)[:, None]), (columns, torch.arange(500)[None])):
        found = to_original_released(ramp, (360, 480), (375, 500))
        assert found.shape == (375, 500)
        assert torch.allclose(found, (index * 479 / 499).expand(375, 500), atol=1e-3)


@pytest.mark.parametrize("name, rate", [("pascal", 10 * 5e-5), ("coco", 10 * 1e-4), ("shapes", None)])
def test_released_configs_switch_everything_on_and_nothing_else(name, rate):
    esda, released = (flat(to_dict(load(Config, ROOT / "config" / name / f"{arch}.yaml")))
                      for arch in ("esda", "released"))
    assert {key: released[key] for key in esda if esda[key] != released[key]} == {
        "arch": "released", "data.names": "annotation", "model.pixel_mean": [0.485, 0.456, 0.406],
        "model.pixel_std": [0.229, 0.224, 0.225], "model.prompt": "{}", "model.cls_twice": True,
        "model.token_order": "released", "model.mask_padding": False, "model.align_corners": True,
        "loss.sign": "released", "loss.ignored": "background", "eval.fit": "released",
        **({} if name == "shapes" else {"precision": "fp32"})}
    assert rate is None or released["train.lr"] == pytest.approx(rate)


# Names of tensors

def test_a_full_size_checkpoint_maps_one_to_one():
    with torch.device("meta"):
        theirs = Reference(side=480, patch=16, width=768, layers=12, dim=512, vocabulary=49408, length=77,
                           text_layers=12).state_dict()
    clip, trained = from_released(theirs)
    assert clip.pop("logit_scale").exp().item() == pytest.approx(100)
    assert len(trained) + len(clip) == len(theirs)
    assert sum(t.numel() for t in trained.values()) == 39_191_938
    assert sum(t.numel() for t in clip.values()) == 189_353_346 - 39_191_938
    for name, named in {
            "visual.ln_pre.bias": "image_encoder.ln_pre.bias",
            "token_embedding.weight": "text_encoder.token_embedding.weight",
            "image_encoder.text_proj.weight": "image_encoder.text_cls_proj.weight",
            "image_encoder.branches.11.up": "image_encoder.prompt.23",
            "interactor.cls_proj.weight": "decoder.text_embedding_proj.weight",
            "interactor.fuse_proj.bias": "decoder.text_img_concat_proj.bias",
            "interactor.vl.1.resblocks.0.ln_1.weight": "decoder.VL_interaction.1.resblocks.0.ln_1.weight",
            "interactor.sse.0.resblocks.0.mlp.c_proj.weight": "decoder.SSE.0.resblocks.0.mlp.c_proj.weight",
            "decoder.res.2.weight": "decoder.res2.2.weight", "decoder.cls.3.bias": "decoder.cls.3.bias"}.items():
        assert {**clip, **trained}[name] is theirs[named]


@pytest.mark.parametrize("change, named", [
    ({"image_encoder.prompt.2": None}, "missing: image_encoder.branches.1.down"),
    ({"image_encoder.prompt.8": torch.zeros(128, 2)}, "superfluous: image_encoder.branches.4.down"),
    ({"decoder.res.0.weight": torch.zeros(256, 129, 3, 3)}, "superfluous: unknown decoder.res.0.weight"),  # ours
    ({"image_encoder.text_proj.bias": torch.zeros(128)}, "superfluous: visual.text_proj.bias"),  # likewise
    ({"decoder.cls.3.weight": torch.zeros(3, 64, 1, 1)}, "of another shape: decoder.cls.3.weight"),
    ({"text_encoder.ln_final.bias": None}, "missing: ln_final.bias")])
def test_every_tensor_is_accounted_for(change, named, tmp_path):
    path = save(Reference().fill(0), tmp_path / "broken.pth", **change)
    with pytest.raises((UserError, WeightsError), match="broken.pth") as caught:
        ours(path)
    assert named in str(caught.value) and "\n" not in str(caught.value)


# Files and commands

@pytest.fixture(scope="module")
def reference() -> Reference:
    """With CLIP's vocabulary, for the set of 64 px."""
    return Reference(side=64, vocabulary=49408, length=16).fill(1).eval()


@pytest.fixture(scope="module")
def released_file(reference, tmp_path_factory) -> Path:
    return save(reference, tmp_path_factory.mktemp("released") / "best.pth", prefix="module._orig_mod.")


def by_reference(reference: Reference, cfg: Config) -> dict:
    """Scores of the reference itself under our evaluator."""
    class Model(torch.nn.Module):
        def forward(self, images, ids):
            logits, prior, _ = reference(images, ids)
            return SimpleNamespace(logits=logits, prior=prior, presence=None)

    data = FoldData(cfg)
    assert data.fit is FITS["released"]
    ids = Tokenizer()(data.classes.names, 16)
    predict = Predictor(Model(), ids, data.fit, torch.device("cpu"), contextlib.nullcontext())
    return evaluate(predict, data.loader(data.draws()[0]), data.unseen, data.classes, cfg.eval.protocol).scores


def test_a_released_checkpoint_through_test_py(tiny_options, reference, released_file, tmp_path):
    mine = [*tiny_options, "model.clip=nowhere.pt", "model.replace_indices=[1, 2]"]
    done = in_process("test.py", "--config", RELEASED, *mine, f"weights={released_file}", "run=r")
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "exp" / "shapes" / "released" / "fold0" / "r" / "results.json").read_text())
    expected = by_reference(reference, load(Config, ROOT / RELEASED, mine))
    assert scores["per_class"] == pytest.approx(expected["per_class"], abs=0.05) and expected["miou"] > 1
    assert scores["checkpoint"] == str(released_file) and scores["epoch"] == 7 and "trained_on" not in scores


def test_training_goes_on_from_a_released_checkpoint_on_the_clip_in_it(tiny_options, released_file, tmp_path):
    """Its own checkpoints say where that CLIP is; they carry none, and resume= and test.py then find it."""
    mine = ["--config", RELEASED, *tiny_options, "model.replace_indices=[1, 2]", "train.epochs=1", "train.lr=0",
            "train.muon_lr=0", "train.epoch_samples=8", "eval.seen_samples=1"]
    done = in_process("train.py", *mine, "run=t", f"weights={released_file}")
    assert done.returncode == 0 and "the CLIP that the file carries" in done.stdout, done.stderr
    folder = tmp_path / "exp" / "shapes" / "released" / "fold0" / "t"
    best = checkpoint.load(folder / "checkpoints" / "best.pt")
    assert best["config"]["model"]["clip"] == str(released_file)
    assert best["clip"] == read_clip(released_file).fingerprint
    for name, tensor in checkpoint.load(released_file)["model"].items():
        assert torch.equal(best["model"][name], tensor), name
    assert in_process("train.py", *mine, f"resume={folder}").returncode == 0
    complains(in_process("test.py", *mine, f"weights={folder}/checkpoints/best.pt"), "other CLIP", released_file)
    complains(in_process("train.py", *mine, f"resume={released_file}"), "resume= wants a run's folder")
    out = tmp_path / "out.safetensors"
    complains(in_process("convert.py", released_file, out), released_file, "carries a CLIP")
    assert not out.exists()

"""Segmenter: what it finds is what the evaluator scores, and names and images share the work that they can share."""
import re
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from needs import needs_artwork
from PIL import Image
from predicting import NAMES, SIDE, checkpoint_of, write_scene

from data.fold import FoldData
from data.shapes.artwork import artwork, pictures
from data.shapes.scene import Style, scene
from model.build import embed_classes
from util.config import ROOT, load
from util.evaluation.predictor import Predictor
from util.options import Config
from util.predict.inputs import TRAINING_FREE
from util.predict.segmenter import Segmenter


@pytest.fixture(scope="module")
def loaded(tiny_clip, tmp_path_factory):
    """loaded(kind, threshold): a Segmenter of an untrained model on the CPU."""
    @cache
    def loaded(kind: str, threshold: float | None = None) -> Segmenter:
        if kind in TRAINING_FREE:
            return Segmenter.load(model=kind, clip=tiny_clip, size=SIDE, device="cpu")
        file = checkpoint_of(kind, tiny_clip, tmp_path_factory.mktemp(kind) / "best.pt", threshold)
        return Segmenter.load(file, device="cpu")
    return loaded


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scenes") / "wide.png", 2, (90, 60))


@pytest.fixture(params=["esda", "plus", "naclip"])
def segmenter(request, loaded) -> Segmenter:
    return loaded(request.param)


def test_prediction_and_evaluation_agree_pixel_for_pixel(segmenter, tiny_options, monkeypatch):
    """The names in one list as the evaluator embeds them, one name at a time: the same numbers, bit for bit."""
    monkeypatch.setattr("util.predict.segmenter.NAMES_AT_ONCE", 1)
    cfg = load(Config, ROOT / f"config/shapes/{segmenter.cfg.model.kind}.yaml", [*tiny_options, "eval.batch_size=1"])
    data = FoldData(cfg)
    text = embed_classes(segmenter.model, data.classes.names, data.seen, segmenter.cfg)
    evaluate = Predictor(segmenter.model, text, segmenter.fit, torch.device("cpu"), nullcontext())
    shares = []
    for p in (p for batch in data.loader(data.draws()[0][:4]) for p in evaluate(batch)):
        k = p.sample.class_id - 1
        file = Path(cfg.data.root) / data.index.pairs[p.sample.row][0]
        result = segmenter(file, data.classes.names, separate=True, threshold=0)
        assert np.array_equal(result.margin(k), p.margin.numpy())
        assert np.array_equal(result.masks[k], p.margin.numpy() > 0)
        assert result.scores[k] == pytest.approx(1 / (1 + np.exp(-p.presence)), rel=1e-5)
        shares.append(result.shares[k])
    assert any(0.02 < share < 0.98 for share in shares), "or the test shows nothing"


def test_an_image_set_once_answers_as_a_call_does_without_another_pass(segmenter, picture, monkeypatch):
    alone = segmenter(picture, NAMES, others=["tree"], separate=True, threshold=0)
    segmenter.set_image(picture)
    monkeypatch.setattr(type(segmenter.model), "before_names", lambda *_: pytest.fail("a second pass"))
    monkeypatch.setattr("util.predict.segmenter.embed_names", lambda *_: pytest.fail("embedded again"))
    result = segmenter.predict(NAMES, others=["tree"], separate=True, threshold=0)
    assert np.array_equal(result.masks, alone.masks) and np.array_equal(result.scores, alone.scores)


def test_a_score_of_a_half_is_the_checkpoints_threshold(loaded, picture):
    segmenter = loaded("esda", 1.5)
    assert segmenter.notes == [] and "not calibrated" in loaded("esda").notes[0]
    score = segmenter(picture, "star").scores[0]
    assert segmenter.predict("star", threshold=float(score)).found[0]
    assert not segmenter(picture, "star", threshold=float(np.nextafter(score, np.float32(1)))).masks.any()


def test_clips_verdict_counts_where_a_threshold_gives_it_a_zero(loaded, picture):
    calibrated = loaded("plus", 11.0)
    plain, moved = (np.log(scores / (1 - scores)) for scores in (
        s(picture, NAMES).scores.astype(float) for s in (loaded("plus"), calibrated)))
    shared = calibrated._image[-1]
    with torch.inference_mode():
        verdict = torch.cat([calibrated.model.clip_presence(shared, calibrated._embed(name)) for name in NAMES])
    assert np.allclose(moved - plain, verdict.numpy() - 11, atol=1e-2)


@needs_artwork
def test_the_shipped_checkpoint_finds_drawn_things():
    words, segmenter, ious = list(pictures())[:250], Segmenter.load(device="cpu"), []
    for i in range(6):
        image, mask, things = scene(words, range(1, 251), 99, i, Style(objects=(3, 4)), partial(artwork, "twemoji"))
        names = [thing.name for thing in things]
        for name, found in zip(names, segmenter(image, names).masks):
            true = mask == words.index(name) + 1
            ious.append((found & true).sum() / (found | true).sum())
    assert np.mean(ious) > 0.4 and "drawings" in segmenter.notes[0]


@pytest.mark.parametrize("page", ["README.md", "docs/predict.md"])
def test_the_pages_python_runs(page, loaded, picture, tmp_path, monkeypatch):
    """The page's images and checkpoint are replaced by those of this test."""
    segmenter = loaded("esda")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Segmenter, "load", classmethod(lambda cls, *args, **options: segmenter))
    for name in ("scene.jpg", "photo.jpg"):
        Image.open(picture).save(name)
    exec(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[0], {})
    assert list(tmp_path.glob("*.overlay.png"))

"""Segmenter: what it finds is what the evaluator scores, and names and images share the work that they can share."""
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predicting import NAMES, SIDE, checkpoint_of, write_scene

from data.dataset import EvalBatch, mean_colour
from data.fold import FoldData
from data.samples import Sample
from model.build import READINGS, embed_classes, embed_names
from util.config import ROOT, load
from util.evaluation.predict import Predictor
from util.evaluation.views import Views, boxes_of
from util.options import Config
from util.predict.command import TRAINING_FREE
from util.predict.images import as_image
from util.predict.segmenter import Segmenter
from util.predict.shipped import SHIPPED, is_scene, notes_on
from util.runtime.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def loaded(folder, tiny_clip):
    """loaded(kind): a Segmenter of an untrained model on the CPU."""
    made = {}

    def loaded(kind: str) -> Segmenter:
        if kind not in made and kind in TRAINING_FREE:
            made[kind] = Segmenter.load(model=kind, clip=tiny_clip, size=SIDE, device="cpu")
        elif kind not in made:
            made[kind] = Segmenter.load(checkpoint_of(kind, tiny_clip, folder / f"{kind}.pt"), device="cpu")
        return made[kind]
    return loaded


@pytest.fixture(scope="module")
def scenes(folder) -> list[Path]:
    """Two square ones, one wide, one tall."""
    return [write_scene(folder / "scenes" / f"{i}.png", i, size)
            for i, size in enumerate((None, None, (90, 60), (48, 100)))]


@pytest.fixture(params=["esda", "plus", "naclip"])
def segmenter(request, loaded) -> Segmenter:
    return loaded(request.param)


def evaluated(segmenter: Segmenter, options: list[str]):
    """The evaluator's predictions of a tiny validation list by the same model, and the image file of each."""
    kind = segmenter.cfg.model.kind
    cfg = load(Config, ROOT / "config" / "shapes" / f"{kind}.yaml", options + ["eval.batch_size=1"])
    data = FoldData(cfg)
    text = embed_classes(segmenter.model, data.classes.names, data.seen, segmenter.cfg.model)
    predict = Predictor(segmenter.model, text, segmenter.fit, torch.device("cpu"), nullcontext())
    samples = data.draws()[0][:4]
    predictions = [p for batch in data.loader(samples) for p in predict(batch)]
    return data, [(p, Path(cfg.data.root) / data.index.pairs[p.sample.row][0]) for p in predictions]


def test_prediction_and_evaluation_agree_pixel_for_pixel(segmenter, tiny_options, monkeypatch):
    """The names in one list as the evaluator embeds them, one name at a time: the same numbers, bit for bit."""
    monkeypatch.setattr("util.evaluation.predict.PIXELS_AT_ONCE", 1)
    data, predictions = evaluated(segmenter, tiny_options)
    varied = 0
    for p, file in predictions:
        k = p.sample.class_id - 1
        result = segmenter(file, data.classes.names, separate=True, threshold=0)
        assert np.array_equal(result.evidence(k), p.evidence.numpy())
        assert np.array_equal(result.masks[k], p.evidence.numpy() > 0)
        assert result.scores[k] == pytest.approx(1 / (1 + np.exp(-p.presence)), rel=1e-5)
        varied += 0.02 < result.shares[k] < 0.98
    assert varied, "or the test shows nothing"


def test_one_name_alone_gives_the_evaluators_mask(segmenter, tiny_options):
    """Rounding may differ, since a text is embedded alone."""
    data, predictions = evaluated(segmenter, tiny_options)
    for p, file in predictions:
        result = segmenter(file, data.classes.name(p.sample.class_id), threshold=0)
        evidence = p.evidence.numpy()
        np.testing.assert_allclose(result.evidence(0), evidence, rtol=1e-3, atol=1e-3)
        sure = np.abs(evidence) > 2e-3
        assert np.array_equal(result.masks[0][sure], evidence[sure] > 0) and sure.mean() > 0.98


def test_an_image_set_once_answers_as_a_call_does_without_another_pass(segmenter, scenes, monkeypatch):
    alone = segmenter(scenes[2], NAMES, others=["tree"], separate=True, threshold=0)
    segmenter.set_image(scenes[2])
    monkeypatch.setattr(type(segmenter.model), "before_names", lambda *_: pytest.fail("a second pass"))
    result = segmenter.predict(NAMES, others=["tree"], separate=True, threshold=0)
    assert np.array_equal(result.masks, alone.masks) and np.array_equal(result.scores, alone.scores)
    assert result.masks.shape == (5, 60, 90)
    assert segmenter.predict("star", threshold=0).masks.shape == (1, 60, 90)


def test_several_images_at_once_give_what_each_gives_alone(segmenter, scenes):
    sources = [scenes[0], np.array(Image.open(scenes[1])), Image.open(scenes[2]), str(scenes[3])]
    together = segmenter.batch(sources, NAMES, threshold=0, separate=True)
    for source, result in zip(sources, together, strict=True):
        alone = segmenter(source, NAMES, threshold=0, separate=True)
        assert result.image.shape == alone.image.shape and np.array_equal(result.image, alone.image)
        for k in range(len(NAMES)):
            np.testing.assert_allclose(result.evidence(k), alone.evidence(k), rtol=1e-3, atol=1e-3)
        assert result.scores == pytest.approx(alone.scores, abs=1e-4)


def test_names_are_embedded_once(loaded, scenes, monkeypatch):
    segmenter = loaded("esda")
    segmenter(scenes[0], NAMES)
    monkeypatch.setattr("util.predict.segmenter.embed_names", lambda *_: pytest.fail("embedded again"))
    segmenter(scenes[1], NAMES)


def test_a_score_of_a_half_is_the_checkpoints_threshold(loaded, folder, tiny_clip, scenes):
    assert not loaded("esda").calibrated and loaded("esda").threshold == 0.5
    segmenter = Segmenter.load(checkpoint_of("esda", tiny_clip, folder / "t.pt", threshold=1.5), device="cpu")
    assert segmenter.calibrated and segmenter.threshold == 0.5
    plain, moved = (s(scenes[0], NAMES).scores for s in (loaded("esda"), segmenter))
    assert np.allclose(np.log(plain / (1 - plain)) - np.log(moved / (1 - moved)), 1.5, atol=1e-2)
    result = segmenter(scenes[0], "star")
    assert result.threshold == segmenter.threshold and result.found[0]
    score = result.scores[0]
    assert segmenter(scenes[0], "star", threshold=float(score)).found[0]
    assert not segmenter(scenes[0], "star", threshold=float(np.nextafter(score, np.float32(1)))).masks.any()


def test_the_rivals_of_esda_plus_are_its_seen_classes_whatever_is_asked_for(loaded, scenes):
    segmenter = loaded("plus")
    before = segmenter.model.rivals.clone()
    segmenter(scenes[0], ["zebra", "tree"])
    assert len(before) == 15 and torch.equal(segmenter.model.rivals, before)


def test_clips_verdict_counts_where_a_threshold_gives_it_a_zero(loaded, folder, tiny_clip, scenes):
    calibrated = Segmenter.load(checkpoint_of("plus", tiny_clip, folder / "z.pt", threshold=11.0), device="cpu")
    plain, moved = (np.log(scores / (1 - scores)) for scores in (
        s(scenes[0], NAMES).scores.astype(float) for s in (loaded("plus"), calibrated)))
    with torch.inference_mode():
        [encoded] = calibrated._encode([as_image(scenes[0])])
        verdict = torch.cat([calibrated.model.clip_presence(encoded.shared, calibrated._embed([name]))
                             for name in NAMES])
    assert np.allclose(moved - plain, verdict.numpy() - 11, atol=1e-2)


def test_only_clip_is_needed_without_training(loaded, scenes):
    """The first map stretches from 0 to 1: something is always found."""
    for kind in TRAINING_FREE:
        result = loaded(kind)(scenes[0], ["star"])
        assert result.found[0] and result.about["kind"] == kind and result.about["checkpoint"] is None
    assert set(TRAINING_FREE) == set(READINGS)


@pytest.mark.parametrize("call, said", [
    (lambda s: s(np.zeros((64, 64, 3), np.uint8), []), "no names"),
    (lambda s: s(np.zeros((64, 64, 3), np.uint8), ["word " * 90]), "too long"),
    (lambda s: s(np.zeros((64, 64, 3), np.uint8), ["star"], threshold=1.5), "0 to 1"),
    (lambda s: s(np.zeros((64, 64, 3), np.uint8), ["star"], threshold=float("nan")), "0 to 1"),
    (lambda s: s(np.zeros((1, 1, 3), np.uint8), ["star"]), "1 x 1"),
    (lambda s: Segmenter(s.model, s.cfg, s.device).predict(["star"]), "set_image"),
    (lambda s: Segmenter.load("a.pt", model="naclip"), "one of the two"),
    (lambda s: Segmenter.load("no such.pt"), "no such"),
    (lambda s: Segmenter.load(model="clip"), "none of")])
def test_mistakes_are_told_in_one_line(loaded, call, said):
    with pytest.raises(UserError) as caught:
        call(loaded("esda"))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_wide_image_comes_out_at_its_own_size(loaded):
    wide = np.random.default_rng(0).integers(0, 256, (16, 20_000, 3)).astype(np.uint8)
    result = loaded("esda")(wide, ["star"], threshold=0)
    assert result.masks.shape == (1, 16, 20_000) and result.overlay().shape[1] == 1800


def test_what_the_shipped_model_can_be_asked():
    assert notes_on(["star", "red star", "A photo"]) == []
    assert "'zebra'" in notes_on(["star", "zebra"])[0] and "umbrella" in notes_on(["zebra"])[0]
    assert is_scene((128, 128, 3)) and not is_scene((128, 127, 3)) and not is_scene((480, 640, 3))


def test_the_shipped_checkpoint_finds_shapes():
    if not SHIPPED.is_file():
        pytest.skip(f"{SHIPPED.name} is not there yet")
    from data.shapes.scene import scene
    names = ["circle", "star", "key", "umbrella", "house"]
    image, mask, things = scene(names, range(1, 6), 99, 0)
    result = Segmenter.load(device="cpu")(image, names)
    present = [names.index(thing.name) for thing in things]
    ious = [(result.masks[k] & (mask == k + 1)).sum() / (result.masks[k] | (mask == k + 1)).sum() for k in present]
    assert np.mean(ious) > 0.4


@pytest.mark.parametrize("page", ["README.md", "docs/predict.md"])
def test_the_pages_python_runs(page, loaded, scenes, tmp_path, monkeypatch):
    """The page's images and checkpoint are replaced by those of this test."""
    segmenter = loaded("esda")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Segmenter, "load", classmethod(lambda cls, *args, **options: segmenter))
    for name in ("scene.jpg", "photo.jpg", "a.jpg", "b.jpg"):
        Image.open(scenes[0]).save(name)
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert len(block.strip().splitlines()) <= 25
    made = {}
    exec(compile(block, page, "exec"), made)
    assert made["result"].names and Path("photo.overlay.png").is_file() == (page != "README.md")


def test_zoom_is_the_evaluators(loaded, scenes):
    """By a model that finds regions of all sizes. Without a region to enlarge nothing changes."""
    segmenter, image = loaded("naclip"), as_image(scenes[1])
    text = embed_names(segmenter.model.text_encoder, NAMES, segmenter.cfg.model)
    canvas, valid = segmenter.fit.to_input(image, SIDE, mean_colour(segmenter.cfg.model.pixel_mean))
    predict = Predictor(segmenter.model, text, segmenter.fit, torch.device("cpu"), nullcontext(),
                        views=Views(zoom=True), fill=mean_colour(segmenter.cfg.model.pixel_mean))
    pixels = torch.from_numpy(canvas.transpose(2, 0, 1).copy())[None]
    plain, result = (segmenter(image, NAMES, threshold=0, zoom=zoom) for zoom in (False, True))
    changed = 0
    for k in range(len(NAMES)):
        batch = EvalBatch(pixels, [valid], [np.zeros(image.shape[:2], np.uint8)], [Sample(0, k + 1)], [image])
        np.testing.assert_allclose(result.evidence(k), predict(batch)[0].evidence.numpy(), atol=1e-4)
        changed += bool(boxes_of(plain.evidence(k) > 0))
        assert (result.evidence(k) != plain.evidence(k)).any() == bool(boxes_of(plain.evidence(k) > 0))
    assert changed and result.json()["model"]["zoom"] and "zoom" not in plain.json()["model"]
    high = segmenter(image, NAMES, threshold=1, zoom=True)      # no name reaches it, so none is looked at again
    assert all((high.evidence(k) == plain.evidence(k)).all() for k in range(len(NAMES)))

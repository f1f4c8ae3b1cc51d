"""Mirror images, other sizes and zoom: each against a few lines of its own, then through the Predictor and test.py."""
import json
from contextlib import nullcontext
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from runs import complains, in_process, run_folder

from data.dataset import EvalDataset, eval_loader
from data.fold import FoldData
from data.index import read_index
from data.samples import exhaustive
from data.transform import FITS
from model.build import build_model, embed_classes
from model.clip.vision_transformer import resize_position_embedding
from util.config import ROOT, Config, load
from util.evaluation.evaluate import evaluate
from util.evaluation.predict import Predictor, presence, taking
from util.evaluation.refine import refine
from util.evaluation.views import BOXES, Views, averaged, boxes_of, look, mirrored, zoomed
from util.options import Eval
from util.results import final
from util.results.pictures import PICTURES, panel
from util.runtime.errors import UserError

CPU = torch.device("cpu")


def image_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3)).astype(np.uint8)


def lopsided(images, names, scale):
    """Evidence that depends on the side, the name and the scale."""
    return [torch.from_numpy(image[:, :, 0].astype(np.float32)) * torch.arange(image.shape[1]) + name + scale
            for image, name in zip(images, names)]


def test_flip_and_scales_are_means_over_every_view():
    images, names = [image_of(6, 9), image_of(5, 4)], [3, 7]
    for flip, scales in ((False, (1.0,)), (True, (1.0,)), (False, (1.0, 1.5)), (True, (0.5, 2.0))):
        found = averaged(images, names, lopsided, flip, scales)
        for image, name, evidence in zip(images, names, found):
            height, width = image.shape[:2]
            for y in range(height):
                for x in range(width):
                    seen = [x] + [width - 1 - x] * flip  # where the pixel stands in each view
                    expected = image[y, x, 0] * np.mean(seen) + name + np.mean(scales)
                    assert evidence[y, x].item() == pytest.approx(expected, rel=1e-5)


def test_what_is_known_of_the_images_as_they_are_is_not_computed_again():
    asked = []

    def find(images, names, scale):
        asked.append(scale)
        return lopsided(images, names, scale)

    images, names = [image_of(6, 9)], [3]
    first = [lopsided(each, names, 1) for each in (images, mirrored(images))]
    known = look(images, names, find, Views(True, (1.0, 1.5)), *first)
    assert asked == [1.5, 1.5]
    assert torch.equal(known[0], look(images, names, find, Views(True, (1.0, 1.5)))[0])


def test_boxes_have_a_quarter_of_margin_and_are_small():
    mask = np.zeros((100, 200), bool)
    mask[10:18, 20:40] = True           # 2 rows and 5 columns of margin
    mask[90:100, 0:8] = True            # at two borders: 2.5 is rounded to the even 2
    mask[40:80, 60:140] = True          # with its margin 60 x 120, more than a quarter of the image
    mask[2, 150] = True                 # a speck
    assert boxes_of(mask) == [(slice(8, 20), slice(15, 45)), (slice(88, 100), slice(0, 10))]
    assert boxes_of(np.zeros((10, 10), bool)) == [] and boxes_of(np.ones((10, 10), bool)) == []
    many = np.zeros((100, 200), bool)
    for row in range(0, 100, 10):
        many[row:row + 6, 10:16 + row] = True
    assert len(boxes_of(many)) == BOXES
    assert boxes_of(many)[0] == (slice(88, 98), slice(0, 130))      # the largest, with 24 columns of margin
    diagonal = np.zeros((30, 30), bool)
    diagonal[2:5, 2:5] = diagonal[5:8, 5:8] = True                  # one region: corners touch
    assert boxes_of(diagonal) == [(slice(0, 10), slice(0, 10))]


def test_zoom_looks_again_in_each_box_and_averages_there():
    images, names = [image_of(40, 40), image_of(60, 40), image_of(30, 30)], [1, 2, 3]
    evidence = [torch.full(image.shape[:2], -1.0) for image in images]
    evidence[0][10:14, 10:14] = 2.0
    evidence[0][10:14, 15:19] = 2.0     # whose box overlaps the first one's
    evidence[1][4:12, 4:12] = 3.0       # and nothing in the third
    before, asked = [e.clone() for e in evidence], []

    def find(crops, crop_names):
        asked.extend(zip(crops, crop_names))
        return [torch.full(crop.shape[:2], 8.0) for crop in crops]

    found = zoomed(images, names, evidence, find)
    assert [name for _, name in asked] == [1, 1, 2]
    assert all(np.array_equal(crop, image[box]) for (crop, _), (image, box) in zip(asked, [
        (images[0], np.s_[9:15, 9:15]), (images[0], np.s_[9:15, 14:20]), (images[1], np.s_[2:14, 2:14])]))
    expected = [e.clone() for e in before]
    expected[0][9:15, 9:20] = (before[0][9:15, 9:20] + 8 / 2) / 1.5     # a crop weighs half
    expected[0][9:15, 14] = (before[0][9:15, 14] + 8) / 2               # where both boxes lie
    expected[1][2:14, 2:14] = (before[1][2:14, 2:14] + 8 / 2) / 1.5
    assert all(torch.allclose(a, b) for a, b in zip(found, expected))
    assert all(torch.equal(a, b) for a, b in zip(evidence, before))  # the first looks stay as they were


def test_all_of_them_together_hold_for_the_crops_as_well():
    image, asked = image_of(40, 40), []

    def find(images, names, scale):
        asked.append((images[0].shape[:2], scale))
        out = [torch.full(i.shape[:2], -1.0) for i in images]
        out[0][10:14, 18:22] = 5.0
        return out

    look([image], [1], find, Views(True, (1.0, 2.0), True))
    assert asked == [(size, scale) for size in ((40, 40), (6, 6)) for scale in (1.0, 1.0, 2.0, 2.0)]


@pytest.fixture(scope="module")
def made_of(options_for, tiny_shapes, tmp_path_factory):
    """made_of(kind): (model, embeddings of the class names, data of fold 0)."""
    @cache
    def made_of(kind: str):
        torch.manual_seed(0)
        config = "config/shapes/plus.yaml" if kind == "plus" else "config/shapes/maskclip.yaml"
        cfg = load(Config, ROOT / config, [*options_for(tiny_shapes, tmp_path_factory.mktemp("exp")),
                                           f"model.kind={kind}", "model.replace_indices=[]"])
        model, _ = build_model(cfg.model)
        data = FoldData(cfg)
        return model.eval(), embed_classes(model, data.classes.names, data.seen, cfg.model), data
    return made_of


@pytest.fixture(scope="module")
def made(made_of):
    return made_of("plus")


each_kind = pytest.mark.parametrize("kind", ["plus", "esda", "naclip", "everything"])


def predictor(made, views) -> Predictor:
    model, text, data = made
    return Predictor(model, text, data.fit, CPU, nullcontext(), views=views, fill=data.fill)


def predictions(made, views, count=3):
    data = made[2]
    batches = data.loader(data.draws()[0][:count], originals=True)
    return [p for batch in batches for p in predictor(made, views)(batch)]


@each_kind
def test_the_predictor_s_mean_is_that_of_the_views_one_by_one(kind, made_of):
    made = made_of(kind)
    plain, flipped, larger, both = (predictions(made, Views(*views)) for views in (
        (), (True,), (False, (1.5,)), (True, (1.0, 1.5))))
    assert all(torch.equal(p.image, q.image) and torch.equal(p.prior, q.prior) for p, q in zip(plain, both))
    model, text, data = made
    for p, f, s, b in zip(plain, flipped, larger, both):
        (straight, here), (turned, there) = (_found(model, text, p, flip, 64) for flip in (False, True))
        assert torch.allclose(straight, p.evidence, atol=1e-4)
        assert torch.allclose((straight + turned) / 2, f.evidence, atol=1e-4)
        if model.patch > 1:
            assert s.evidence.shape == p.evidence.shape and (s.evidence - p.evidence).abs().max() > 1e-3
        mirror = _found(model, text, p, True, 96)[0]
        assert torch.allclose((2 * f.evidence + s.evidence + mirror) / 4, b.evidence, atol=1e-4)
        assert p.presence == s.presence == pytest.approx(here, abs=1e-4)
        assert f.presence == b.presence == pytest.approx((here + there) / 2, abs=1e-4)
        assert kind in ("esda", "everything") or abs(here - there) > 1e-3


@torch.inference_mode()
def _found(model, text, p, flip: bool, side: int):
    """Evidence and presence of one view by hand; Shapes-5i's images fill the square."""
    image = p.image.flip(2) if flip else p.image
    if side != image.shape[-1]:
        pixels = FITS["described"].to_input(image.permute(1, 2, 0).numpy(), side, (0, 0, 0))[0]
        image = torch.from_numpy(pixels).permute(2, 0, 1)
    with taking(model, side):
        found = model(image[None], text[[p.sample.class_id - 1]])
    difference = found.logits[0, 1] - found.logits[0, 0]
    evidence = FITS["described"].to_original(difference, (side, side), p.mask.shape)
    there = presence(difference, None if found.presence is None else found.presence[0]).item()
    return (evidence.flip(1) if flip else evidence), there


@each_kind
def test_a_model_takes_another_size_and_then_its_own_again(kind, made_of):
    model, text, _ = made_of(kind)
    encoder = getattr(model, "image_encoder", getattr(model, "visual", None))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if encoder is not None:
        own = encoder.positional_embedding
        with taking(model, 96):
            assert torch.equal(encoder.positional_embedding, resize_position_embedding(own, 12)) and encoder.grid == 12
            assert model(torch.zeros(1, 3, 96, 96, dtype=torch.uint8), text[[0]]).logits.shape[2:] == (96, 96)
        assert encoder.positional_embedding is own and (encoder.side, encoder.grid) == (64, 8)
        with pytest.raises(KeyError), taking(model, 32):
            raise KeyError
        assert encoder.positional_embedding is own
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("fit", ["cut", "released"])
def test_images_that_fill_no_square(fit, made_of, tmp_path):
    """Zoom and flip come out at the images' own sizes and on the object, whatever the batch."""
    model, text, data = made_of("naclip")
    lines = []
    for i, shape in enumerate([(128, 80), (33, 66), (64, 45)]):
        mask = np.zeros(shape, np.uint8)
        mask[5:25, 5:20] = 1 + i
        cv2.imwrite(str(tmp_path / f"{i}.png"), image_of(*shape))
        cv2.imwrite(str(tmp_path / f"{i}_mask.png"), mask)
        lines.append(f"{i}.png {i}_mask.png\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    index = read_index(tmp_path, tmp_path / "list.txt", 3)
    views, found = Views(True, zoom=True), []
    for size in (3, 1):
        dataset = EvalDataset(tmp_path, index, exhaustive(index, (1, 2, 3), 1), 3, 64, data.fill, FITS[fit], True)
        predict = Predictor(model, text, FITS[fit], CPU, nullcontext(), views=views, fill=data.fill)
        found.append([p for batch in eval_loader(dataset, size, 0) for p in predict(batch)])
    for p, q in zip(*found, strict=True):
        assert p.evidence.shape == p.mask.shape
        assert torch.allclose(p.evidence, q.evidence, atol=1e-3)


def test_images_are_handed_over_only_where_asked_for(made):
    _, _, data = made
    samples = data.draws()[0][:3]
    plain, asked = (next(iter(data.loader(samples, originals=originals))) for originals in (False, True))
    assert plain.originals == () and torch.equal(plain.images, asked.images)
    assert all(np.array_equal(image, canvas.permute(1, 2, 0).numpy())  # 64 px images fill an input of 64 px
               for image, canvas in zip(asked.originals, asked.images, strict=True))


def test_an_oracle_s_score_stays_whole(made):
    """Who knows the truth keeps IoU 100 under flip: everything returns to the place it came from."""
    _, _, data = made
    truth = {}

    class Oracle(torch.nn.Module):
        patch = 1

        def forward(self, images, names):
            masks = torch.stack([truth[image.numpy().tobytes()] for image in images])
            return type("Output", (), {"logits": torch.stack([-masks, masks], dim=1), "prior": masks[:, None],
                                       "presence": None})

    samples = list({sample.row: sample for sample in data.draws()[0]}.values())[:6]  # one class an image
    for batch in data.loader(samples, originals=True):
        for image, mask, sample in zip(batch.originals, batch.masks, batch.samples):
            own = (mask == sample.class_id).astype(np.float32) * 2 - 1
            for flip in (1, -1):
                truth[np.ascontiguousarray(image[:, ::flip].transpose(2, 0, 1)).tobytes()] = torch.from_numpy(
                    own[:, ::flip].copy())
    ids = torch.zeros(20)
    predict = Predictor(Oracle(), ids, data.fit, CPU, nullcontext(), views=Views(True), fill=data.fill)
    scores = evaluate(predict, data.loader(samples, originals=True), data.unseen, data.classes,
                      "exhaustive").scores
    assert set(scores["per_class"].values()) == {100.0}


def test_refine_is_the_weighted_mean_of_neighbours_that_look_alike():
    """Against a loop over pixels, with numpy's own standard deviation."""
    image = image_of(9, 7)
    evidence = torch.randn(9, 7)
    places = [(i * d, j * d) for d in (1, 2, 4, 8, 16) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    expected = np.zeros((9, 7))
    probability = evidence.double().sigmoid().numpy()
    for y in range(9):
        for x in range(7):
            at = [(min(max(y + i, 0), 8), min(max(x + j, 0), 6)) for i, j in places]
            colours = np.array([image[p] for p in at], float)
            own = image[y, x].astype(float)
            spread = np.vstack([colours, own]).std(axis=0, ddof=1)
            weight = np.exp(-(np.abs(colours - own) / np.maximum(0.1 * spread, 1e-6)).mean(axis=1))
            expected[y, x] = (weight * [probability[p] for p in at]).sum() / weight.sum()
    found = refine(evidence, torch.from_numpy(image).permute(2, 0, 1), 1)
    assert np.allclose(found.sigmoid().numpy(), expected.clip(1e-4, 1 - 1e-4), atol=1e-5)


def test_refine_draws_a_coarse_mask_to_the_border_in_the_image():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, 20:45, 22:41] = 200
    truth = image[0] > 0
    coarse = torch.full((64, 64), -3.0)
    coarse[16:48, 24:40] = 3.0  # whole patches of 8 px
    wrong = [int(((evidence > 0) != truth).sum()) for evidence in (coarse, refine(coarse, image, 10))]
    assert wrong[0] == 187 and wrong[1] < 40
    assert (refine(-coarse, image, 10) + refine(coarse, image, 10)).abs().max() < 1e-2  # no side is preferred
    assert torch.equal(look([image.permute(1, 2, 0).numpy()], [0], lambda *_: [coarse], Views(refine=10))[0],
                       refine(coarse, image, 10))


def test_options_that_mean_nothing_are_refused(finished_run):
    for scales in ([], [1.0, 1.0]):
        with pytest.raises(UserError, match="eval.scales"):
            Eval(scales=scales)
    for changes in ({"flip": True}, {"zoom": True}, {"refine": 10}, {"scales": [1.0, 1.5]}):
        with pytest.raises(UserError, match="eval.protocol=generalised"):
            Eval(protocol="generalised", **changes)
    complains(in_process("test.py", "--config", "config/shapes/esda.yaml", *finished_run[1], "eval.scales=[9]"),
              "eval.scales[0]", "0.25 to 4")


@pytest.mark.slow
def test_a_whole_test_with_all_of_them(finished_run, tmp_path, monkeypatch):
    """By a model without training, which finds something everywhere: the tiny training's finds nothing yet."""
    drawn = {}

    def panel_and_iou(p, classes, names=PICTURES, remark=""):
        drawn.setdefault(remark, []).append(100 * p.counts.iou)
        return panel(p, classes, names, remark)

    monkeypatch.setattr(final, "panel", panel_and_iou)
    common = ["test.py", "--config", "config/shapes/naclip.yaml", *finished_run[1], "eval.name_check=true",
              "eval.protocol=episodic", "eval.samples=10"]
    results = []
    for k, more in enumerate(([], ["eval.flip=true", "eval.scales=[1, 1.5]", "eval.zoom=true", "eval.refine=3"],
                              ["eval.flip=true", "eval.scales=[1, 1.5]", "eval.zoom=true", "eval.refine=3",
                               "eval.batch_size=3"])):
        done = in_process(*common, f"exp={tmp_path / str(k)}", *more)
        assert done.returncode == 0, done.stderr
        results.append(json.loads((run_folder(tmp_path / str(k), "naclip") / "results.json").read_text()))
        for kind, ious in results[-1]["extremes"].items():  # drawn with the masks that were scored
            assert drawn.pop(f"{kind}: ") == pytest.approx(list(ious.values()), abs=1e-4)
    assert results[0]["per_class"] != results[1]["per_class"]
    assert results[1]["per_class"] == pytest.approx(results[2]["per_class"], abs=0.1)
    assert results[1]["absent_name_miou"] == pytest.approx(results[2]["absent_name_miou"], abs=0.1)

"""Test-time augmentation: each part against a few lines of its own, then through the Predictor and test.py."""
import numpy as np
import pytest
import torch
from painted import paint
from runs import in_process, results, run_folder

from data.dataset import EvalDataset, eval_loader
from data.samples import exhaustive
from data.transform import FITS
from model.plus.pamr import refine
from util.config import CONFIGS, Config, load
from util.evaluation.augmented import BOXES, Augmentation, boxes_of
from util.evaluation.experiment import Experiment
from util.evaluation.predictor import presence_of

ALL = ["eval.flip=true", "eval.zoom=true", "eval.refine=3"]


def image_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3)).astype(np.uint8)


def lopsided(images, names):
    """Margins that depend on the side and on the name."""
    return ([torch.from_numpy(image[:, :, 0].astype(np.float32)) * torch.arange(image.shape[1]) + name
             for image, name in zip(images, names)],
            [torch.tensor(float(image[0, 0, 0])) for image in images])


def test_flip_is_the_mean_of_the_image_and_its_mirror_image():
    images, names = [image_of(6, 9), image_of(5, 4)], [3, 7]
    found, there = Augmentation(flip=True)(images, names, lopsided, *lopsided(images, names))
    for image, name, margin, presence in zip(images, names, found, there):
        expected = image[:, :, 0] * ((image.shape[1] - 1) / 2) + name   # columns x and width - 1 - x
        assert np.allclose(margin, expected)
        assert presence == (float(image[0, 0, 0]) + float(image[0, -1, 0])) / 2


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


@pytest.mark.parametrize("flip", [False, True])
def test_zoom_looks_again_in_each_box_and_averages_there(flip):
    images, names = [image_of(40, 40), image_of(60, 40), image_of(30, 30)], [1, 2, 3]
    margins = [torch.full(image.shape[:2], -1.0) for image in images]
    margins[0][10:14, 10:14] = 2.0
    margins[0][10:14, 15:19] = 2.0      # whose box overlaps the first one's
    margins[1][4:12, 4:12] = 3.0        # and nothing in the third
    before, there, asked = [margin.clone() for margin in margins], [torch.tensor(5.0)] * 3, []

    def find(crops, crop_names):
        asked.extend(zip(crops, crop_names))
        if crops[0].shape[0] == 40:     # whole mirror images
            return [margin.flip(1) for margin in before], there
        return [torch.full(crop.shape[:2], 8.0) for crop in crops], [torch.tensor(-9.0)] * len(crops)

    found, presence = Augmentation(flip, zoom=True)(images, names, find, margins, there)
    boxes = [(images[0], np.s_[9:15, 9:15]), (images[0], np.s_[9:15, 14:20]), (images[1], np.s_[2:14, 2:14])]
    looks = asked[3 * flip:]
    assert [name for _, name in looks] == [1, 1, 2] * (1 + flip)
    for (crop, _), (image, box), turn in zip(looks, boxes * 2, [1, 1, 1, -1, -1, -1]):
        assert np.array_equal(crop[:, ::turn], image[box])
    expected = [margin.clone() for margin in before]
    expected[0][9:15, 9:20] = (before[0][9:15, 9:20] + 8 / 2) / 1.5     # a crop weighs half
    expected[0][9:15, 14] = (before[0][9:15, 14] + 8) / 2               # where both boxes lie
    expected[1][2:14, 2:14] = (before[1][2:14, 2:14] + 8 / 2) / 1.5
    assert all(torch.allclose(a, b) for a, b in zip(found, expected)) and presence == there
    assert all(torch.equal(a, b) for a, b in zip(margins, before)), "the first looks stay as they were"


def test_refine_is_that_of_the_image():
    image, margin = image_of(12, 16), torch.randn(12, 16)
    found, _ = Augmentation(refine=4)([image], [1], lopsided, [margin], [torch.tensor(0.0)])
    assert torch.equal(found[0], refine(margin, torch.from_numpy(image).permute(2, 0, 1), 4))


def experiment(kind: str, options: list[str]) -> Experiment:
    made = Experiment(load(Config, CONFIGS / "shapes" / f"{kind}.yaml", options))
    made.model.eval()
    return made


@pytest.mark.parametrize("kind", ["plus", "naclip"])
@torch.inference_mode()
def test_the_predictor_s_mean_is_that_of_both_images_one_by_one(kind, tiny_options):
    made = experiment(kind, tiny_options)

    def found(p, flip: bool):
        """Margin and presence by hand; Shapes-5i's images fill the square."""
        out = made.model((p.image.flip(2) if flip else p.image)[None], made.text[[p.sample.class_id - 1]])
        margin = out.logits[0, 1] - out.logits[0, 0]
        there = presence_of(margin, None if out.presence is None else out.presence[0]).item()
        return (margin.flip(1) if flip else margin), there

    batch = next(iter(made.data.loader(made.data.draws()[0][:3], originals=True)))
    for p, f in zip(made.predictor()(batch), made.predictor(augmentation=Augmentation(flip=True))(batch), strict=True):
        (straight, here), (turned, there) = found(p, False), found(p, True)
        assert torch.equal(p.image, f.image) and torch.equal(p.prior, f.prior)
        assert torch.allclose(straight, p.margin, atol=1e-4) and p.presence == pytest.approx(here, abs=1e-4)
        assert torch.allclose((straight + turned) / 2, f.margin, atol=1e-4)
        assert f.presence == pytest.approx((here + there) / 2, abs=1e-4)


@pytest.mark.parametrize("fit", ["cut", "released"])
def test_images_that_fill_no_square(fit, tiny_options, tmp_path):
    """Zoom and flip come out at the images' own sizes, whatever the batch."""
    made = experiment("naclip", [*tiny_options, f"eval.fit={fit}"])
    index = paint(tmp_path, [(128, 80), (33, 66), (64, 45)])
    predict, fill, found = made.predictor(augmentation=Augmentation(True, True), fill=(9, 9, 9)), (9, 9, 9), []
    for size in (3, 1):
        dataset = EvalDataset(tmp_path, index, exhaustive(index, (1, 2, 3), 1), 3, 64, fill, FITS[fit], True)
        found.append([p for batch in eval_loader(dataset, size, 0) for p in predict(batch)])
    for p, q in zip(*found, strict=True):
        assert p.margin.shape == p.mask.shape and torch.allclose(p.margin, q.margin, atol=1e-3)


@pytest.mark.slow
def test_a_whole_test_with_all_of_them(tiny_options, tmp_path):
    """By a model without training, which finds something everywhere: the tiny training's finds nothing yet."""
    found = []
    for k, more in enumerate(([], ALL, [*ALL, "eval.batch_size=3"])):
        done = in_process("test.py", "--config", "config/shapes/naclip.yaml", *tiny_options, "eval.name_check=true",
                          "eval.protocol=episodic", "eval.samples=10", f"exp={tmp_path / str(k)}", *more)
        assert done.returncode == 0, done.stderr
        found.append(results(run_folder(tmp_path / str(k), "naclip")))
    plain, augmented, again = found
    assert plain["per_class"] != augmented["per_class"] == pytest.approx(again["per_class"], abs=0.1)
    assert augmented["absent_name_miou"] == pytest.approx(again["absent_name_miou"], abs=0.1)

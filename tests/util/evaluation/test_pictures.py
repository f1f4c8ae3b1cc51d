"""Pictures for people: bounded, outlined, with the class and its IoU."""
import numpy as np
import pytest
import torch

from data.folds import Classes
from data.samples import Sample
from data.transform import FITS
from util.evaluation.metric import Counts
from util.evaluation.pictures import BLUE, LONGEST, ORANGE, extremes, panel, pictures_of
from util.evaluation.predictor import Prediction
from util.runtime.png import sheet

CLASSES = Classes(["circle", "star"], ((1, 2),))


def prediction(height: int, width: int, size: int = 64) -> Prediction:
    """Class 1 on the left half, ignored pixels in the last eighth of the rows, and the right half predicted."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, :width // 2] = 1
    mask[height - height // 8:] = 255
    canvas, valid = FITS["described"].to_input(np.full((height, width, 3), 90, np.uint8), size, (0, 0, 0))
    margin = -torch.ones(height, width)
    margin[:, width // 2:] = 1
    return Prediction(Sample(0, 1), torch.from_numpy(canvas.transpose(2, 0, 1).copy()), valid, mask, margin,
                      torch.ones(1, 8, 8), Counts(10, 30, 20, 1000), 1.0)


@pytest.mark.parametrize("height, width", [(1, 3000), (3000, 1), (40, 60), (300, 700)])
def test_every_picture_is_bounded_whatever_the_images_shape(height, width):
    shape, = {picture.shape for picture in pictures_of(prediction(height, width)).values()}
    drawn = panel(prediction(height, width), CLASSES)
    assert max(shape) == LONGEST and drawn.shape[1] < 1100 and drawn.shape[0] <= LONGEST + 60
    assert sheet([drawn] * 3).shape[1] < 2200


def test_truth_and_prediction_are_outlined_where_they_are():
    p = pictures_of(prediction(128, 256))
    assert (p["image"] == 90).all() and p["image"].shape == (128, 256, 3)
    inner = {"truth": (slice(10, 100), slice(10, 118)), "prediction": (slice(10, 118), slice(138, 246))}
    for (name, region), colour in zip(inner.items(), (BLUE, ORANGE)):
        assert abs(p[name][region] - (0.65 * 90 + 0.35 * np.array(colour))).max() <= 1, "tinted inside"
        other = p[name][10:100, 138:246] if name == "truth" else p[name][10:118, 10:118]
        assert (other == 90).all(), "and nothing else"
        assert (p[name] == colour).all(axis=-1).sum() > 300, "in an outline"
    assert (p["truth"][114:] == 160).all(), "ignored pixels are grey"


def test_the_best_the_median_and_the_worst_by_their_iou():
    ious = {Sample(row, 1): iou for row, iou in enumerate((0.5, 0.9, 0.0, 0.7, 0.2))}
    rows = {kind: [sample.row for sample in samples] for kind, samples in extremes(ious, 2).items()}
    assert rows["best"] == [1, 3] and rows["worst"] == [2, 4] and 0 in rows["median"]
    assert extremes(dict(list(ious.items())[:1]), 3) == dict.fromkeys(("best", "median", "worst"), [Sample(0, 1)])
    assert extremes({}, 3) == {"best": [], "median": [], "worst": []}

"""IoU as the field counts it: intersections and unions summed over all samples of a class, divided once."""
from typing import NamedTuple

import numpy as np

from model import IGNORE


class Counts(NamedTuple):
    """Pixel counts of one sample, label 255 left out."""
    hit: int        # predicted foreground and of the class
    guessed: int    # predicted foreground
    true: int       # of the class
    pixels: int     # all

    @property
    def union(self) -> int:
        return self.guessed + self.true - self.hit

    @property
    def iou(self) -> float:
        """IoU in 0..1; 0 where neither prediction nor truth has a pixel."""
        return self.hit / max(1, self.union)


def percent(share: float) -> float:
    """Convert a share to percent. Raises AssertionError outside 0..1, where pixels were counted wrongly."""
    assert 0 <= share <= 1, f"a score of {100 * share} % is impossible"
    return 100 * share


def mean_iou(iou: dict[int, float], class_ids: tuple[int, ...]) -> float:
    """Average over those of ``class_ids`` that were met; 0 where none was."""
    values = [iou[c] for c in class_ids if c in iou]
    return float(np.mean(values)) if values else 0.0


class Tally:
    """Sums of intersection and union: mIoU over the ``class_ids`` met, FB-IoU over foreground and background."""

    def __init__(self, class_ids: tuple[int, ...]):
        self.class_ids = class_ids
        self.intersection = {c: 0 for c in class_ids}
        self.union = {c: 0 for c in class_ids}
        self.both = np.zeros((2, 2), np.int64)  # rows background, foreground; columns intersection, union

    def add(self, counts: Counts, class_id: int, times: int = 1) -> None:
        """Add a sample ``times`` times, as often as it was drawn."""
        if not times:
            return
        hit, union, pixels = counts.hit, counts.union, counts.pixels
        self.intersection[class_id] += times * hit
        self.union[class_id] += times * union
        self.both += times * np.array([[pixels - union, pixels - hit], [hit, union]])

    def per_class(self) -> dict[int, float]:
        """Compute the IoU in 0..1 of each class that has been met."""
        return {c: self.intersection[c] / self.union[c] for c in self.class_ids if self.union[c]}

    @property
    def miou(self) -> float:
        return mean_iou(self.per_class(), self.class_ids)

    @property
    def fb_iou(self) -> float:
        return float(np.mean(self.both[:, 0] / np.maximum(self.both[:, 1], 1)))


class Confusion:
    """Confusion matrix: counts (K + 1, K + 1) int64, row truth, column prediction, 0 background, 255 ignored."""

    def __init__(self, classes: int):
        self.classes = classes
        self.counts = np.zeros((classes + 1, classes + 1), np.int64)

    def add(self, prediction: np.ndarray, mask: np.ndarray) -> None:
        """Count prediction (H, W) of 0..K against mask (H, W) uint8 of 0..K and 255."""
        counted = mask != IGNORE
        size = self.classes + 1
        pairs = mask[counted].astype(np.int64) * size + prediction[counted]
        self.counts += np.bincount(pairs, minlength=size * size).reshape(size, size)

    def iou(self) -> dict[int, float]:
        """Compute the IoU in 0..1 of each label in the truth or the prediction, background (0) included."""
        hit = self.counts.diagonal()
        union = self.counts.sum(0) + self.counts.sum(1) - hit
        return {c: hit[c] / union[c] for c in range(self.classes + 1) if union[c]}

    @property
    def fb_iou(self) -> float:
        """FB-IoU in 0..1: mean of the IoU of background and that of all classes taken as one."""
        both = self.counts[0, 0], self.counts[1:, 1:].sum()
        wrong = self.counts[0, 1:].sum() + self.counts[1:, 0].sum()
        return float(np.mean([hit / max(1, hit + wrong) for hit in both]))

    @property
    def pixel_accuracy(self) -> float:
        return float(self.counts.trace() / max(1, self.counts.sum()))


def harmonic(a: float, b: float) -> float:
    """Compute the harmonic mean, 0 where one of the two is: hIoU of the seen and the unseen mIoU."""
    return 2 * a * b / (a + b) if a + b else 0.0


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Compute the area under the ROC curve: chance that a positive exceeds a negative score, ties counting half."""
    ranked = np.sort(negative)
    below = np.searchsorted(ranked, positive, "left") + np.searchsorted(ranked, positive, "right")
    return float(below.sum() / (2 * len(positive) * len(negative)))

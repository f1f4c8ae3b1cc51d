"""IoU as the field counts it: intersections and unions summed over all samples of a class, divided once."""
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model import IGNORE


class Counts(NamedTuple):
    """Pixels of one sample, those with label 255 left out."""
    hit: int        # predicted foreground and of the class
    guessed: int    # predicted foreground
    true: int       # of the class
    pixels: int     # all

    @property
    def union(self) -> int:
        return self.guessed + self.true - self.hit

    @property
    def iou(self) -> float:
        """In 0..1; 0 where neither prediction nor truth has a pixel."""
        return self.hit / max(1, self.union)


def count(prediction: Tensor, mask: Tensor, class_id: int) -> Tensor:
    """The Counts (4,) int64, on the tensors' device. prediction (H, W) bool; mask (H, W) uint8 of class ids and 255."""
    counted, truth = mask != IGNORE, mask == class_id
    guess = prediction & counted
    return torch.stack([part.count_nonzero() for part in (guess & truth, guess, truth, counted)])


def percent(share: float) -> float:
    """100 times a share. Raises ValueError for NaN and for what is not in 0..1: pixels were then counted wrongly."""
    if not 0 <= share <= 1:
        raise ValueError(f"a score of {100 * share} % is impossible")
    return 100 * share


def mean_iou(iou: dict[int, float], class_ids: tuple[int, ...]) -> float:
    """The mean over those of ``class_ids`` that were met; 0 where none was."""
    values = [iou[c] for c in class_ids if c in iou]
    return float(np.mean(values)) if values else 0.0


class Tally:
    """Intersections and unions of every class, and of foreground and background over all samples.

    mIoU is the mean over ``class_ids`` that were met; FB-IoU the mean of foreground's and background's IoU.
    """

    def __init__(self, class_ids: tuple[int, ...]):
        self.class_ids = class_ids
        self.intersection = {c: 0 for c in class_ids}
        self.union = {c: 0 for c in class_ids}
        self.both = np.zeros((2, 2), np.int64)  # rows background, foreground; columns intersection, union

    def add(self, counts: Counts, class_id: int, times: int = 1) -> None:
        """times: how often the sample was drawn."""
        if not times:
            return
        hit, union, pixels = counts.hit, counts.union, counts.pixels
        self.intersection[class_id] += times * hit
        self.union[class_id] += times * union
        self.both += times * np.array([[pixels - union, pixels - hit], [hit, union]])

    def per_class(self) -> dict[int, float]:
        """IoU of each class that has been met, in 0..1."""
        return {c: self.intersection[c] / self.union[c] for c in self.class_ids if self.union[c]}

    @property
    def miou(self) -> float:
        return mean_iou(self.per_class(), self.class_ids)

    @property
    def fb_iou(self) -> float:
        return float(np.mean(self.both[:, 0] / np.maximum(self.both[:, 1], 1)))


class Confusion:
    """Which label each pixel got and has, for one label a pixel out of background and K classes (generalised ZS3).

    counts (K + 1, K + 1) int64: row the truth, column the prediction; 0 is background. Label 255 counts nowhere.
    """

    def __init__(self, classes: int):
        self.classes = classes
        self.counts = np.zeros((classes + 1, classes + 1), np.int64)

    def add(self, prediction: np.ndarray, mask: np.ndarray) -> None:
        """prediction (H, W) of 0..K; mask (H, W) uint8 of 0..K and 255."""
        counted = mask != IGNORE
        size = self.classes + 1
        pairs = mask[counted].astype(np.int64) * size + prediction[counted]
        self.counts += np.bincount(pairs, minlength=size * size).reshape(size, size)

    def iou(self) -> dict[int, float]:
        """IoU in 0..1 of each label that is in the truth or was predicted, background (0) included."""
        hit = self.counts.diagonal()
        union = self.counts.sum(0) + self.counts.sum(1) - hit
        return {c: hit[c] / union[c] for c in range(self.classes + 1) if union[c]}

    @property
    def fb_iou(self) -> float:
        """Mean of the IoU of background and that of all classes taken as one."""
        both = self.counts[0, 0], self.counts[1:, 1:].sum()
        wrong = self.counts[0, 1:].sum() + self.counts[1:, 0].sum()
        return float(np.mean([hit / max(1, hit + wrong) for hit in both]))

    @property
    def pixel_accuracy(self) -> float:
        return float(self.counts.trace() / max(1, self.counts.sum()))


def harmonic(a: float, b: float) -> float:
    """The harmonic mean, which is 0 where one of the two is: hIoU of the seen and the unseen classes' mIoU."""
    return 2 * a * b / (a + b) if a + b else 0.0


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive score exceeds a negative one, ties counting half."""
    ranked = np.sort(negative)
    below = np.searchsorted(ranked, positive, "left") + np.searchsorted(ranked, positive, "right")
    return float(below.sum() / (2 * len(positive) * len(negative)))

"""IoU as the field counts it: intersections and unions summed over all samples of a class, divided once."""
import numpy as np

IGNORE = 255


class Tally:
    """Intersections and unions of every class, and of foreground and background over all samples.

    mIoU is the mean over ``class_ids`` that were met; FB-IoU the mean of foreground's and background's IoU.
    """

    def __init__(self, class_ids: tuple[int, ...]):
        self.class_ids = class_ids
        self.intersection = {c: 0 for c in class_ids}
        self.union = {c: 0 for c in class_ids}
        self.both = np.zeros((2, 2), np.int64)  # rows background, foreground; columns intersection, union

    def add(self, prediction: np.ndarray, target: np.ndarray, class_id: int) -> None:
        """prediction (H, W) bool or 0/1; target (H, W) of 0, 1 and 255, of which 255 counts nowhere."""
        counted = target != IGNORE
        guess, truth = prediction.astype(bool) & counted, target == 1
        hit = int(np.count_nonzero(guess & truth))
        guessed, true, pixels = (int(np.count_nonzero(a)) for a in (guess, truth, counted))
        union = guessed + true - hit
        self.intersection[class_id] += hit
        self.union[class_id] += union
        self.both += np.array([[pixels - union, pixels - hit], [hit, union]])

    def per_class(self) -> dict[int, float]:
        """IoU of each class that has been met, in 0..1."""
        return {c: self.intersection[c] / self.union[c] for c in self.class_ids if self.union[c]}

    @property
    def miou(self) -> float:
        values = list(self.per_class().values())
        return float(np.mean(values)) if values else 0.0

    @property
    def fb_iou(self) -> float:
        return float(np.mean(self.both[:, 0] / np.maximum(self.both[:, 1], 1)))


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive score exceeds a negative one, ties counting half."""
    ranked = np.sort(negative)
    below = np.searchsorted(ranked, positive, "left") + np.searchsorted(ranked, positive, "right")
    return float(below.sum() / (2 * len(positive) * len(negative)))

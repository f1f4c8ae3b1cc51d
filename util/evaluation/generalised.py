"""Generalised zero-shot segmentation (GZS3): one label a pixel, out of background and all classes."""
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.dataset import EvalBatch
from data.folds import Classes
from data.transform import Fit
from util.evaluation.evaluate import by_name
from util.evaluation.metric import Confusion, harmonic, mean_iou, percent
from util.evaluation.predictor import at_once, evaluation_mode, presence_of, require_finite, windows
from util.runtime import distributed
from util.runtime.progress import progress

NAMES_AT_ONCE = 8   # on a GPU, and on a CPU in bf16: more keep it no busier


@dataclass(frozen=True)
class Labeller:
    """Generalised labeller: ``labeller(batch)`` returns labels (H, W) int64 of 0..K of each image at its own size.

    A pixel gets the name with the largest margin, background where none is positive. A mask is trained on names that
    are there, and an absent one would light up somewhere. So a log-probability is added to the logit margin: that the
    thing is there, if the model has a presence head and ``threshold`` is its calibrated zero, else CLIP's own that the
    predicted region shows the class (NamedSegmenter.region_log_prob).

    text: embeddings of all K names, row = class id - 1, on ``device``.
    """
    model: torch.nn.Module
    text: object
    fit: Fit
    device: torch.device
    autocast: contextlib.AbstractContextManager
    threshold: float | None = None

    @torch.inference_mode()
    def __call__(self, batch: EvalBatch) -> list[np.ndarray]:
        model, text, names = self.model, self.text, len(self.text.cls)
        largest = _LargestMargin(batch, self.fit, self.device)
        with evaluation_mode(model):
            for places, images in windows(batch, self.fit, model, self.device, self.autocast):
                with self.autocast:
                    shared, first = model.before_names(images), 0
                    calibrated = getattr(model, "presence_head", None) and self.threshold is not None
                    patches = None if calibrated else model.clip_patches(images, shared)
                    for margins, own in model.names_and_presence(images, text, self._names_at_once(images, names),
                                                                 shared):
                        log_prob = (self._present(margins, own, [batch.valid_sizes[place] for place in places])
                                    if calibrated else model.region_log_prob(patches, margins, text, first))
                        largest.add(places, first, margins + log_prob[..., None, None])      # log_prob (b, k)
                        first += margins.shape[1]
        return [labels.cpu().numpy() for labels in largest.labels]

    def _present(self, margins: Tensor, own: Tensor, valid: list[tuple[int, int]]) -> Tensor:
        """Compute the log-probability that each of k names is there, (b, k), of the filled part of each canvas."""
        found = [presence_of(of_image[:, :height, :width], logits)
                 for of_image, logits, (height, width) in zip(margins, own, valid)]
        return F.logsigmoid(torch.stack(found) - self.threshold)

    def _names_at_once(self, images: Tensor, names: int) -> int:
        """Choose how many names to decode together; only the speed depends on it."""
        inputs = at_once(*images.shape[2:], images.device, self.autocast)
        return min(names, max(1, inputs // len(images)) if inputs else NAMES_AT_ONCE)


class _LargestMargin:
    """Running argmax of the margin over names, at the original size: memory does not grow with names."""

    def __init__(self, batch: EvalBatch, fit: Fit, device: torch.device):
        self.batch, self.fit = batch, fit
        self.labels = [torch.zeros(mask.shape, dtype=torch.long, device=device) for mask in batch.masks]
        self.margin = [torch.zeros(mask.shape, device=device) for mask in batch.masks]  # that a name must exceed

    def add(self, places: list[int], first: int, margins: Tensor) -> None:
        """Merge margins (b, k, height, width): class ids first + 1 to first + k of the images at ``places``."""
        require_finite(margins)
        for place, names in zip(places, margins):
            valid, shape = self.batch.valid_sizes[place], self.batch.masks[place].shape
            for class_id, margin in enumerate(names, start=first + 1):
                found = self.fit.to_original(margin, valid, shape).float()
                self.labels[place].masked_fill_(found > self.margin[place], class_id)
                self.margin[place] = torch.maximum(found, self.margin[place])


def evaluate_generalised(label_images: Callable[[EvalBatch], list[np.ndarray]], batches: Iterable[EvalBatch],
                         seen: tuple[int, ...], unseen: tuple[int, ...], classes: Classes, *,
                         label: str = "generalised evaluation") -> dict:
    """Label every batch by ``label_images``, a Labeller, and score the images of all processes.

    Returns in percent miou of the unseen classes (U), seen_miou (S), hiou, their harmonic mean, pixel_accuracy,
    background_iou, fb_iou (background against all classes) and per_class {name: IoU}; also protocol, samples (images)
    and confusion[unseen name][true class] = pixels labelled with that name.
    """
    confusion, images = Confusion(len(classes.names)), 0
    for batch in progress(batches, label):
        for labels, mask in zip(label_images(batch), batch.masks, strict=True):
            confusion.add(labels, mask)
            images += 1
    confusion.counts = distributed.total(torch.from_numpy(confusion.counts)).numpy()
    images = sum(distributed.gather(images))
    iou = confusion.iou()
    seen_miou, unseen_miou = mean_iou(iou, seen), mean_iou(iou, unseen)
    return {"protocol": "generalised", "samples": images, "miou": percent(unseen_miou), "seen_miou": percent(seen_miou),
            "hiou": percent(harmonic(seen_miou, unseen_miou)), "pixel_accuracy": percent(confusion.pixel_accuracy),
            "background_iou": percent(iou.get(0, 0.0)), "fb_iou": percent(confusion.fb_iou),
            "per_class": {classes.name(c): percent(value) for c, value in iou.items() if c},
            "confusion": by_name({c: confusion.counts[:, c] for c in unseen}, classes)}

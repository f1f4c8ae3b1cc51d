"""Predictor: batches of the loader to predictions at the images' own size."""
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.dataset import EvalBatch
from data.samples import Sample
from data.transform import Fit
from model import IGNORE
from util.evaluation.augmented import Augmentation
from util.evaluation.metric import Counts
from util.runtime.errors import UserError

PIXELS_AT_ONCE = 480 * 480  # on a CPU in fp32, see ``at_once``


class Prediction(NamedTuple):
    """Prediction of one sample at its original size."""
    sample: Sample
    image: Tensor               # (3, S, S) uint8 as the network saw it, with padding, or (3, height, width) where cut
    valid_size: tuple[int, int] # (height, width) of it that the image fills
    mask: np.ndarray            # (H, W) uint8 of class ids and 255
    margin: Tensor              # (H, W) float32, on the device: foreground minus background logit; > 0 is foreground
    prior: Tensor               # (1, h, w) in 0..1, on the device
    counts: Counts              # the prediction's pixels against those of the sample's class
    presence: float             # see ``presence_of``

    def to_cpu(self) -> "Prediction":
        """Copy to main memory, without keeping the rest of its batch alive."""
        image, margin, prior = (part.cpu().clone() for part in (self.image, self.margin, self.prior))
        return self._replace(image=image, margin=margin, prior=prior)


@dataclass(frozen=True)
class Predictor:
    """Predictor of batches: ``predictor(batch)`` returns a Prediction for each sample, in their order.

    model: callable (images uint8 (b, 3, S, S), text of b names) -> Segmentation; with ``fit.cut`` also for the top left
        part of S x S, in patches of ``model.patch`` px.
    text: embeddings of all names, row = class id - 1, on ``device``; fit: see data/transform.py.
    queried_class: {sample: id of the class to query instead of the sample's own}.
    augmentation: test-time augmentation, for which batches need their originals; fill: uint8 RGB, pads these.
    """
    model: nn.Module
    text: object
    fit: Fit
    device: torch.device
    autocast: contextlib.AbstractContextManager
    queried_class: dict[Sample, int] | None = None
    augmentation: Augmentation = Augmentation()
    fill: tuple[int, int, int] = (0, 0, 0)

    @torch.inference_mode()
    def __call__(self, batch: EvalBatch) -> list[Prediction]:
        ids = [self.queried_class[sample] if self.queried_class else sample.class_id for sample in batch.samples]
        with evaluation_mode(self.model):
            seen, margins, priors, presence = self._forward(batch, ids, [mask.shape for mask in batch.masks])
            if any(self.augmentation):
                def find(images: list[np.ndarray], names: list[int]):
                    canvases, sizes = zip(*(self.fit.to_input(i, batch.images.shape[-1], self.fill) for i in images))
                    pixels = torch.from_numpy(np.stack(canvases).transpose(0, 3, 1, 2))
                    found = self._forward(EvalBatch(pixels, list(sizes), [], []), names, [i.shape[:2] for i in images])
                    return found[1], found[3]
                margins, presence = self.augmentation(batch.originals, ids, find, margins, presence)
        counts = torch.stack([count(m > 0, torch.from_numpy(mask).to(self.device, non_blocking=True), sample.class_id)
                              for m, mask, sample in zip(margins, batch.masks, batch.samples)])
        return [Prediction(*parts, Counts(*numbers), is_there) for *parts, numbers, is_there in zip(
            batch.samples, seen, batch.valid_sizes, batch.masks, margins, priors, counts.tolist(),
            torch.stack(presence).tolist())]

    def _forward(self, batch: EvalBatch, ids: list[int], shapes: list[tuple[int, int]]):
        """Return network input, margin (*shape), prior and presence, a list of each over the batch."""
        found = [None] * len(ids)
        for places, images in windows(batch, self.fit, self.model, self.device, self.autocast):
            rows = torch.tensor([ids[place] for place in places], device=self.device) - 1
            with self.autocast:
                output = self.model(images, self.text[rows])
            height, width = images.shape[2:]
            margins = output.logits[:, 1] - output.logits[:, 0]                      # (b, height, width)
            require_finite(margins)
            own = [None] * len(places) if output.presence is None else output.presence
            for place, margin, prior, logit in zip(places, margins, output.prior, own):
                valid = batch.valid_sizes[place]
                found[place] = (batch.images[place, :, :height, :width],
                                self.fit.to_original(margin, valid, shapes[place]), prior,
                                presence_of(margin[:valid[0], :valid[1]], logit))
        return [list(parts) for parts in zip(*found)]


def count(prediction: Tensor, mask: Tensor, class_id: int) -> Tensor:
    """Count Counts (4,) int64 on the device; prediction (H, W) bool, mask (H, W) uint8 of class ids and 255."""
    counted, truth = mask != IGNORE, mask == class_id
    guess = prediction & counted
    return torch.stack([part.count_nonzero() for part in (guess & truth, guess, truth, counted)])


def presence_of(margin: Tensor, own: Tensor | None = None) -> Tensor:
    """Score presence, (..., H, W) to (...) fp32, an uncalibrated logit.

    Mean of the top 1/256 logit margins, averaged with ``own``, the model's own logit, which errs on other images.
    """
    every = margin.float().flatten(-2)
    highest = every.topk(max(1, every.shape[-1] // 256), sorted=False).values.mean(-1)
    return highest if own is None else (highest + own.float()) / 2


def windows(batch: EvalBatch, fit: Fit, model, device: torch.device, autocast) -> Iterator[tuple[list[int], Tensor]]:
    """Yield places and images (b, 3, height, width) to run together; ``fit.cut`` leaves out all-padding patches."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, valid in enumerate(batch.valid_sizes):
        size = tuple(-(-side // model.patch) * model.patch for side in valid) if fit.cut else batch.images.shape[2:]
        places.setdefault(tuple(size), []).append(place)
    images = batch.images.to(device, non_blocking=True)
    for (height, width), together in places.items():
        count = at_once(height, width, device, autocast) or len(together)
        for first in range(0, len(together), count):
            some = together[first:first + count]
            yield some, images[some, :, :height, :width]


def at_once(height: int, width: int, device: torch.device, autocast) -> int | None:
    """Choose how many inputs of that size in px to run together; None: all. More overflow a CPU's caches in fp32."""
    if device.type != "cpu" or isinstance(autocast, torch.autocast):
        return None
    return max(1, PIXELS_AT_ONCE // (height * width))


def require_finite(margins: Tensor) -> None:
    """Raise UserError for NaN and infinities, which would count as background and give a wrong score in silence."""
    if not margins.isfinite().all():
        raise UserError("the model's logits are not finite (NaN or infinity), so there is no score; check the weights "
                        "(weights= and model.clip), and if they are sound try precision=fp32")


@contextlib.contextmanager
def evaluation_mode(model: nn.Module):
    """Switch the model to evaluation mode within the block, and back to its earlier mode after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

"""From a batch of the loader to predictions at the images' own size: the step that every evaluation repeats."""
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.dataset import EvalBatch
from data.samples import Sample
from data.transform import Fit
from model.clip.vision_transformer import VisionTransformer
from util.evaluation.metric import Counts, count
from util.evaluation.views import Views, look, mirrored
from util.runtime.errors import UserError

# On a CPU in fp32, see ``at_once``. CPU time an image on an AMD EPYC with AVX2, one thread: ViT-B/16 at 480 px 3.87,
# 3.89 and 3.95 s in batches of 1, 2 and 4; the miniature at 128 px 40, 32, 28, 28 and 31 ms in 1, 4, 14, 28 and 56.
PIXELS_AT_ONCE = 480 * 480


class Prediction(NamedTuple):
    """One sample at its original size."""
    sample: Sample
    image: Tensor               # (3, S, S) uint8 as the network saw it, with padding, or (3, height, width) where cut
    valid_size: tuple[int, int] # (height, width) of it that the image fills
    mask: np.ndarray            # (H, W) uint8 of class ids and 255
    evidence: Tensor            # (H, W) float32, on the device: foreground minus background logit; > 0 is foreground
    prior: Tensor               # (1, h, w) in 0..1, on the device
    counts: Counts              # the prediction's pixels against those of the sample's class
    presence: float             # see ``presence``

    def to_cpu(self) -> "Prediction":
        """A copy in main memory that does not keep the rest of its batch alive."""
        image, evidence, prior = (part.cpu().clone() for part in (self.image, self.evidence, self.prior))
        return self._replace(image=image, evidence=evidence, prior=prior)


@dataclass(frozen=True)
class Predictor:
    """Predicts the samples of a batch: ``predictor(batch)`` returns a Prediction for each, in their order.

    model: callable (images uint8 (b, 3, S, S), text of b names) -> object with ``logits`` (b, 2, S, S) and ``prior``
        (b, 1, h, w). Where ``fit.cut``, it also takes the top left part of S x S and has a ``patch``, its side in px.
    text: the embeddings of all names, row = class id - 1, on ``device``.
    fit: how the batch's images were fitted to the input (data/transform.py).
    queried_class: {sample: id of the class to look for instead of the sample's own}.
    views: what is looked at besides the images as they are, for which batches need their originals; fill: uint8 RGB,
        which pads these. Presence is that of the images as they are, or with ``flip`` the mean of theirs and their
        mirror images'; its threshold was set without.
    """
    model: nn.Module
    text: object
    fit: Fit
    device: torch.device
    autocast: contextlib.AbstractContextManager
    queried_class: dict[Sample, int] | None = None
    views: Views = Views()
    fill: tuple[int, int, int] = (0, 0, 0)

    @torch.inference_mode()
    def __call__(self, batch: EvalBatch) -> list[Prediction]:
        ids = [self.queried_class[sample] if self.queried_class else sample.class_id for sample in batch.samples]
        with evaluation_mode(self.model):
            seen, evidence, priors, present = self._find(batch, ids, [mask.shape for mask in batch.masks])
            if self.views != Views():
                find = partial(self._find_in, batch.images.shape[-1])
                first = [evidence]
                if self.views.flip:
                    turned, there = find(mirrored(batch.originals), ids, 1.0)
                    first.append(turned)
                    present = [(one + other) / 2 for one, other in zip(present, there)]
                evidence = look(batch.originals, ids, lambda *which: find(*which)[0], self.views, *first)
        counts = torch.stack([count(e > 0, torch.from_numpy(mask).to(self.device, non_blocking=True), sample.class_id)
                              for e, mask, sample in zip(evidence, batch.masks, batch.samples)])
        return [Prediction(*parts, Counts(*numbers), is_there) for *parts, numbers, is_there in zip(
            batch.samples, seen, batch.valid_sizes, batch.masks, evidence, priors, counts.tolist(),
            torch.stack(present).tolist())]

    def _find(self, batch: EvalBatch, ids: list[int], shapes: list[tuple[int, int]]):
        """Of each image of the batch: what the network saw of it, the evidence (*shape) of a class, prior, presence."""
        found = [None] * len(ids)
        for places, images in windows(batch, self.fit, self.model, self.device, self.autocast):
            rows = torch.tensor([ids[place] for place in places], device=self.device) - 1
            with self.autocast:
                output = self.model(images, self.text[rows])
            height, width = images.shape[2:]
            differences = output.logits[:, 1] - output.logits[:, 0]                  # (b, height, width)
            require_finite(differences)
            own = [None] * len(places) if output.presence is None else output.presence
            for place, difference, prior, logit in zip(places, differences, output.prior, own):
                valid = batch.valid_sizes[place]
                found[place] = (batch.images[place, :, :height, :width],
                                self.fit.to_original(difference, valid, shapes[place]), prior,
                                presence(difference[:valid[0], :valid[1]], logit))
        return [list(parts) for parts in zip(*found)]

    def _find_in(self, size: int, images: list[np.ndarray], ids: list[int],
                 scale: float) -> tuple[list[Tensor], list[Tensor]]:
        """The evidence of a class in each image, by an input ``scale`` times ``size`` px (views.Find), and presence."""
        side = max(1, round(scale * size / self.model.patch)) * self.model.patch
        canvases, valid_sizes = zip(*(self.fit.to_input(image, side, self.fill) for image in images))
        pixels = torch.from_numpy(np.stack(canvases).transpose(0, 3, 1, 2))
        with taking(self.model, side):
            _, evidence, _, present = self._find(EvalBatch(pixels, list(valid_sizes), [], []), ids,
                                                 [image.shape[:2] for image in images])
            return evidence, present


def presence(evidence: Tensor, own: Tensor | None = None) -> Tensor:
    """How surely the named thing is somewhere in the image, as a logit: (..., H, W) to (...) fp32.

    The mean of the highest 1/256 of the evidences, or the mean of that and ``own``, what the model itself says of it
    (Segmentation): the two err on different images (docs/plus.md has AUROCs). Its zero means nothing; a checkpoint
    holds the threshold.
    """
    every = evidence.float().flatten(-2)
    highest = every.topk(max(1, every.shape[-1] // 256), sorted=False).values.mean(-1)
    return highest if own is None else (highest + own.float()) / 2


def windows(batch: EvalBatch, fit: Fit, model, device: torch.device, autocast) -> Iterator[tuple[list[int], Tensor]]:
    """What goes through the network together: places in the batch, and their images (b, 3, height, width).

    Where ``fit.cut``, images that fill the same patches go together, and the patches that hold nothing but padding are
    left out. No more images go together than pay on the device; only the speed depends on that.
    """
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
    """How many inputs of that size in px are worth computing together; None: as many as there are.

    A GPU needs many to be busy, and so do a CPU's bf16 units. A CPU in fp32 is busy with one input of 480 px, and more
    only leave its caches; of smaller inputs several pay, for there the cost of each operation's call shows.
    """
    if device.type != "cpu" or isinstance(autocast, torch.autocast):
        return None
    return max(1, PIXELS_AT_ONCE // (height * width))


def require_finite(evidence: Tensor) -> None:
    """Raise UserError for NaN and infinities, which would count as background and give a wrong score in silence."""
    if not evidence.isfinite().all():
        raise UserError("the model's logits are not finite (NaN or infinity), so there is no score; check the weights "
                        "(weights= and model.clip), and if they are sound try precision=fp32")


@contextlib.contextmanager
def evaluation_mode(model: nn.Module):
    """Within it the model is in evaluation mode; afterwards it is in the mode it was in before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def taking(model: nn.Module, side: int):
    """Within it the model takes inputs of side x side px, for which CLIP's position embedding is resized."""
    encoders = [part for part in model.modules() if isinstance(part, VisionTransformer) and part.side != side]
    kept = [(part, part.side, part.positional_embedding) for part in encoders]
    try:
        for part in encoders:
            part.resize(side)
        yield
    finally:
        for part, before, embedding in kept:
            part.side, part.grid, part.positional_embedding = before, before // part.patch, embedding

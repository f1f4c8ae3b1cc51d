"""From a batch of the loader to predictions at the images' own size: the step that every evaluation repeats."""
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
from util.evaluation.metric import Counts, count
from util.runtime.errors import UserError


class Prediction(NamedTuple):
    """One sample at its original size."""
    sample: Sample
    image: Tensor               # (3, S, S) uint8 as the network saw it, with padding, or (3, height, width) where cut
    valid_size: tuple[int, int] # (height, width) of it that the image fills
    mask: np.ndarray            # (H, W) uint8 of class ids and 255
    evidence: Tensor            # (H, W) float32, on the device: foreground minus background logit; > 0 is foreground
    prior: Tensor               # (1, h, w) in 0..1, on the device
    counts: Counts              # the prediction's pixels against those of the sample's class

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
    """
    model: nn.Module
    text: object
    fit: Fit
    device: torch.device
    autocast: contextlib.AbstractContextManager
    queried_class: dict[Sample, int] | None = None

    @torch.inference_mode()
    def __call__(self, batch: EvalBatch) -> list[Prediction]:
        count_of_batch = len(batch.samples)
        seen, evidence, priors = ([None] * count_of_batch for _ in range(3))
        with evaluation_mode(self.model):
            for places, images in windows(batch, self.fit, self.model, self.device):
                ids = [self._queried(batch.samples[place]) for place in places]
                with self.autocast:
                    output = self.model(images, self.text[torch.tensor(ids, device=self.device) - 1])
                height, width = images.shape[2:]
                differences = output.logits[:, 1] - output.logits[:, 0]              # (b, height, width)
                require_finite(differences)
                for place, difference, prior in zip(places, differences, output.prior):
                    valid, shape = batch.valid_sizes[place], batch.masks[place].shape
                    evidence[place] = self.fit.to_original(difference, valid, shape)
                    seen[place], priors[place] = batch.images[place, :, :height, :width], prior
        counts = torch.stack([count(e > 0, torch.from_numpy(mask).to(self.device, non_blocking=True), sample.class_id)
                              for e, mask, sample in zip(evidence, batch.masks, batch.samples)])
        return [Prediction(*parts, Counts(*numbers)) for *parts, numbers in zip(
            batch.samples, seen, batch.valid_sizes, batch.masks, evidence, priors, counts.tolist())]

    def _queried(self, sample: Sample) -> int:
        return self.queried_class[sample] if self.queried_class else sample.class_id


def windows(batch: EvalBatch, fit: Fit, model, device: torch.device) -> Iterator[tuple[list[int], Tensor]]:
    """What goes through the network together: places in the batch, and their images (b, 3, height, width).

    Usually that is the whole batch. Where ``fit.cut``, images that fill the same patches go together, and the patches
    that hold nothing but padding are left out.
    """
    images = batch.images.to(device, non_blocking=True)
    if not fit.cut:
        yield list(range(len(images))), images
        return
    places: dict[tuple[int, int], list[int]] = {}
    for place, valid in enumerate(batch.valid_sizes):
        places.setdefault(tuple(-(-side // model.patch) * model.patch for side in valid), []).append(place)
    for (height, width), at in places.items():
        yield at, images[at, :, :height, :width]


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

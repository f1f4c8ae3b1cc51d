"""Mask cross-entropy and spatial distribution losses (ESDA, part 5), and the table of terms."""
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model import IGNORE
from model.esda import Segmentation
from model.image_encoder import bilinear, similarity_map

PRESENCE_WEIGHT = 0.1   # of ESDA+'s presence head (docs/plus.md), as large as that of ``others`` in the paper


class Samples(NamedTuple):
    """Input of a term: the model's output for B samples and their target (B, S, S) uint8; 255 is ignored.

    similarity: summed cross-entropy of similarity maps, where on: "last" (1,), the prior mask's, gathers the last
        block's patches around the text; "others" (K,), other blocks', gathers theirs around the target's prototype.
    """
    output: Segmentation
    target: Tensor
    similarity: dict[str, Tensor]


def mask(samples: Samples) -> Tensor:
    """Compute the mask's cross-entropy; with a presence head, samples without the class are ignored."""
    logits, target = samples.output.logits, samples.target
    if samples.output.presence is not None:
        target = target.masked_fill(~_shows(target)[:, None, None], IGNORE)
    return mask_loss(logits[:, 1:] - logits[:, :1], target)


def presence(samples: Samples) -> Tensor:
    """Compute the presence head's cross-entropy, each sample weighted by its pixels that are not ignored."""
    pixels = (samples.target != IGNORE).flatten(1).sum(dim=1)
    shows = _shows(samples.target).float()
    return (F.binary_cross_entropy_with_logits(samples.output.presence, shows, reduction="none") * pixels).sum()


def _shows(target: Tensor) -> Tensor:
    """Tell whether the target has any foreground: (B,) bool."""
    return (target == 1).flatten(1).any(dim=1)


class Term(NamedTuple):
    """Term of the loss."""
    compute: Callable[[Samples], Tensor]    # summed over pixels that count, () or (K,) of K maps, whose mean counts
    weight: float | str                     # a number, or the option of config section ``loss`` that holds it
    label: str                              # its name in the epoch's log line
    tag: str                                # and in TensorBoard, as train/loss_TAG


TERMS = {
    "main": Term(mask, 1.0, "mask", "mask"),
    "last": Term(lambda samples: samples.similarity["last"], "last", "last block", "last_block"),
    "others": Term(lambda samples: samples.similarity["others"], "others", "others", "other_blocks"),
    "presence": Term(presence, PRESENCE_WEIGHT, "presence", "presence"),
}


class EsdaLosses:
    """Training objective: the weighted sum of TERMS.

    weights: {name in TERMS: weight}, 0.2 for ``last`` and 0.1 for ``others`` in the paper; 0 turns a term off.
    """
    sign, align_corners = 1, False      # ReleasedLosses has others

    def __init__(self, weights: dict[str, float]):
        self.weights = {name: weight for name, weight in weights.items() if weight}

    def __call__(self, output: Segmentation, target: Tensor, pixels: Tensor | None = None) -> dict[str, Tensor]:
        """Return the total under "loss", then each term before weighting, all scalars.

        target: (B, S, S) uint8, 1 foreground, 0 background, 255 ignored. pixels: the divisor; None: ``pixels(target)``.
        Parts of a batch take the whole batch's count, so that their losses add up to the batch's.
        """
        pixels = self.pixels(target) if pixels is None else pixels
        samples = Samples(output, target, self._of_maps(output, target))
        terms = {name: (TERMS[name].compute(samples) / pixels).mean() for name in self.weights}
        return {"loss": sum(self.weights[name] * value for name, value in terms.items()), **terms}

    def pixels(self, target: Tensor) -> Tensor:
        """Count the pixels of target (B, S, S) that are not ignored, at least 1."""
        return (target != IGNORE).sum().clamp(min=1)

    def _of_maps(self, output: Segmentation, target: Tensor) -> dict[str, Tensor]:
        """Compute Samples.similarity of all maps in one pass."""
        maps = {"last": [output.prior]} if "last" in self.weights else {}
        if "others" in self.weights:
            cover = bilinear((target == 1)[:, None], output.prior.shape[2:], self.align_corners).flatten(2)
            maps["others"] = [similarity_map(p, prototype(p, cover)) for p in output.blocks.values()]
        if not maps:
            return {}
        every = torch.cat([s for some in maps.values() for s in some], dim=1)            # (B, K, h, h)
        return dict(zip(maps, self.similarity(every, target).split([len(some) for some in maps.values()])))

    def similarity(self, maps: Tensor, target: Tensor) -> Tensor:
        """Sum the cross-entropy of similarity maps (B, K, h, h) in [0, 1], as ``mask_loss``: (K,).

        A map s is read as the logits [1 - s, s]: similar where the class is, dissimilar elsewhere.
        """
        s = bilinear(maps, target.shape[1:], self.align_corners)
        return mask_loss(self.sign * (2 * s - 1), target)


def prototype(patches: Tensor, cover: Tensor) -> Tensor:
    """Average patch tokens (B, n, C) weighted by their foreground share ``cover`` (B, 1, n): (B, C)."""
    return (cover @ patches.float() / (cover.sum(2, keepdim=True) + 1e-5))[:, 0]


def mask_loss(margin: Tensor, target: Tensor) -> Tensor:
    """Sum the cross-entropy of K logit margins (B, K, S, S) with one mask (B, S, S) uint8, 255 ignored: (K,) fp32.

    margin: foreground minus background logit, all that the cross-entropy of two logits depends on.
    """
    against = torch.where(target == 1, -1.0, 1.0)[:, None]                   # the side on which the margin is wrong
    counts = (target != IGNORE).float()[:, None]
    return (F.softplus(against * margin.float()) * counts).sum(dim=(0, 2, 3))

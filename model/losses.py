"""The mask's cross-entropy and the spatial distribution losses (ESDA, part 5), and the table where terms are added."""
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model import IGNORE
from model.esda import Segmentation
from model.similarity import bilinear, similarity_map


class EsdaLosses:
    """What training minimises: the weighted sum of TERMS.

    weights: {name in TERMS: weight}; 0.2 for ``last`` and 0.1 for ``others`` in the paper. A term of weight 0 is not
    computed. temperature: k in ``evidence``; 1 in the paper.
    """

    def __init__(self, weights: dict[str, float], temperature: float = 1.0):
        self.temperature = temperature
        self.weights = {name: weight for name, weight in weights.items() if weight}

    def __call__(self, output: Segmentation, target: Tensor, pixels: Tensor | None = None) -> dict[str, Tensor]:
        """The total under "loss", then each term before weighting, all scalars.

        Args:
            output: of the model in training, B samples.
            target: (B, S, S) uint8, 1 foreground, 0 background, 255 ignored; it is read, never written.
            pixels: what sums over pixels are divided by. Where the samples are a part of a batch, it is the count of
                the whole batch, and the parts' losses add up to the batch's. None: ``pixels(target)``.
        """
        samples = Samples(self, output, target, self.pixels(target) if pixels is None else pixels)
        terms = {name: TERMS[name].compute(samples) for name in self.weights}
        return {"loss": sum(self.weights[name] * value for name, value in terms.items()), **terms}

    def pixels(self, target: Tensor) -> Tensor:
        """How many pixels of target (B, S, S) count, at least 1."""
        return (target != IGNORE).sum().clamp(min=1)

    def similarity(self, maps: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of similarity maps (B, K, h, h) in [0, 1], summed as by ``mask_loss``: (K,)."""
        return mask_loss(self.evidence(self.resize(maps, target.shape[1:])), target)

    def evidence(self, s: Tensor) -> Tensor:
        """A map s read as the logits k [1 - s, s]: similar where the class is, dissimilar elsewhere.

        The loss of a perfect map is log(1 + exp(-k)): 0.313 for k = 1, so that little is left to learn.
        """
        return self.temperature * (2 * s - 1)

    def resize(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, K, h, w) to (B, K, *size): similarity maps to the target's size, the target to the patch grid."""
        return bilinear(maps, size)

    def cover(self, target: Tensor, patches: int) -> Tensor:
        """The share of each of n = h * h ``patches`` that the foreground of target (B, S, S) covers: (B, 1, n) fp32."""
        side = round(patches ** 0.5)
        return self.resize((target == 1)[:, None], (side, side)).flatten(2)


class Samples:
    """What a term is computed from: some samples of a batch, and ``losses``, the EsdaLosses that asks.

    output, target, pixels: the arguments of EsdaLosses.__call__.
    """

    def __init__(self, losses: EsdaLosses, output: Segmentation, target: Tensor, pixels: Tensor):
        self.losses, self.output, self.target, self.pixels = losses, output, target, pixels

    @cached_property
    def mask(self) -> Tensor:
        """The target, where the term ``presence`` learns what is not there without the samples that show nothing."""
        if "presence" not in self.losses.weights:
            return self.target
        return self.target.masked_fill(~self.shows[:, None, None], IGNORE)

    @cached_property
    def shows(self) -> Tensor:
        """(B,) bool: whether the target has any foreground."""
        return (self.target == 1).flatten(1).any(dim=1)

    @cached_property
    def similarity(self) -> dict[str, Tensor]:
        """Cross-entropy of each similarity map, all in one pass: "last" (1,) and "others", one value per block."""
        maps = {}
        if "last" in self.losses.weights:
            maps["last"] = [self.output.prior]
        if "others" in self.losses.weights:
            cover = self.losses.cover(self.target, self.output.patches.shape[1])
            maps["others"] = [similarity_map(p, prototype(p, cover)) for p in self.output.blocks.values()]
        every = torch.cat([m for some in maps.values() for m in some], dim=1)    # (B, K, h, h)
        values = self.losses.similarity(every, self.target) / self.pixels        # (K,)
        return dict(zip(maps, values.split([len(some) for some in maps.values()])))


def prototype(patches: Tensor, cover: Tensor) -> Tensor:
    """The mean of patch tokens (B, n, C) weighted by cover (B, 1, n): (B, C) fp32, zero where the cover is empty."""
    return (cover @ patches.float() / (cover.sum(2, keepdim=True) + 1e-5))[:, 0]


def mask_loss(evidence: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of K maps with one mask, summed over the pixels that are not 255: (K,) fp32.

    evidence (B, K, S, S): foreground minus background logit, all that the cross-entropy of two logits depends on;
    target (B, S, S) uint8.
    """
    against = torch.where(target == 1, -1.0, 1.0)[:, None]                   # the side on which evidence is wrong
    counts = (target != IGNORE).float()[:, None]
    return (F.softplus(against * evidence.float()) * counts).sum(dim=(0, 2, 3))


def main(samples: Samples) -> Tensor:
    """Cross-entropy of the predicted mask."""
    logits = samples.output.logits
    return mask_loss(logits[:, 1:] - logits[:, :1], samples.mask)[0] / samples.pixels


def last_block(samples: Samples) -> Tensor:
    """The last block's patches gather around the text: cross-entropy of the prior mask."""
    return samples.similarity["last"].mean()


def other_blocks(samples: Samples) -> Tensor:
    """The other blocks' patches gather around the target's prototype: the mean over the blocks of ``prior_indices``."""
    return samples.similarity["others"].mean()


def presence(samples: Samples) -> Tensor:
    """ESDA+: is the named thing there at all? Cross-entropy, each sample weighed by its pixels that count."""
    pixels = (samples.target != IGNORE).flatten(1).sum(dim=1)
    losses = F.binary_cross_entropy_with_logits(samples.output.presence, samples.shows.float(), reduction="none")
    return (losses * pixels).sum() / samples.pixels


class Term(NamedTuple):
    """One term of the loss.

    compute: Samples -> scalar. The values of a batch's parts must add up to the batch's, so sums over pixels are
        divided by ``samples.pixels``.
    weight: the option of config section ``loss`` that weighs it; None: its weight is 1.
    label: its name in the epoch's log line; tag: in TensorBoard, as train/loss_TAG.
    """
    compute: Callable[[Samples], Tensor]
    weight: str | None
    label: str
    tag: str


TERMS = {
    "main": Term(main, None, "mask", "mask"),
    "last": Term(last_block, "last", "last block", "last_block"),
    "others": Term(other_blocks, "others", "others", "other_blocks"),
    "presence": Term(presence, "presence", "presence", "presence"),
}

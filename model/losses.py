"""The mask's cross-entropy and the spatial distribution losses (ESDA, part 5)."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.bilinear import bilinear
from model.esda import Segmentation
from model.similarity import similarity_map

IGNORE = 255


class Losses(NamedTuple):
    """Scalars: ``total`` is what training minimises; main, last and others are its terms before weighting."""
    total: Tensor
    main: Tensor
    last: Tensor
    others: Tensor


def cover_of(target: Tensor, patches: int, align_corners: bool = False) -> Tensor:
    """How much of each of n = h * h ``patches`` the target covers, the mask resized bilinearly to the grid.

    target (B, S, S) of 0, 1 and 255, of which only 1 counts; it is read, never written. Returns (B, 1, n) fp32 in 0..1.
    """
    side = round(patches ** 0.5)
    return bilinear((target == 1)[:, None], (side, side), align_corners).flatten(2)


def prototype(patches: Tensor, cover: Tensor) -> Tensor:
    """The mean of patch tokens (B, n, C) by the target's cover (B, 1, n): (B, C) fp32, zero where it is empty."""
    return (cover @ patches.float() / (cover.sum(2, keepdim=True) + 1e-5))[:, 0]


def mask_loss(evidence: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of K maps against one mask, summed over the pixels that are not 255: (K,).

    evidence (B, K, S, S): foreground minus background logit, all that the cross-entropy of two logits depends on;
    target (B, S, S) uint8.
    """
    against = torch.where(target == 1, -1.0, 1.0)[:, None]                   # the side on which evidence is wrong
    counts = (target != IGNORE).float()[:, None]
    return (F.softplus(against * evidence.float()) * counts).sum(dim=(0, 2, 3))


def similarity_losses(maps: Tensor, target: Tensor, sign: str = "described", align_corners: bool = False) -> Tensor:
    """Cross-entropy of each map s, read as the two logits [1 - s, s]: similar where the class is, unlike elsewhere.

    maps (B, K, h, h) in [0, 1]; target (B, S, S); returns (K,), summed as in ``mask_loss``. sign "released" has
    [s, 1 - s], which pushes the other way.
    """
    s = bilinear(maps, target.shape[1:], align_corners)
    return mask_loss(1 - 2 * s if sign == "released" else 2 * s - 1, target)


class EsdaLosses:
    """What training minimises, as the config weighs and turns it.

    Args:
        last_block: whether the last block is among ``prior_indices``.
        last_weight, others_weight: 0.2 and 0.1 in the paper; a weight of 0 also saves the computation.
        sign: which way the similarity maps are pushed, "described" or "released" (see similarity_losses).
        ignored: what 255 is to every term: "ignore", or "background" as in the released code, where the building of
            the prototypes overwrites it. The target itself is never written to.
        align_corners: how similarity maps and masks are resized.
    """

    def __init__(self, last_block: bool, last_weight: float, others_weight: float, sign: str = "described",
                 ignored: str = "ignore", align_corners: bool = False):
        self.last_weight, self.others_weight = last_weight if last_block else 0.0, others_weight
        self.sign, self.ignored, self.align_corners = sign, ignored, align_corners

    def pixels(self, target: Tensor) -> Tensor:
        """How many pixels of target (B, S, S) count, at least 1."""
        counts = torch.ones_like(target) if self.ignored == "background" else target != IGNORE
        return counts.sum().clamp(min=1)

    def __call__(self, output: Segmentation, target: Tensor, pixels: Tensor | None = None) -> Losses:
        """All terms for some samples.

        Args:
            target: (B, S, S) uint8, 1 foreground, 0 background, 255 ignored.
            pixels: what the sums are divided by, the pixels of the whole batch where the samples are only a part of
                it: the losses of the parts then add up to those of the whole. None: ``pixels(target)``.
        """
        if pixels is None:
            pixels = self.pixels(target)
        if self.ignored == "background":
            target = target.masked_fill(target == IGNORE, 0)
        main = mask_loss(output.logits[:, 1:] - output.logits[:, :1], target)[0] / pixels
        maps = [output.prior] if self.last_weight else []
        if self.others_weight:
            cover = cover_of(target, output.patches.shape[1], self.align_corners)
            maps += [similarity_map(patches, prototype(patches, cover)) for patches in output.blocks.values()]
        by_map = similarity_losses(torch.cat(maps, dim=1), target, self.sign, self.align_corners) / pixels \
            if maps else main.new_zeros(0)
        last = by_map[0] if self.last_weight else main.new_zeros(())
        others = by_map[1 if self.last_weight else 0:]
        others = others.mean() if len(others) else main.new_zeros(())
        return Losses(main + self.last_weight * last + self.others_weight * others, main, last, others)

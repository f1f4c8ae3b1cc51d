"""The mask's cross-entropy and the spatial distribution losses (ESDA, part 5)."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.esda import Segmentation
from model.similarity import similarity_map

IGNORE = 255


class Losses(NamedTuple):
    """Scalars: ``total`` is what training minimises; main, last and others are its terms before weighting."""
    total: Tensor
    main: Tensor
    last: Tensor
    others: Tensor


def prototype(patches: Tensor, target: Tensor, align_corners: bool = False) -> Tensor:
    """The mean of the patch tokens under the target, weighted by how much of each patch it covers.

    patches (B, n, C); target (B, S, S) of 0, 1 and 255, of which only 1 counts. Returns (B, C) fp32; zero where the
    target is empty. ``target`` is read, never written.
    """
    side = round(patches.shape[1] ** 0.5)
    foreground = (target == 1)[:, None].float()
    cover = F.interpolate(foreground, size=(side, side), mode="bilinear", align_corners=align_corners)
    cover = cover.flatten(2)                                                 # (B, 1, n)
    return (cover @ patches.float() / (cover.sum(2, keepdim=True) + 1e-5))[:, 0]


def similarity_loss(similarity: Tensor, target: Tensor, sign: str = "described", align_corners: bool = False) -> Tensor:
    """Cross-entropy of the two logits [1 - s, s] against the target: similar where the class is, unlike elsewhere.

    similarity (B, 1, h, h) in [0, 1]; target (B, S, S). sign "released" has [s, 1 - s], which pushes the other way.
    """
    s = F.interpolate(similarity, size=target.shape[1:], mode="bilinear", align_corners=align_corners)
    return cross_entropy(torch.cat([s, 1 - s] if sign == "released" else [1 - s, s], dim=1), target)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the pixels that are not 255; zero, with a gradient of zero, where all are."""
    total = F.cross_entropy(logits.float(), target.long(), ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def esda_losses(output: Segmentation, target: Tensor, last_block: bool, last_weight: float, others_weight: float,
                sign: str = "described", ignored: str = "ignore", align_corners: bool = False) -> Losses:
    """All terms for one batch.

    Args:
        target: (B, S, S) uint8, 1 foreground, 0 background, 255 ignored.
        last_block: whether the last block is among ``prior_indices``.
        last_weight, others_weight: 0.2 and 0.1 in the paper; a weight of 0 also saves the computation.
        sign: which way the similarity maps are pushed, "described" or "released" (see similarity_loss).
        ignored: what 255 is to every term: "ignore", or "background" as in the released code, where the building of
            the prototypes overwrites it. ``target`` itself is never written to.
        align_corners: how similarity maps and masks are resized.
    """
    if ignored == "background":
        target = target.masked_fill(target == IGNORE, 0)
    main = cross_entropy(output.logits, target)
    last = others = main.new_zeros(())
    if last_block and last_weight:
        last = similarity_loss(output.prior, target, sign, align_corners)
    if output.blocks and others_weight:
        prototypes = [prototype(patches, target, align_corners) for patches in output.blocks.values()]
        maps = [similarity_map(patches, p) for patches, p in zip(output.blocks.values(), prototypes)]
        others = torch.stack([similarity_loss(s, target, sign, align_corners) for s in maps]).mean()
    return Losses(main + last_weight * last + others_weight * others, main, last, others)

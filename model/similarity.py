"""Similarity maps: how much each patch looks like one vector, a text or a prototype (ESDA, part 2), and how they and
other maps are resized.
"""
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_map(patches: Tensor, vector: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """Cosine of each patch token with its image's vector, min-max normalised per image to [0, 1], in fp32.

    Args:
        patches: (B, n, C) with n = h * w; vector: (B, C).
        grid: h and w; None: a square.
    Returns:
        (B, 1, h, w). With the text t and the last block's patches this is the prior mask.
    """
    cosine = F.cosine_similarity(patches.float(), vector.float()[:, None], dim=-1)  # (B, n)
    low, high = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
    scaled = (cosine - low) / (high - low + 1e-7)  # 1e-7 keeps an even map finite
    return scaled.view(patches.shape[0], 1, *(grid or 2 * [round(patches.shape[1] ** 0.5)]))


def bilinear(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """(B, K, h, w) to (B, K, *size) in fp32: the numbers of ``F.interpolate(mode="bilinear")`` by two matrix products.

    Bilinear weights are a product of weights by row and by column. The products take a quarter of the time on a CPU
    (the loss on twelve maps of 480 px), and their gradient is the same in every run on a GPU. ``interpolate`` sums its
    gradient there in no fixed order, or in some forty small operations if a fixed order is required.
    """
    with torch.autocast(maps.device.type, enabled=False):
        rows, columns = (_weights(old, new, align_corners, maps.device) for old, new in zip(maps.shape[2:], size))
        return rows @ maps.float() @ columns.T


@lru_cache(maxsize=16)
def _weights(old: int, new: int, align_corners: bool, device: torch.device) -> Tensor:
    """(new, old): the weight of each old position in each new one, 1 minus the distance between the two."""
    with torch.inference_mode(False):  # the cache serves training too, even if evaluation fills it
        at = torch.arange(new, dtype=torch.float64, device=device)
        if align_corners:
            at = at * ((old - 1) / max(1, new - 1))
        else:
            at = ((at + 0.5) * (old / new) - 0.5).clamp(0, old - 1)  # between centres; constant beyond the outermost
        distance = at[:, None] - torch.arange(old, dtype=torch.float64, device=device)
        return (1 - distance.abs()).clamp(min=0).float()

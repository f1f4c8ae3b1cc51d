"""Bilinear resizing as two matrix products."""
from functools import lru_cache

import torch
from torch import Tensor


def bilinear(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """(B, K, h, w) to (B, K, *size) in fp32, the numbers of ``F.interpolate(mode="bilinear")``.

    Bilinear weights are a product of weights by row and by column. As matrix products the loss on twelve maps of 480 px
    takes a quarter of the time on a CPU, and its gradient is the same in every run on a GPU. There ``interpolate`` sums
    it in no fixed order, or, asked for a fixed one, becomes some forty small operations.
    """
    with torch.autocast(maps.device.type, enabled=False):
        rows, columns = (_weights(old, new, align_corners, maps.device) for old, new in zip(maps.shape[2:], size))
        return rows @ maps.float() @ columns.T


@lru_cache(maxsize=16)
def _weights(old: int, new: int, align_corners: bool, device: torch.device) -> Tensor:
    """(new, old): how much of each old position is in each new one, 1 less the distance between the two."""
    with torch.inference_mode(False):  # kept for training too, whoever asks first
        at = torch.arange(new, dtype=torch.float64, device=device)
        if align_corners:
            at = at * ((old - 1) / max(1, new - 1))
        else:
            at = ((at + 0.5) * (old / new) - 0.5).clamp(0, old - 1)          # centres; nothing changes beyond the last
        distance = at[:, None] - torch.arange(old, dtype=torch.float64, device=device)
        return (1 - distance.abs()).clamp(min=0).float()

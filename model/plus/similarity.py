"""What ESDA+ reads of a name: how CLIP's own patches match it, in three channels a map. Nothing here is trained."""
import torch
from torch import Tensor

CHANNELS = ("raw", "standardised", "lead")
SAME_NAME = 0.9999      # cosine from which on a rival is the name asked for; other words stay below it


def similarity_channels(match: Tensor, rivals: Tensor, allowed: Tensor, scale: float) -> Tensor:
    """Three channels of each of V maps, (B, V, 3, n) fp32.

    Args:
        match: (B, V, n), cosine of each patch with its image's name; rivals: (B, V, n, R), with R other names.
        allowed: (B, R), True for the rivals that count.
        scale: of the first and third channel.

    1. the cosine times ``scale``: absolute, comparable between images;
    2. the cosine standardised over the image's patches: what stands out here;
    3. ``scale`` times its lead over the best rival: whether the patch is rather something else. Where no rival counts,
       over the cosine's mean in the image.
    """
    centred = match - match.mean(dim=2, keepdim=True)
    standardised = centred / (match.std(dim=2, correction=0, keepdim=True) + 1e-6)
    lead = centred
    if rivals.shape[3]:
        best = rivals.masked_fill(~allowed[:, None, None], -torch.inf).amax(dim=3)               # (B, V, n)
        lead = torch.where(allowed.any(dim=1)[:, None, None], match - best, centred)
    return torch.stack([scale * match, standardised, scale * lead], dim=2)


def others_than(names: Tensor, rivals: Tensor) -> Tensor:
    """(B, R), False where one of the R rivals is the name itself; both unit vectors, (B, D) and (R, D)."""
    return names @ rivals.T < SAME_NAME


def min_max(maps: Tensor) -> Tensor:
    """(B, n) to [0, 1] in each row."""
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    return (maps - low) / (high - low + 1e-7)  # 1e-7 keeps an even map finite

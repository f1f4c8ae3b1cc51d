"""Similarity maps: how much each patch looks like one vector, a text or a prototype (ESDA, part 2)."""
import torch.nn.functional as F
from torch import Tensor


def similarity_map(patches: Tensor, vector: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """Cosine of each patch token with one vector an image, min-max normalised to [0, 1] an image, in fp32.

    Args:
        patches: (B, n, C) with n = h * w; vector: (B, C).
        grid: h and w; None: a square.
    Returns:
        (B, 1, h, w). With the text t and the last block's patches this is the prior mask.
    """
    cosine = F.cosine_similarity(patches.float(), vector.float()[:, None], dim=-1)  # (B, n)
    low, high = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
    scaled = (cosine - low) / (high - low + 1e-7)  # 1e-7 keeps an even map finite
    return scaled.view(len(patches), 1, *(grid or 2 * [round(patches.shape[1] ** 0.5)]))

"""Masks whose borders follow the image: pixel-adaptive mask refinement (PAMR, Araslanov & Roth, CVPR 2020).

Nothing in it is trained. A mask made of patches is too coarse for what is smaller than a few of them; the image shows
where things end. Neighbours that look alike share their evidence, again and again.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SHARPNESS = 0.1   # of the local standard deviation: the difference in colour that divides a neighbour's weight by e
REACH = 16        # px, two patches of Shapes-5i and one of ViT-B/16: neighbours are the eight at 1, 2, 4, ... up to it
CERTAIN = 1e-4    # evidences beyond the logit of 1 less this are no surer


def refine(evidence: Tensor, image: Tensor, steps: int) -> Tensor:
    """The evidence after ``steps`` rounds in which each pixel takes the weighted mean of its neighbours' probabilities.

    Args:
        evidence: (H, W) fp32, foreground minus background logit.
        image: (3, H, W) uint8 RGB, on the same device.
    Returns (H, W) fp32 logits between those of CERTAIN and of 1 - CERTAIN.
    """
    distances = [2 ** i for i in range(REACH.bit_length())]
    places = [(down * d, right * d) for d in distances for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
    weights = _weights(image.float(), places, distances[-1])                       # (P, H, W)
    probability = evidence.float().sigmoid()
    for _ in range(steps):
        shifted = _shifted(probability[None], distances[-1])
        mean = torch.zeros_like(probability)
        for place, weight in zip(places, weights):
            mean.addcmul_(weight, shifted(place)[0])
        probability = mean
    return probability.logit(CERTAIN)


def _weights(image: Tensor, places: list[tuple[int, int]], reach: int) -> Tensor:
    """How much each pixel takes from each neighbour: (P, H, W), summing to 1 over the P places."""
    shifted = _shifted(image, reach)
    neighbours = torch.stack([shifted(place) for place in places])                 # (P, 3, H, W)
    spread = torch.cat([neighbours, image[None]]).std(dim=0)                       # (3, H, W)
    unlike = (neighbours - image).abs() / (SHARPNESS * spread).clamp(min=1e-6)
    return (-unlike.mean(dim=1)).softmax(dim=0)


def _shifted(x: Tensor, reach: int) -> Callable[[tuple[int, int]], Tensor]:
    """(C, H, W) to a function of (rows down, columns right), which gives each pixel its neighbour there."""
    height, width = x.shape[1:]
    padded = F.pad(x[None], [reach] * 4, mode="replicate")[0]
    return lambda place: padded[:, reach + place[0]:][:, :height, reach + place[1]:][..., :width]

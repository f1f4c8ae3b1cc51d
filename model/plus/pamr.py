"""Pixel-adaptive mask refinement (PAMR, Araslanov & Roth, CVPR 2020): pixels that look alike share their answer.

``refine`` is training-free (option eval.refine); ``GuidedDecoder`` is trained with the model.
"""
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.image_encoder import bilinear, logits_of
from model.mask_decoder import MaskDecoder

EIGHT = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
SHARPNESS = 0.1     # the difference in colour, in local standard deviations, that divides a neighbour's weight by e
REACHES = (1, 2, 4, 8, 16)  # px of ``refine``; the farthest is two patches of Shapes-5i and one of ViT-B/16
CERTAIN = 1e-4      # margins beyond the logit of 1 less this are no surer
FINER = 4           # cells of the guided decoder along a patch's side
DISTANCES = (1, 2, 4, 8)    # cells; the farthest is two patches
ROUNDS = 5          # of the guided decoder


def neighbours(x: Tensor, distances: tuple[int, ...], mode: str = "constant") -> Iterator[Tensor]:
    """Yield x (B, K, H, W) shifted to each of eight neighbours at each distance; outside as F.pad's ``mode``."""
    height, width, reach = *x.shape[2:], distances[-1]
    padded = F.pad(x, [reach] * 4, mode=mode)
    for d in distances:
        for down, right in EIGHT:
            yield padded[:, :, reach + d * down:, reach + d * right:][:, :, :height, :width]


def refine(margin: Tensor, image: Tensor, rounds: int) -> Tensor:
    """Average each pixel's neighbours' probabilities, weighted by likeness, ``rounds`` times.

    margin: (H, W) fp32 logit margin; image: (3, H, W) uint8 RGB, same device. Returns (H, W) fp32 logits, at most those
    of 1 - CERTAIN in size.
    """
    image = image.float()
    others = torch.cat(list(neighbours(image[None], REACHES, "replicate")))          # (P, 3, H, W)
    spread = torch.cat([others, image[None]]).std(dim=0)                             # (3, H, W)
    unlike = (others - image).abs() / (SHARPNESS * spread).clamp(min=1e-6)
    weights = (-unlike.mean(dim=1)).softmax(dim=0)                                   # (P, H, W)
    probability = margin.float().sigmoid()
    for _ in range(rounds):
        mean = torch.zeros_like(probability)
        for weight, other in zip(weights, neighbours(probability[None, None], REACHES, "replicate")):
            mean.addcmul_(weight, other[0, 0])
        probability = mean
    return probability.logit(CERTAIN)


class GuidedDecoder(MaskDecoder):
    """Mask decoder whose logit margin then spreads between image cells, a quarter patch each, that look alike.

    In each of ROUNDS rounds a cell takes the weighted mean of its neighbours' margins, which, unlike probabilities, let
    the gradient pass. Weights come from colour differences; their sharpness and a bias for each place are learned.
    """

    def __init__(self, width: int, channels: int = 256):
        super().__init__(width, channels)
        places = len(DISTANCES) * len(EIGHT)
        self.sharpness = nn.Parameter(torch.full((places, 1, 1), -math.log(SHARPNESS)))  # a logarithm
        self.place = nn.Parameter(torch.zeros(places, 1, 1))

    def guide(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the affinities of each cell with the P = 32 around it: (B, P, 4 h, 4 w) fp32, of sum 1 over P.

        images: (B, 3, H, W) normalised. Places outside the image have weight 0.
        """
        cells = F.adaptive_avg_pool2d(images, [FINER * side for side in grid])
        with torch.autocast(images.device.type, enabled=False):
            cells = cells.float()
            mean, square = map(_mean_around, (cells, cells.square()))
            spread = (square - mean.square()).clamp(min=0).sqrt() + 1e-3   # 1e-3 keeps one colour all around finite
            unlike = torch.stack([((other - cells).abs() / spread).mean(dim=1)
                                  for other in neighbours(cells, DISTANCES)], dim=1)
            inside = torch.cat(list(neighbours(torch.ones_like(cells[:1, :1]), DISTANCES)), dim=1) > 0
            weights = self.place - self.sharpness.exp() * unlike
            return weights.masked_fill(~inside, -torch.inf).softmax(dim=1)

    def forward(self, patches: Tensor, prior: Tensor, factors: Tensor | None = None,
                guide: Tensor | None = None) -> Tensor:
        """Decode as MaskDecoder, with ``guide``: logits (B, 2, 4 h, 4 w), the background's zero."""
        logits = super().forward(patches, prior, factors)
        margin = self.spread(bilinear(logits[:, 1:] - logits[:, :1], guide.shape[2:]), guide)
        return logits_of(margin)

    def spread(self, margin: Tensor, guide: Tensor) -> Tensor:
        """Run all rounds on margin (B, 1, 4 h, 4 w) fp32."""
        weights = guide.split(1, dim=1)
        with torch.autocast(margin.device.type, enabled=False):
            for _ in range(ROUNDS):
                if torch.compiler.is_exporting():
                    margin = (guide * _neighbours_by_convolution(margin)).sum(dim=1, keepdim=True)
                else:
                    margin = sum(weight * other for weight, other in zip(weights, neighbours(margin, DISTANCES)))
        return margin


def _neighbours_by_convolution(x: Tensor) -> Tensor:
    """Compute ``neighbours`` of one channel at DISTANCES, (B, P, H, W), in few graph nodes for export."""
    kernel = x.new_zeros(len(EIGHT), 1, 3, 3)
    for i, (down, right) in enumerate(EIGHT):
        kernel[i, 0, 1 + down, 1 + right] = 1
    return torch.cat([F.conv2d(x, kernel, padding=d, dilation=d) for d in DISTANCES], dim=1)


def _mean_around(x: Tensor) -> Tensor:
    """Average x (B, K, H, W) over the square of the farthest neighbours, as far as it is inside."""
    reach = DISTANCES[-1]
    for side, pad in (((2 * reach + 1, 1), (reach, 0)), ((1, 2 * reach + 1), (0, reach))):
        x = F.avg_pool2d(x, side, stride=1, padding=pad, count_include_pad=False)
    return x

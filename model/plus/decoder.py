"""A mask decoder that is finer than the patch grid: the image itself says where the borders are.

It is pixel-adaptive mask refinement (PAMR, Araslanov & Roth, CVPR 2020) as a part that trains with the rest. It starts
nearly as util/evaluation/refine.py, but works on logits, so that the gradient passes.
"""
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.mask_decoder import MaskDecoder
from model.similarity import bilinear

FINER = 4                   # cells along a patch's side
DISTANCES = (1, 2, 4, 8)    # cells; the longest is two patches
EIGHT = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
PLACES = [(down * d, right * d) for d in DISTANCES for down, right in EIGHT]
SHARPNESS = 0.1             # at the start: the difference in colour, in local standard deviations, that divides by e


class GuidedDecoder(MaskDecoder):
    """The mask decoder's evidence on the patch grid, which then spreads between cells of the image that look alike.

    A cell is a quarter of a patch. In each of ``rounds`` rounds it takes the weighted mean of the evidence of the eight
    cells around it at each of four distances. The weights come from the difference in colour. How sharply that counts,
    and how much each place counts at all, is learned.
    """

    def __init__(self, width: int, dropout: float = 0.1, channels: int = 256, rounds: int = 5):
        super().__init__(width, dropout, channels)
        self.rounds = rounds
        self.sharpness = nn.Parameter(torch.full((len(PLACES), 1, 1), -math.log(SHARPNESS)))  # a logarithm
        self.place = nn.Parameter(torch.zeros(len(PLACES), 1, 1))

    def guide(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Normalised images (B, 3, H, W) to how much each cell takes from the P = 32 around it; once an image.

        The weights are (B, P, 4 h, 4 w) fp32 and sum to 1 over P. What lies outside of the image has none.
        """
        cells = F.adaptive_avg_pool2d(images, [FINER * side for side in grid])
        with torch.autocast(images.device.type, enabled=False):
            cells = cells.float()
            mean, square = map(_mean_around, (cells, cells.square()))
            spread = (square - mean.square()).clamp(min=0).sqrt() + 1e-3   # 1e-3 keeps one colour all around finite
            unlike = torch.stack([((other - cells).abs() / spread).mean(dim=1) for other in _around(cells)], dim=1)
            inside = torch.cat(list(_around(torch.ones_like(cells[:1, :1]))), dim=1) > 0
            weights = self.place - self.sharpness.exp() * unlike
            return weights.masked_fill(~inside, -torch.inf).softmax(dim=1)

    def forward(self, patches: Tensor, prior: Tensor, factors: Tensor | None = None,
                guide: Tensor | None = None) -> Tensor:
        """As MaskDecoder, with the ``guide`` of each image; returns logits (B, 2, 4 h, 4 w), the background's zero."""
        logits = super().forward(patches, prior, factors)
        evidence = self.spread(bilinear(logits[:, 1:] - logits[:, :1], guide.shape[2:]), guide)
        return torch.cat([torch.zeros_like(evidence), evidence], dim=1)

    def spread(self, evidence: Tensor, guide: Tensor) -> Tensor:
        """All rounds: evidence (B, 1, 4 h, 4 w) fp32, the same."""
        weights = guide.split(1, dim=1)
        with torch.autocast(evidence.device.type, enabled=False):
            for _ in range(self.rounds):
                if torch.compiler.is_exporting():
                    evidence = (guide * _around_as_convolutions(evidence)).sum(dim=1, keepdim=True)
                else:
                    evidence = sum(weight * other for weight, other in zip(weights, _around(evidence)))
        return evidence


def _around(x: Tensor) -> Iterator[Tensor]:
    """x (B, K, H, W) as each of the P places sees it, zero outside."""
    height, width, reach = *x.shape[2:], DISTANCES[-1]
    padded = F.pad(x, [reach] * 4)
    for down, right in PLACES:
        yield padded[:, :, reach + down:, reach + right:][:, :, :height, :width]


def _around_as_convolutions(x: Tensor) -> Tensor:
    """The same of one channel, (B, P, H, W), by kernels that pick a place each.

    It takes ten times as long on a CPU, but a graph for export has so few nodes that it is written in seconds.
    """
    kernel = x.new_zeros(len(EIGHT), 1, 3, 3)
    for i, (down, right) in enumerate(EIGHT):
        kernel[i, 0, 1 + down, 1 + right] = 1
    return torch.cat([F.conv2d(x, kernel, padding=d, dilation=d) for d in DISTANCES], dim=1)


def _mean_around(x: Tensor) -> Tensor:
    """The mean of x (B, K, H, W) over the square from which each cell takes, as far as it is inside."""
    reach = DISTANCES[-1]
    for side, pad in (((2 * reach + 1, 1), (reach, 0)), ((1, 2 * reach + 1), (0, reach))):
        x = F.avg_pool2d(x, side, stride=1, padding=pad, count_include_pad=False)
    return x

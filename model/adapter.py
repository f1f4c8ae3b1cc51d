"""The trainable block that runs beside each frozen transformer block (ESDA, part 2)."""
import torch
from torch import Tensor, nn


class LowRankBranch(nn.Module):
    """x -> (x A) B over all tokens, A: C x r ~ N(0, 1), B: r x C = 0, so that training starts from CLIP itself."""

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.down = nn.Parameter(torch.randn(width, rank))
        self.up = nn.Parameter(torch.zeros(rank, width))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.down @ self.up

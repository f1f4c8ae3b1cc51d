"""The mask decoder: from patch tokens and the prior mask to background and foreground logits (ESDA, part 4)."""
import torch
from torch import Tensor, nn


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)


class MaskDecoder(nn.Module):
    """3x3 convolutions C + 1 -> 256 -> 128 -> 64, then 1x1 to two channels, all on the patch grid."""

    def __init__(self, width: int, dropout: float = 0.1):
        super().__init__()
        self.res = nn.Sequential(_conv(width + 1, 256), nn.ReLU(), _conv(256, 128), nn.ReLU())
        self.cls = nn.Sequential(_conv(128, 64), nn.ReLU(), nn.Dropout2d(dropout), nn.Conv2d(64, 2, kernel_size=1))

    def forward(self, patches: Tensor, prior: Tensor) -> Tensor:
        """patches (B, n, C), prior (B, 1, h, h) in [0, 1]; returns logits (B, 2, h, h), channel 1 foreground."""
        grid = patches.transpose(1, 2).unflatten(2, prior.shape[2:])         # (B, C, h, h)
        return self.cls(self.res(torch.cat([grid, prior.to(grid.dtype)], dim=1)))

"""Mask decoder: from patch tokens and the prior mask to background and foreground logits (ESDA, part 4)."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPOUT = 0.1   # Dropout2d (ESDA, part 4)


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)


class MaskDecoder(nn.Module):
    """3x3 convolutions C + 1 -> ``channels`` -> half -> quarter, then 1x1 to two channels, on the patch grid."""

    def __init__(self, width: int, channels: int = 256):
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.res = nn.Sequential(_conv(width + 1, channels), nn.ReLU(), _conv(channels, half), nn.ReLU())
        # Identity stands where the released decoder has its dropout, and keeps the last layer's name.
        self.cls = nn.Sequential(_conv(half, quarter), nn.ReLU(), nn.Identity(), nn.Conv2d(quarter, 2, kernel_size=1))

    def sample_noise(self, batch: int) -> Tensor:
        """Draw Dropout2d's factors, 0 or 1 / (1 - DROPOUT): (batch, channels / 4, 1, 1)."""
        return F.dropout2d(self.cls[3].weight.new_ones(batch, self.cls[3].in_channels, 1, 1), DROPOUT)

    def guide(self, images: Tensor, grid: tuple[int, int]) -> Tensor | None:
        """Compute pixel affinities of normalised images (B, 3, H, W) for a guided decoder: None here."""
        return None

    def forward(self, patches: Tensor, prior: Tensor, factors: Tensor | None = None,
                guide: Tensor | None = None) -> Tensor:
        """Decode patches (B, n, C) and prior (B, 1, h, h) in [0, 1] to logits (B, 2, h, h), channel 1 foreground.

        factors: rows of ``sample_noise``, None: sampled here; for training, as evaluation has no dropout.
        """
        first, relu, _, last = self.cls
        tokens = torch.cat([patches, prior.flatten(2).transpose(1, 2).to(patches.dtype)], dim=2)  # (B, n, C + 1)
        x = tokens.transpose(1, 2).unflatten(2, prior.shape[2:])             # (B, C + 1, h, h), channels last in memory
        x = relu(first(self.res(x)))                                         # (B, channels / 4, h, h)
        if self.training:
            x = x * (self.sample_noise(len(x)) if factors is None else factors).to(x.dtype)
        return last(x)

"""The mask decoder: from patch tokens and the prior mask to background and foreground logits (ESDA, part 4)."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)


class MaskDecoder(nn.Module):
    """3x3 convolutions C + 1 -> 256 -> 128 -> 64, then 1x1 to two channels, all on the patch grid.

    channels: of the first convolution, 256 as described; each further one has half as many.
    """

    def __init__(self, width: int, dropout: float = 0.1, channels: int = 256):
        super().__init__()
        self.dropout, half, quarter = dropout, channels // 2, channels // 4
        self.res = nn.Sequential(_conv(width + 1, channels), nn.ReLU(), _conv(channels, half), nn.ReLU())
        # Identity stands where the released decoder has its dropout, and keeps the last layer's name.
        self.cls = nn.Sequential(_conv(half, quarter), nn.ReLU(), nn.Identity(), nn.Conv2d(quarter, 2, kernel_size=1))

    def draw(self, batch: int) -> Tensor:
        """The factors of Dropout2d for ``batch`` samples, 0 or 1 / (1 - dropout): (batch, channels / 4, 1, 1)."""
        return F.dropout2d(self.cls[3].weight.new_ones(batch, self.cls[3].in_channels, 1, 1), self.dropout)

    def forward(self, patches: Tensor, prior: Tensor, factors: Tensor | None = None) -> Tensor:
        """patches (B, n, C), prior (B, 1, h, h) in [0, 1]; returns logits (B, 2, h, h), channel 1 foreground.

        factors: rows of ``draw``; None: drawn here. They are for training; in evaluation there is no dropout.
        """
        first, relu, _, last = self.cls
        x = relu(first(self.res(self.on_grid(patches, prior))))              # (B, channels / 4, h, h)
        return last(self.drop(x, factors))

    def on_grid(self, patches: Tensor, prior: Tensor) -> Tensor:
        """What the first convolution reads: (B, C + 1, h, h), channels last in memory."""
        tokens = torch.cat([patches, prior.flatten(2).transpose(1, 2).to(patches.dtype)], dim=2)  # (B, n, C + 1)
        return tokens.transpose(1, 2).unflatten(2, prior.shape[2:])

    def drop(self, x: Tensor, factors: Tensor | None) -> Tensor:
        """In training the channels of x (B, channels, h, h) times their factors."""
        if not self.training:
            return x
        return x * (self.draw(len(x)) if factors is None else factors).to(x.dtype)

"""A mask decoder that is finer than the patch grid: the image itself says where the borders are."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.mask_decoder import MaskDecoder
from model.similarity import bilinear


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, stride, padding=1), nn.ReLU())


class GuidedDecoder(MaskDecoder):
    """The mask decoder's convolutions on the patch grid, then two steps up beside features of the image.

    The steps bring the map to a quarter, then to half, of the input's side, bilinearly. There it is concatenated with
    32 channels of a small convolutional stem over the image. Two 3x3 convolutions follow, to 64, then to 32 channels.
    In the end a 1x1 convolution gives the two logits.
    """

    def __init__(self, width: int, dropout: float = 0.1):
        super().__init__(width, dropout)
        self.stem_half, self.stem_quarter = _conv(3, 32, 2), _conv(32, 32, 2)
        self.up_quarter = nn.Sequential(_conv(128 + 32, 64), _conv(64, 64))
        self.up_half = nn.Sequential(_conv(64 + 32, 32), _conv(32, 32))
        self.cls = nn.Conv2d(32, 2, kernel_size=1)

    def guide(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, H, W) to features at half and at a quarter of their side; once an image."""
        half = self.stem_half(images)
        return half, self.stem_quarter(half)

    def draw(self, batch: int) -> Tensor:
        """The factors of Dropout2d for ``batch`` samples, 0 or 1 / (1 - dropout): (batch, 32, 1, 1)."""
        return F.dropout2d(self.cls.weight.new_ones(batch, self.cls.in_channels, 1, 1), self.dropout)

    def forward(self, patches: Tensor, prior: Tensor, factors: Tensor | None = None,
                guide: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """As MaskDecoder, with the ``guide`` of each image; returns logits (B, 2, H / 2, W / 2)."""
        half, quarter = guide
        x = self.res(self.on_grid(patches, prior))                           # (B, 128, h, w)
        x = self.up_quarter(self._beside(x, quarter))                        # (B, 64, H / 4, W / 4)
        x = self.up_half(self._beside(x, half))                              # (B, 32, H / 2, W / 2)
        return self.cls(self.drop(x, factors))

    @staticmethod
    def _beside(x: Tensor, features: Tensor) -> Tensor:
        return torch.cat([bilinear(x, features.shape[2:]).to(features.dtype), features], dim=1)

"""The interactor over similarity: the name enters as maps added to the patches, and no text token is anywhere."""
from torch import Tensor, nn

from model.clip.layers import Transformer


class SimilarityInteractor(nn.Module):
    """Transformer blocks over the patches, to which a convolution adds the similarity channels.

    Args:
        encoder_width: C of the image encoder; width: of the blocks, as wide or narrower; heads: of each block.
        channels: of the similarity maps; kernel: side of the convolution that reads them, in patches, odd.
        blocks: N.
    """

    def __init__(self, encoder_width: int, width: int, heads: int, channels: int, kernel: int = 3, blocks: int = 3):
        super().__init__()
        self.narrow = nn.Identity() if width == encoder_width else nn.Linear(encoder_width, width)
        self.read = nn.Conv2d(channels, width, kernel, padding=kernel // 2)
        self.blocks = Transformer(width, blocks, heads)

    def forward(self, patches: Tensor, maps: Tensor) -> Tensor:
        """patches (B, n, width), after ``narrow``; maps (B, channels, h, w); returns (B, n, width)."""
        return self.blocks(patches + self.read(maps).flatten(2).transpose(1, 2))

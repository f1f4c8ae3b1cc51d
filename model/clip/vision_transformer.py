"""CLIP's image encoder as OpenAI trained it: the frozen trunk of ESDA's image encoder."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.layers import Transformer


def resize_position_embedding(embedding: Tensor, grid: int) -> Tensor:
    """Resize (1 + g * g, C), [CLS] first, bilinearly to (1 + grid * grid, C) (ESDA, part 2); as is if g = grid."""
    old = round((embedding.shape[0] - 1) ** 0.5)
    if old == grid:
        return embedding
    cells = embedding[1:].T.reshape(1, -1, old, old).float()
    cells = F.interpolate(cells, size=(grid, grid), mode="bilinear", align_corners=False)
    return torch.cat([embedding[:1], cells[0].flatten(1).T.to(embedding.dtype)])


class VisionTransformer(nn.Module):
    """Vision transformer, named as CLIP's ``visual.`` state_dict; side, patch: px; width C; embed_dim D; see Block."""

    def __init__(self, side: int, patch: int, width: int, layers: int, heads: int, embed_dim: int,
                 activation: str = "quickgelu"):
        super().__init__()
        self.side, self.patch, self.grid = side, patch, side // patch
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(width ** -0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width ** -0.5 * torch.randn(1 + self.grid ** 2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, activation)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(width ** -0.5 * torch.randn(width, embed_dim))

    @torch.no_grad()
    def resize(self, side: int) -> None:
        """Resize to inputs of side x side px. The position embedding becomes a new Parameter."""
        self.positional_embedding = nn.Parameter(resize_position_embedding(self.positional_embedding,
                                                                           side // self.patch).clone())
        self.side, self.grid = side, side // self.patch

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the patches down and across of an input of ``size`` px."""
        return size[0] // self.patch, size[1] // self.patch

    def embed(self, images: Tensor) -> Tensor:
        """Embed normalised (B, 3, H, W), all or the top left of S x S, as (B, 1 + n, C), [CLS] first, for block 0."""
        grid = self.conv1(images)                                            # (B, C, h, w)
        patches = grid.flatten(2).transpose(1, 2)                            # (B, n, C)
        cls = self.class_embedding.to(patches.dtype).expand(images.shape[0], 1, -1)
        return self.ln_pre(torch.cat([cls, patches], dim=1) + self.positions(*grid.shape[2:]))

    def positions(self, height: int, width: int) -> Tensor:
        """Select [CLS]'s position and those of the top left patches: (1 + height * width, C)."""
        if (height, width) == (self.grid, self.grid):
            return self.positional_embedding
        cells = self.positional_embedding[1:].unflatten(0, (self.grid, self.grid))[:height, :width]
        return torch.cat([self.positional_embedding[:1], cells.flatten(0, 1)])

    def project(self, tokens: Tensor) -> Tensor:
        """Project (..., C) tokens after the last block to (..., D) in the joint embedding."""
        return self.ln_post(tokens) @ self.proj

    def forward(self, images: Tensor, share: float = 1.0) -> Tensor:
        """Encode (B, 3, S, S) to (B, 1 + n, C). share < 1: of patches, at random, in pretraining (FLIP, Li 2023)."""
        x = self.embed(images)
        if share < 1:
            chosen = torch.randperm(x.shape[1] - 1, device=x.device)[:round(share * (x.shape[1] - 1))] + 1
            x = torch.cat([x[:, :1], x[:, chosen]], dim=1)
        return self.transformer(x)

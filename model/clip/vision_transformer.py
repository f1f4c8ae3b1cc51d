"""CLIP's image encoder as OpenAI trained it: the frozen trunk that ESDA's image encoder grows from."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.layers import Transformer


def resize_position_embedding(embedding: Tensor, grid: int) -> Tensor:
    """Resize a square grid of position embeddings bilinearly (ESDA, part 2; 14 x 14 to 30 x 30 for 480 px).

    Args:
        embedding: (1 + g * g, C), the [CLS] position first.
        grid: the new side h.
    Returns:
        (1 + h * h, C), the same tensor where h equals g.
    """
    old = round((embedding.shape[0] - 1) ** 0.5)
    if old * old + 1 != embedding.shape[0]:
        raise ValueError(f"{embedding.shape[0]} position embeddings are not one [CLS] and a square grid")
    if old == grid:
        return embedding
    cells = embedding[1:].T.reshape(1, -1, old, old).float()
    cells = F.interpolate(cells, size=(grid, grid), mode="bilinear", align_corners=False)
    return torch.cat([embedding[:1], cells[0].flatten(1).T.to(embedding.dtype)])


class VisionTransformer(nn.Module):
    """Patches and a [CLS] token through CLIP's blocks; parameter names are those of CLIP's ``visual.`` state dict.

    side: input size in pixels; patch: patch size; width C; embed_dim D; activation: as Block's.
    """

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
        """Take images of side x side px from now on. The position embedding becomes a new Parameter."""
        self.positional_embedding = nn.Parameter(resize_position_embedding(self.positional_embedding,
                                                                           side // self.patch).clone())
        self.side, self.grid = side, side // self.patch

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """How many patches an input of ``size`` has, down and across."""
        return size[0] // self.patch, size[1] // self.patch

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to the (B, 1 + n, C) tokens that enter block 0, [CLS] first.

        H x W is S x S, or the part of it at the top left, with the positions of that part.
        """
        grid = self.conv1(images)                                            # (B, C, h, w)
        patches = grid.flatten(2).transpose(1, 2)                            # (B, n, C)
        cls = self.class_embedding.to(patches.dtype).expand(images.shape[0], 1, -1)
        return self.ln_pre(torch.cat([cls, patches], dim=1) + self.positions(*grid.shape[2:]))

    def positions(self, height: int, width: int) -> Tensor:
        """(1 + height * width, C): [CLS]'s position and those of the top left patches."""
        if (height, width) == (self.grid, self.grid):
            return self.positional_embedding
        cells = self.positional_embedding[1:].unflatten(0, (self.grid, self.grid))[:height, :width]
        return torch.cat([self.positional_embedding[:1], cells.flatten(0, 1)])

    def project(self, tokens: Tensor) -> Tensor:
        """(..., C) tokens after the last block to (..., D) in the joint embedding."""
        return self.ln_post(tokens) @ self.proj

    def forward(self, images: Tensor, share: float = 1.0) -> Tensor:
        """(B, 3, S, S) to all tokens after the last block, (B, 1 + n, C).

        share < 1: a random share of the patches enters, the same ones of all images (FLIP, Li 2023: cheaper
        pretraining).
        """
        x = self.embed(images)
        if share < 1:
            chosen = torch.randperm(x.shape[1] - 1, device=x.device)[:round(share * (x.shape[1] - 1))] + 1
            x = torch.cat([x[:, :1], x[:, chosen]], dim=1)
        return self.transformer(x)

"""Fine-tuned image encoder: frozen CLIP, steered by text, with trainable branches; similarity maps (ESDA, part 2)."""
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.vision_transformer import VisionTransformer


class ImageEmbedding(NamedTuple):
    """Encoding of B images, conditioned on a text each."""
    patches: Tensor             # (B, n, C) after the last block, without ln_post and projection
    image: Tensor               # (B, D), the global image embedding, a unit vector
    text: Tensor                # (B, C): t, the text as a token of the image encoder
    blocks: dict[int, Tensor]   # {index: (B, n, C)}, patch tokens after all blocks but the last; empty in evaluation


class PartialEncoding(NamedTuple):
    """Encoder state of B images before text enters."""
    tokens: Tensor              # (B, 1 + n, C)
    blocks: dict[int, Tensor]   # as of ImageEmbedding, so far
    guide: Tensor | None = None     # of a guided mask decoder


class LowRankBranch(nn.Module):
    """Low-rank branch x -> (x A) B over all tokens, A: C x r ~ N(0, 1), B: r x C = 0: training starts from CLIP."""

    def __init__(self, width: int, rank: int = 2):
        super().__init__()
        self.down = nn.Parameter(torch.randn(width, rank))
        self.up = nn.Parameter(torch.zeros(rank, width))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.down @ self.up


class ImageEncoder(VisionTransformer):
    """CLIP's ViT with text navigation and trainable blocks.

    sizes: as VisionTransformer. branch_rank: r of the trainable branch beside each block; 0: no branches.
    replace_indices: blocks on entry to which [CLS] is overwritten with t, counted from 0 (ClsCLIP, 2304.06212).
    """

    def __init__(self, *sizes, replace_indices=(2, 3, 4), branch_rank: int = 2, **options):
        super().__init__(*sizes, **options)
        layers, (width, embed_dim) = len(self.transformer.resblocks), self.proj.shape
        self.replace_indices = frozenset(replace_indices)
        self.first_text = min(self.replace_indices, default=layers)
        self.text_proj = nn.Linear(embed_dim, width)
        self.branches = nn.ModuleDict({str(i): LowRankBranch(width, branch_rank)
                                       for i in range(layers if branch_rank else 0)})

    @torch.no_grad()
    def start_text_from_clip(self) -> None:
        """Initialise text_proj so that step 0's prior mask is CLIP's own patch-text match, up to the mean.

        CLIP matches a patch x with a text by ln_post(x) @ proj . text, so t = ln_post.weight * (proj @ text).
        """
        self.text_proj.weight.copy_(self.ln_post.weight[:, None] * self.proj)
        self.text_proj.bias.zero_()

    def before_text(self, images: Tensor) -> PartialEncoding:
        """Encode normalised images (B, 3, S, S) up to the first text-conditioned block."""
        x, blocks = self.embed(images), {}
        for i in range(self.first_text):
            x = self._block(i, x, blocks)
        return PartialEncoding(x, blocks)

    def with_text(self, partial: PartialEncoding, text_cls: Tensor) -> ImageEmbedding:
        """Run the remaining blocks, with t of text_cls (B, D) in place of [CLS]."""
        text = self.text_proj(text_cls)                                      # (B, C)
        x, blocks = partial.tokens, dict(partial.blocks)
        for i in range(self.first_text, len(self.transformer.resblocks)):
            if i in self.replace_indices:
                x = torch.cat([text[:, None].to(x.dtype), x[:, 1:]], dim=1)
            x = self._block(i, x, blocks)
        image = F.normalize(self.project(x[:, 0]).float(), dim=-1)           # (B, D)
        return ImageEmbedding(x[:, 1:], image, text, blocks)

    def _block(self, i: int, x: Tensor, blocks: dict[int, Tensor]) -> Tensor:
        """Run block i with its branch; add the patch tokens that the losses use to ``blocks``."""
        y = self.transformer.resblocks[i](x)
        if str(i) in self.branches:
            y = y + self.branches[str(i)](x)
        if self.training and i != len(self.transformer.resblocks) - 1:
            blocks[i] = y[:, 1:]
        return y


def similarity_map(patches: Tensor, vector: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """Compute each patch token's cosine with its image's vector, min-max normalised to [0, 1]: (B, 1, h, w) fp32.

    patches: (B, n, C) with n = h * w; vector: (B, C), the text t for the prior mask; grid: (h, w), None: a square.
    """
    cosine = F.cosine_similarity(patches.float(), vector.float()[:, None], dim=-1)  # (B, n)
    return min_max(cosine).view(patches.shape[0], 1, *(grid or 2 * [round(patches.shape[1] ** 0.5)]))


def min_max(maps: Tensor) -> Tensor:
    """Normalise each row of (B, n) to [0, 1]."""
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    return (maps - low) / (high - low + 1e-7)  # 1e-7 keeps an even map finite


def logits_of(margin: Tensor) -> Tensor:
    """Return two logits (B, 2, h, w) with the margin (B, 1, h, w) between them; the background's is zero."""
    return torch.cat([torch.zeros_like(margin), margin], dim=1)


def bilinear(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Resize (B, K, h, w) to (B, K, *size) fp32 as ``F.interpolate``, but with a deterministic gradient on GPUs."""
    with torch.autocast(maps.device.type, enabled=False):
        rows, columns = (_weights(old, new, align_corners, maps.device) for old, new in zip(maps.shape[2:], size))
        return rows @ maps.float() @ columns.T


@lru_cache(maxsize=16)
def _weights(old: int, new: int, align_corners: bool, device: torch.device) -> Tensor:
    """Compute (new, old): the weight of each old position in each new one, 1 minus their distance."""
    with torch.inference_mode(False):  # the cache serves training too, even if evaluation fills it
        at = torch.arange(new, dtype=torch.float64, device=device)
        if align_corners:
            at = at * ((old - 1) / max(1, new - 1))
        else:
            at = ((at + 0.5) * (old / new) - 0.5).clamp(0, old - 1)  # between centres; constant beyond the outermost
        distance = at[:, None] - torch.arange(old, dtype=torch.float64, device=device)
        return (1 - distance.abs()).clamp(min=0).float()

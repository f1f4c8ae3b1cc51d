"""The fine-tuned image encoder: frozen CLIP, steered by the text, with trainable blocks beside it (ESDA, part 2)."""
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.vision_transformer import VisionTransformer


class ImageEmbedding(NamedTuple):
    """B images as the image encoder sees them for a text each.

    patches (B, n, C): patch tokens after the last block, without ln_post and projection.
    image (B, D): the global image embedding, a unit vector.
    text (B, C): t, the text as a token of the image encoder.
    blocks: {block index: (B, n, C)} patch tokens after the blocks of ``prior_indices`` except the last block (those are
    ``patches``); empty in evaluation, because only the spatial distribution losses use them.
    """
    patches: Tensor
    image: Tensor
    text: Tensor
    blocks: dict[int, Tensor]


def repeat_rows(x: Tensor, times: int) -> Tensor:
    """Each row of x (B, ...) ``times`` times in a row, as repeat_interleave, which torch writes as wrong ONNX."""
    return x[:, None].expand(-1, times, *x.shape[1:]).flatten(0, 1).contiguous()


class PartialEncoding(NamedTuple):
    """B images on entry to the first block that reads the text: tokens (B, 1 + n, C), and ``blocks`` so far.

    guide: what the mask decoder takes from the images themselves; None where it needs nothing of them.
    """
    tokens: Tensor
    blocks: dict[int, Tensor]
    guide: Tensor | None = None

    @property
    def patches(self) -> Tensor:
        return self.tokens[:, 1:]

    def repeat(self, names: int) -> "PartialEncoding":
        """Each image ``names`` times in a row. In evaluation, where ``blocks`` is empty."""
        guide = None if self.guide is None else repeat_rows(self.guide, names)
        return PartialEncoding(repeat_rows(self.tokens, names), {}, guide)


class LowRankBranch(nn.Module):
    """x -> (x A) B over all tokens, A: C x r ~ N(0, 1), B: r x C = 0, so that training starts from CLIP itself."""

    def __init__(self, width: int, rank: int = 2):
        super().__init__()
        self.down = nn.Parameter(torch.randn(width, rank))
        self.up = nn.Parameter(torch.zeros(rank, width))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.down @ self.up


class ImageEncoder(VisionTransformer):
    """CLIP's ViT with text navigation and trainable blocks.

    Args (the rest as VisionTransformer):
        replace_indices: blocks on entry to which [CLS] is overwritten with t, counted from 0 (ClsCLIP, 2304.06212).
        branch: makes the trainable branch of one block from the width C, a module (B, N, C) -> (B, N, C) whose output
            is added to the block's; None: no branches.
        branch_indices: blocks that have a branch; None: all of them.
        prior_indices: blocks whose patch tokens the losses are given; None: all of them.
    """

    def __init__(self, side, patch, width, layers, heads, embed_dim, *, activation="quickgelu",
                 replace_indices=(2, 3, 4), branch: Callable[[int], nn.Module] | None = LowRankBranch,
                 branch_indices=None, prior_indices=None):
        super().__init__(side, patch, width, layers, heads, embed_dim, activation)
        every = range(layers)
        branch_indices = every if branch_indices is None else branch_indices
        self.replace_indices = frozenset(replace_indices)
        self.prior_indices = frozenset(every if prior_indices is None else prior_indices)
        for what, indices in (("replace_indices", replace_indices), ("branch_indices", branch_indices),
                              ("prior_indices", self.prior_indices)):
            wrong = sorted(set(indices) - set(every))
            if wrong:
                raise ValueError(f"model.{what} names block {wrong[0]}; this image encoder has 0 to {layers - 1}")
        self.first_text = min(self.replace_indices, default=layers)
        self.text_proj = nn.Linear(embed_dim, width)
        self.branches = nn.ModuleDict({str(i): branch(width) for i in branch_indices if branch})

    @torch.no_grad()
    def start_text_from_clip(self) -> None:
        """Start t so that the prior mask of step 0 is CLIP's own patch-text match, up to the mean.

        CLIP matches a patch x with a text by ln_post(x) @ proj . text, so t = ln_post.weight * (proj @ text).
        """
        self.text_proj.weight.copy_(self.ln_post.weight[:, None] * self.proj)
        self.text_proj.bias.zero_()

    def forward(self, images: Tensor, text_cls: Tensor) -> ImageEmbedding:
        """images (B, 3, S, S) normalised; text_cls (B, D) from the text encoder."""
        return self.with_text(self.before_text(images), text_cls)

    def before_text(self, images: Tensor) -> PartialEncoding:
        """The blocks before the first that reads the text: all names share their result."""
        x, blocks = self.embed(images), {}
        for i in range(self.first_text):
            x = self._block(i, x, blocks)
        return PartialEncoding(x, blocks)

    def with_text(self, partial: PartialEncoding, text_cls: Tensor) -> ImageEmbedding:
        """The other blocks, with text_cls (B, D) in place of [CLS]."""
        text = self.text_proj(text_cls)                                      # (B, C)
        x, blocks = partial.tokens, dict(partial.blocks)
        for i in range(self.first_text, len(self.transformer.resblocks)):
            if i in self.replace_indices:
                x = torch.cat([text[:, None].to(x.dtype), x[:, 1:]], dim=1)
            x = self._block(i, x, blocks)
        image = F.normalize(self.project(x[:, 0]).float(), dim=-1)           # (B, D)
        return ImageEmbedding(x[:, 1:], image, text, blocks)

    def _block(self, i: int, x: Tensor, blocks: dict[int, Tensor]) -> Tensor:
        """Block i with its branch; adds the patch tokens that the losses use to ``blocks``."""
        y = self.transformer.resblocks[i](x)
        if str(i) in self.branches:
            y = y + self.branches[str(i)](x)
        if self.training and i in self.prior_indices and i != len(self.transformer.resblocks) - 1:
            blocks[i] = y[:, 1:]
        return y

    def clip_patches(self, images: Tensor) -> Tensor:
        """Patches as CLIP alone embeds them, without text and branches: (B, n, D) unit vectors."""
        return F.normalize(self.project(VisionTransformer.forward(self, images)[:, 1:]).float(), dim=-1)

"""The fine-tuned image encoder: frozen CLIP, steered by the text, with trainable blocks beside it (ESDA, part 2)."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.adapter import LowRankBranch
from model.clip.vision_transformer import VisionTransformer


class ImageEmbedding(NamedTuple):
    """What the image encoder says of B images, looked at with a text in mind.

    patches (B, n, C): patch tokens after the last block, without ln_post and projection.
    image (B, D): the global image embedding, a unit vector.
    text (B, C): t, the text as a token of the image encoder.
    blocks: {block index: (B, n, C)} patch tokens after the blocks of ``prior_indices``, the last one excepted (that
    is ``patches``); empty in evaluation, because only the spatial distribution losses want them.
    """
    patches: Tensor
    image: Tensor
    text: Tensor
    blocks: dict[int, Tensor]


class Begun(NamedTuple):
    """Images before any text: tokens (B, 1 + n, C) on entry to the first block that meets it, and ``blocks`` so far."""
    tokens: Tensor
    blocks: dict[int, Tensor]


class ImageEncoder(VisionTransformer):
    """CLIP's ViT with text navigation and trainable blocks.

    Args (the rest as VisionTransformer):
        replace_indices: blocks on entry to which [CLS] is overwritten with t, counted from 0 (ClsCLIP, 2304.06212).
        branch_indices: blocks that a low-rank branch of rank ``branch_rank`` runs beside; None: all of them.
        prior_indices: blocks whose patch tokens the losses are given; None: all of them.
        cls_twice: add the class embedding to [CLS] a second time, as the released code does.
    """

    def __init__(self, side, patch, width, layers, heads, embed_dim, *, replace_indices=(2, 3, 4),
                 branch_indices=None, branch_rank=2, prior_indices=None, cls_twice=False):
        super().__init__(side, patch, width, layers, heads, embed_dim)
        self.cls_times = 2 if cls_twice else 1
        every = range(layers)
        branch_indices = every if branch_indices is None else branch_indices
        self.replace_indices = frozenset(replace_indices)
        self.prior_indices = frozenset(every if prior_indices is None else prior_indices)
        for what, indices in (("replace_indices", replace_indices), ("branch_indices", branch_indices),
                              ("prior_indices", self.prior_indices)):
            wrong = sorted(set(indices) - set(every))
            if wrong:
                raise ValueError(f"model.{what} names block {wrong[0]}; this image encoder has blocks 0 to {layers - 1}")
        self.first_text = min(self.replace_indices, default=layers)
        self.text_proj = nn.Linear(embed_dim, width)
        self.branches = nn.ModuleDict(
            {str(i): LowRankBranch(width, branch_rank) for i in branch_indices if branch_rank > 0})

    @torch.no_grad()
    def start_text_from_clip(self) -> None:
        """Start t where CLIP itself would look for the text: patches meet a text as ln_post(x) @ proj . text, so
        t = ln_post.weight * (proj @ text) makes the prior mask of step 0 CLIP's own patch-text match, up to the mean.
        """
        self.text_proj.weight.copy_(self.ln_post.weight[:, None] * self.proj)
        self.text_proj.bias.zero_()

    def forward(self, images: Tensor, text_cls: Tensor) -> ImageEmbedding:
        """images (B, 3, S, S) normalised; text_cls (B, D) from the text encoder."""
        return self.finish(self.begin(images), text_cls)

    def begin(self, images: Tensor) -> Begun:
        """The blocks that no text has entered yet: the same whatever the name, so that many names can share them."""
        x, blocks = self.embed(images), {}
        for i in range(self.first_text):
            x = self._block(i, x, blocks)
        return Begun(x, blocks)

    def finish(self, begun: Begun, text_cls: Tensor) -> ImageEmbedding:
        """The other blocks, with text_cls (B, D) in place of [CLS]."""
        text = self.text_proj(text_cls)                                      # (B, C)
        x, blocks = begun.tokens, dict(begun.blocks)
        for i in range(self.first_text, len(self.transformer.resblocks)):
            if i in self.replace_indices:
                x = torch.cat([text[:, None].to(x.dtype), x[:, 1:]], dim=1)
            x = self._block(i, x, blocks)
        image = F.normalize(self.project(x[:, 0]).float(), dim=-1)           # (B, D)
        return ImageEmbedding(x[:, 1:], image, text, blocks)

    def _block(self, i: int, x: Tensor, blocks: dict[int, Tensor]) -> Tensor:
        """Block i with its branch; ``blocks`` is given the patch tokens that the losses want."""
        y = self.transformer.resblocks[i](x)
        if str(i) in self.branches:
            y = y + self.branches[str(i)](x)
        if self.training and i in self.prior_indices and i != len(self.transformer.resblocks) - 1:
            blocks[i] = y[:, 1:]
        return y

    def clip_patches(self, images: Tensor) -> Tensor:
        """Patches as CLIP alone embeds them, no text and no branch having touched them: (B, n, D) unit vectors."""
        return F.normalize(self.project(VisionTransformer.forward(self, images)[:, 1:]).float(), dim=-1)

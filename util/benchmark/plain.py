"""The plain mode: the same numbers as model/, computed the way the released code computes them.

In fp32, with ``nn.MultiheadAttention``, every name through the text encoder whenever it is used and at full length, one
map after another in the losses, and a whole forward pass for every name of an image.
"""
import copy
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import IGNORE
from model.clip.layers import Attention
from model.clip.text_encoder import TextEmbedding
from model.losses import EsdaLosses


class PlainAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` on the parameters of ``ours``, called as in CLIP: sequence first, without weights."""

    def __init__(self, ours: Attention):
        super().__init__(len(ours.out_proj.bias), ours.heads, device="meta")
        self.in_proj_weight, self.in_proj_bias, self.out_proj = ours.in_proj_weight, ours.in_proj_bias, ours.out_proj
        self.heads_of, self.merge = ours.heads_of, ours.merge                # which dense CLIP uses one by one

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As Attention.forward; mask (N, N) or (B, 1, 1, N), True where a key is visible."""
        x = x.transpose(0, 1).contiguous()                                   # (N, B, C), in memory too, as in CLIP
        hidden = {}
        if mask is not None:
            hidden = {"attn_mask": ~mask} if mask.ndim == 2 else {"key_padding_mask": ~mask[:, 0, 0]}
        return super().forward(x, x, x, need_weights=False, **hidden)[0].transpose(0, 1)


def make_plain(model: nn.Module) -> None:
    """Replace the attention of every block, the text encoder's included, and let names share no block."""
    for module in list(model.modules()):
        if isinstance(getattr(module, "attn", None), Attention):
            module.attn = PlainAttention(module.attn)
    model.all_names = partial(_all_names, model)


def _all_names(model: nn.Module, images: Tensor, text: "EncodedEachTime", chunk: int, shared) -> Iterator[Tensor]:
    """As ESDA.all_names: (B, 1, S, S), foreground minus background logit of one name after another.

    ``shared`` serves the first name, as it is there; the others start from the image again.
    """
    for k in range(len(text.cls)):
        named = text[torch.full((len(images),), k, device=images.device)]
        logits = (model(images, named) if k else model.segment(shared, named, images.shape[2:])).logits
        yield logits[:, 1:] - logits[:, :1]


class EncodedEachTime:
    """Takes the place of the embeddings of names; rows of it are encoded whenever they are asked for.

    ids (K, L): tokens with all positions. cls (K, D): encoded once, for the presence of a name in a region.
    """

    def __init__(self, encoder: nn.Module, ids: Tensor):
        self.encoder, self.ids = encoder, ids
        with torch.no_grad():
            self.cls = encoder(ids).cls

    @torch.no_grad()
    def __getitem__(self, rows: Tensor) -> TextEmbedding:
        return self.encoder(self.ids[rows])


def one_by_one(ours: EsdaLosses) -> EsdaLosses:
    """``ours`` with one similarity map after another, by torch's own interpolation and cross-entropy of two logits."""
    plain = copy.copy(ours)

    def similarity(maps: Tensor, target: Tensor) -> Tensor:
        found = []
        for s in maps.unbind(1):
            s = F.interpolate(s[:, None], target.shape[1:], mode="bilinear",
                              align_corners=getattr(ours, "align_corners", False))
            logits = torch.cat([-ours.evidence(s), ours.evidence(s)], dim=1) / 2
            found.append(F.cross_entropy(logits, target.long(), ignore_index=IGNORE, reduction="sum"))
        return torch.stack(found)

    plain.similarity = similarity
    return plain

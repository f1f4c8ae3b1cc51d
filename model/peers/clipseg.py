"""CLIPSeg: a small transformer that reads three layers of the frozen CLIP (Lueddecke and Ecker 2022, figure 2).

The decoder goes from the deepest layer read to the shallowest, adds each to what it has (U-Net's skips), and tells the
name once, before its first block, by FiLM: a scale and a shift of every channel, linear in the name's embedding. A
transposed convolution makes the mask's one logit a pixel.

Module names are those of the authors' state dict (rd64-uni), so that convert.py can take it.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.dense import dense_clip
from model.clip.layers import Attention
from model.clip.text_encoder import TextEmbedding
from model.esda import NamedSegmenter, Segmentation
from model.image_encoder import logits_of, min_max

HEADS, HIDDEN = 4, 2048     # of the decoder's blocks, whatever their width (the authors' rd64-uni)


class Taps(NamedTuple):
    """Encoding of B images before a name is given."""
    reduced: Tensor     # (B, 3, 1 + n, width), the deepest layer first


class CLIPSeg(NamedSegmenter):
    """CLIPSeg. clip: NamedSegmenter's arguments; blocks: of CLIP, from 0, the shallowest first; width: of the decoder.

    The paper's blocks drop out a tenth in training; here nothing is random.
    """

    def __init__(self, *clip, blocks: list[int], width: int):
        super().__init__(*clip)
        self.taps, (encoder_width, embed_dim) = tuple(reversed(blocks)), self.image_encoder.proj.shape
        self.reduces = nn.ModuleList(nn.Linear(encoder_width, width) for _ in blocks)
        self.film_mul, self.film_add = nn.Linear(embed_dim, width), nn.Linear(embed_dim, width)
        self.blocks = nn.ModuleList(PostNormBlock(width) for _ in blocks)
        self.trans_conv = nn.ConvTranspose2d(width, 1, self.patch, stride=self.patch)

    def before_names(self, images: Tensor) -> Taps:
        """Encode uint8 RGB (B, 3, S, S) by the frozen CLIP."""
        taps = dense_clip(self.image_encoder, self.normalise(images), (), self.taps).taps      # (B, 3, 1 + n, C)
        return Taps(torch.stack([reduce(taps[:, i]) for i, reduce in enumerate(self.reduces)], dim=1))

    def segment(self, shared: Taps, text: TextEmbedding, size: tuple[int, int], noise=None) -> Segmentation:
        """Segment B images for B names, at the input's ``size``; deterministic."""
        x = shared.reduced[:, 0]                                             # (B, 1 + n, width)
        x = self.film_mul(text.cls)[:, None] * x + self.film_add(text.cls)[:, None]
        x = self.blocks[0](x)
        for i, block in enumerate(self.blocks[1:], start=1):
            x = block(x + shared.reduced[:, i])
        grid = self.image_encoder.grid_of(size)
        margin = self.trans_conv(x[:, 1:].transpose(1, 2).unflatten(2, grid)).float()          # (B, 1, h p, w p)
        prior = F.avg_pool2d(margin, self.patch)
        return Segmentation(logits_of(margin), min_max(prior.flatten(1)).view_as(prior))


class PostNormBlock(nn.Module):
    """Transformer block normalised after each sum (Vaswani 2017), parameters named as nn.TransformerEncoderLayer's."""

    def __init__(self, width: int):
        super().__init__()
        self.self_attn = Attention(width, HEADS)
        nn.init.xavier_uniform_(self.self_attn.in_proj_weight)
        self.linear1, self.linear2 = nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(x))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))

"""ZegCLIP: patches matched with a name that has been related to the whole image (Zhou 2023, figure 2).

CLIP stays frozen; learned prompt tokens join those of the image in every block (deep prompt tuning). The name's
embedding t meets the image's global one g in the relationship descriptor: a linear layer of [t * g, t], so that a name
which the image does not show starts away from all patches. It is then the query of a light decoder over the patches'
joint embeddings: the last layer's attention scores are the mask (as in SegViT, Zhang 2022).

Left out: losses on the earlier layers' scores, several attention heads, dropout, and the handicap of seen names in the
generalised test. The paper's loss is focal and dice; here, as for all heads, it is the mask's cross-entropy.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.layers import QuickGELU
from model.clip.text_encoder import TextEmbedding
from model.esda import NamedSegmenter, Segmentation
from model.image_encoder import bilinear, logits_of, min_max

LAYERS = 3      # of the decoder (the authors' configuration)
PROMPT_STD = 0.02


class Prompted(NamedTuple):
    """Encoding of B images before a name is given: (B, D) and (B, n, D) in the joint embedding."""
    image: Tensor
    patches: Tensor


class ZegCLIP(NamedSegmenter):
    """ZegCLIP. clip: NamedSegmenter's arguments; prompts: learned tokens in every block of the image encoder."""

    def __init__(self, *clip, prompts: int):
        super().__init__(*clip)
        width, embed_dim = self.image_encoder.proj.shape
        blocks = len(self.image_encoder.transformer.resblocks)
        self.prompts = nn.Parameter(PROMPT_STD * torch.randn(blocks, prompts, width))
        self.relate = nn.Linear(2 * embed_dim, embed_dim)
        self.match = nn.ModuleList(Match(embed_dim) for _ in range(LAYERS))
        self.update = nn.ModuleList(Update(embed_dim) for _ in range(LAYERS - 1))    # after the last none reads it

    def before_names(self, images: Tensor) -> Prompted:
        """Encode uint8 RGB (B, 3, S, S); the prompts' own outputs are dropped after each block."""
        x, count = self.image_encoder.embed(self.normalise(images)), self.prompts.shape[1]
        for prompts, block in zip(self.prompts, self.image_encoder.transformer.resblocks):
            x = block(torch.cat([x[:, :1], prompts.to(x.dtype).expand(x.shape[0], -1, -1), x[:, 1:]], dim=1))
            x = torch.cat([x[:, :1], x[:, 1 + count:]], dim=1)
        joint = self.image_encoder.project(x).float()                        # (B, 1 + n, D)
        return Prompted(joint[:, 0], joint[:, 1:])

    def segment(self, shared: Prompted, text: TextEmbedding, size: tuple[int, int], noise=None) -> Segmentation:
        """Segment B images for B names, at the input's ``size``; deterministic."""
        query = self.relate(relationship(text.cls.float(), shared.image))[:, None]             # (B, 1, D)
        for match, update in zip(self.match, self.update):
            query = update(query, match(query, shared.patches), shared.patches)
        scores = self.match[-1](query, shared.patches).float()               # (B, 1, n)
        margin = scores.unflatten(2, self.image_encoder.grid_of(size))       # (B, 1, h, w)
        logits = bilinear(logits_of(margin), size)
        return Segmentation(logits, min_max(margin.flatten(1)).view_as(margin))

    def clip_patches(self, images: Tensor, shared: Prompted) -> Tensor:
        """Take the prompted patches, which need no other pass of CLIP."""
        return F.normalize(shared.patches, dim=-1)


def relationship(text: Tensor, image: Tensor) -> Tensor:
    """Concatenate t * g and t of text and image (B, D), both at length sqrt(D): (B, 2 D)."""
    length = text.shape[-1] ** 0.5      # so that both halves enter the linear layer with numbers about 1
    t, g = (length * F.normalize(x, dim=-1) for x in (text, image))
    return torch.cat([t * g, t], dim=-1)


class Match(nn.Module):
    """Scores of a decoder's layer: scaled inner products of a query and the patches."""

    def __init__(self, width: int):
        super().__init__()
        self.norm_query, self.norm_patches = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, query: Tensor, patches: Tensor) -> Tensor:
        """Score patches (B, n, D) for a query (B, 1, D): (B, 1, n)."""
        query = self.query(self.norm_query(query))
        return query @ self.key(self.norm_patches(patches)).transpose(1, 2) * query.shape[-1] ** -0.5


class Update(nn.Module):
    """Rest of a layer, before another one: the query takes in the patches that it scored, then an MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.norm_patches, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width))

    def forward(self, query: Tensor, scores: Tensor, patches: Tensor) -> Tensor:
        query = query + self.out(scores.softmax(dim=2) @ self.value(self.norm_patches(patches)))
        return query + self.mlp(self.norm_mlp(query))

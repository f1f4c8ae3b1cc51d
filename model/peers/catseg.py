"""CAT-Seg: aggregation of the cost volume between patches and names (Cho 2024, arXiv 2303.11797).

The cost of a patch for a name is the cosine of their CLIP embeddings, the patch's read without the last block's pooling
(``value`` in model/clip/dense.py). A convolution embeds each name's cost map; layers then aggregate it over places,
guided by the patches' embeddings, and over names at each place, guided by the names'. Two transposed convolutions,
guided by earlier blocks' tokens, bring it to a quarter of a patch. The queries and values of CLIP's image encoder are
tuned with it, the rest of CLIP is frozen.

The class aggregation sees several names at once: the one asked for and, of the fold's *seen* names, the few that CLIP
finds most in the image, in training and in testing alike. No unseen name stands beside another. Changed, too: attention
over all places for Swin's windows, over names for a linear transformer; the text encoder is not tuned; costs are times
CLIP's logit scale, and no ReLU stands before the last convolution, else hundreds of steps pass before any mask appears.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from model.clip.dense import dense_clip
from model.clip.layers import QuickGELU, attend
from model.clip.text_encoder import TextEmbedding
from model.esda import Segmentation
from model.image_encoder import bilinear, logits_of, min_max
from model.rivals import Comparing

LAYERS, HEADS = 2, 4    # of aggregation; these and what follows as in the authors' configuration
KERNEL = 7              # patches, of the convolution that embeds costs
CLIP_RATE = 0.01        # learning rate of CLIP's queries and values beside the rest's, 2e-6 and 2e-4


class Costs(NamedTuple):
    """Encoding of B images before a name is given."""
    joint: Tensor       # (B, n, D) patches and
    image: Tensor       # (B, D) image in CLIP's joint embedding, unit vectors
    look: Tensor        # (B, n, width) what guides the aggregation over places
    taps: Tensor        # (B, 2, n, C) earlier blocks' tokens, the shallower first


class CATSeg(Comparing):
    """CAT-Seg; the ``prior`` is the asked name's cost map.

    clip: NamedSegmenter's arguments; blocks: two, from 0, that guide the upsampling, the shallower first; width: of the
    cost embedding; names: at most so many in the class aggregation, the one asked for among them.
    """

    def __init__(self, *clip, blocks: list[int], width: int, names: int):
        super().__init__(*clip)
        self.taps, self.names = tuple(blocks), names
        encoder_width, embed_dim = self.image_encoder.proj.shape
        *inner, last = self.image_encoder.transformer.resblocks
        for block in (*inner, last):    # the costs read no queries of the last block
            register_parametrization(block.attn, "in_proj_weight", QueryValue(encoder_width, block is not last))
        self.embed = nn.Conv2d(1, width, KERNEL, padding=KERNEL // 2)
        self.look, self.guide = nn.Conv2d(embed_dim, width, 3, padding=1), nn.Linear(embed_dim, width)
        self.places, self.classes = (nn.ModuleList(GuidedBlock(width) for _ in range(LAYERS)) for _ in range(2))
        self.up = nn.ModuleList(Upsample(width >> i, width >> (i + 1), encoder_width) for i in range(len(blocks)))
        self.head = nn.Conv2d(width >> len(blocks), 1, 3, padding=1)

    def before_names(self, images: Tensor) -> Costs:
        """Encode uint8 RGB (B, 3, S, S) by CLIP with its tuned queries and values."""
        tokens, joint, taps = dense_clip(self.image_encoder, self.normalise(images), ("value",), self.taps)
        image = F.normalize(self.image_encoder.project(tokens[:, 0]).float(), dim=-1)
        places = joint[:, 0].transpose(1, 2).unflatten(2, self.image_encoder.grid_of(images.shape[2:]))
        look = F.relu(self.look(places)).flatten(2).transpose(1, 2)
        return Costs(joint[:, 0], image, look, taps[:, :, 1:])

    def segment(self, shared: Costs, text: TextEmbedding, size: tuple[int, int], noise=None) -> Segmentation:
        """Segment B images for B names, at the input's ``size``; deterministic."""
        grid = self.image_encoder.grid_of(size)
        with torch.autocast(shared.joint.device.type, enabled=False):
            names = self.beside(F.normalize(text.cls.float(), dim=-1), shared.image)           # (B, N, D)
            cost = self.logit_scale * names @ shared.joint.float().transpose(1, 2)             # (B, N, n)
        x = self.aggregate(cost, shared.look, self.guide(names), grid)[:, 0]                 # (B, n, width)
        x = x.transpose(1, 2).unflatten(2, grid)
        for i, up in enumerate(self.up):
            x = up(F.relu(x) if i else x, shared.taps[:, i].transpose(1, 2).unflatten(2, grid))
        margin = self.head(x).float()                                                          # (B, 1, 4 h, 4 w)
        logits = bilinear(logits_of(margin), size)
        return Segmentation(logits, min_max(cost[:, 0]).unflatten(1, grid)[:, None])

    def beside(self, name: Tensor, image: Tensor) -> Tensor:
        """Put each unit vector ``name`` (B, D) before the rivals most like its image (B, D): (B, N, D)."""
        count = min(self.names, len(self.rivals)) - 1       # one of the rivals may be the name itself
        if count < 1:
            return name[:, None]
        likely = (image @ self.rivals.T).masked_fill(~self.others(name), -torch.inf)           # (B, R)
        return torch.cat([name[:, None], self.rivals[likely.topk(count, dim=1).indices]], dim=1)

    def aggregate(self, cost: Tensor, look: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """Aggregate costs (B, N, n), guided by look (B, n, width) and text (B, N, width): (B, N, n, width)."""
        batch, names, places = cost.shape
        x = self.embed(cost.flatten(0, 1).unflatten(1, grid)[:, None]).flatten(2).transpose(1, 2)   # (B N, n, width)
        of_places = look[:, None].expand(-1, names, -1, -1).flatten(0, 1)
        of_names = text[:, None].expand(-1, places, -1, -1).flatten(0, 1)
        for over_places, over_names in zip(self.places, self.classes):
            x = over_places(x, of_places)
            x = x.unflatten(0, (batch, names)).transpose(1, 2).flatten(0, 1)                   # (B n, N, width)
            x = over_names(x, of_names)
            x = x.unflatten(0, (batch, places)).transpose(1, 2).flatten(0, 1)
        return x.unflatten(0, (batch, names))


class QueryValue(nn.Module):
    """What training adds to a frozen in_proj_weight (3 C, C): to its queries and values, at CLIP_RATE."""

    def __init__(self, width: int, query: bool):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width, width)) if query else None
        self.value = nn.Parameter(torch.zeros(width, width))

    def forward(self, frozen: Tensor) -> Tensor:
        none = torch.zeros_like(self.value)
        return frozen + CLIP_RATE * torch.cat([none if self.query is None else self.query, none, self.value])


class GuidedBlock(nn.Module):
    """Transformer block whose queries and keys read a guidance, too, and whose values do not."""

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query_key, self.value = nn.Linear(2 * width, 2 * width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Attend among the L of x (B, L, width), guided by ``guide`` (B, L, width)."""
        y = self.norms[0](x)
        both = torch.cat([self.query_key(torch.cat([y, guide.to(y.dtype)], dim=2)), self.value(y)], dim=2)
        q, k, v = both.unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)   # (B, heads, L, d) each
        x = x + self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class Upsample(nn.Module):
    """Doubling of the grid by a transposed convolution, with the tokens of one block of CLIP beside it."""

    def __init__(self, width: int, out: int, encoder_width: int):
        super().__init__()
        self.rise = nn.ConvTranspose2d(width, out, 2, stride=2)
        self.narrow = nn.Conv2d(encoder_width, out, 1)
        self.mix = nn.Sequential(nn.Conv2d(2 * out, out, 3, padding=1), nn.GroupNorm(out // 16, out), nn.ReLU(),
                                 nn.Conv2d(out, out, 3, padding=1), nn.GroupNorm(out // 16, out))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Upsample x (B, width, h, w), guided by tokens (B, C, h', w'): (B, out, 2 h, 2 w)."""
        x = self.rise(x)
        return self.mix(torch.cat([x, bilinear(self.narrow(tokens), x.shape[2:]).to(x.dtype)], dim=1))

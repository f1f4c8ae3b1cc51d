"""LSeg: a dense image embedding matched with words (Li 2022, arXiv 2201.03546).

The image encoder is trained as a whole; its tokens after four blocks become one dense embedding (DPT, Ranftl 2021). A
pixel's logit of a label is its embedding's inner product with the label's, over a temperature. Blocks of spatial
regularisation, which treat all labels alike, then smooth these maps. As in the authors' zero-shot test on PASCAL-5i, an
image is asked for two labels: the name, and "others" (their code for that test has no such blocks).
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.dense import dense_clip
from model.clip.text_encoder import TextEmbedding
from model.esda import NamedSegmenter, Segmentation
from model.image_encoder import bilinear, min_max

SCALES = (4, 2, 1, 0.5)     # cells a patch's side of the four reassembled maps (DPT)
REGULARISED = 2             # blocks; LSeg's ablation finds two best
TEMPERATURE = 0.07          # LSeg's, fixed


class Dense(NamedTuple):
    """Encoding of B images before a name is given."""
    pixels: Tensor      # (B, D, h', w') unit vectors


class LSeg(NamedSegmenter):
    """LSeg, two labels at a time.

    clip: NamedSegmenter's arguments; others (1, D): the embedding of the word for all else; blocks: four, from 0, whose
    tokens are read; width: of DPT's maps.
    """

    def __init__(self, *clip, others: Tensor, blocks: list[int], width: int):
        super().__init__(*clip)
        encoder = self.image_encoder.requires_grad_(True)
        for parameter in (encoder.proj, *encoder.ln_post.parameters()):     # which lead to CLIP's own embedding only
            parameter.requires_grad_(False)
        self.taps, (encoder_width, embed_dim) = tuple(blocks), encoder.proj.shape
        self.register_buffer("others", F.normalize(others.detach().float(), dim=-1))
        self.dense = DensePrediction(encoder_width, width, embed_dim)
        self.regularise = nn.ModuleList(Bottleneck() for _ in range(REGULARISED))

    def before_names(self, images: Tensor) -> Dense:
        """Embed uint8 RGB (B, 3, S, S) densely; names take no part."""
        taps = dense_clip(self.image_encoder, self.normalise(images), (), self.taps).taps[:, :, 1:]   # (B, 4, n, C)
        maps = taps.transpose(2, 3).unflatten(3, self.image_encoder.grid_of(images.shape[2:]))
        return Dense(F.normalize(self.dense(maps).float(), dim=1))

    def segment(self, shared: Dense, text: TextEmbedding, size: tuple[int, int], noise=None) -> Segmentation:
        """Segment B images for B names, at the input's ``size``; deterministic."""
        with torch.autocast(text.cls.device.type, enabled=False):
            pixels, name = shared.pixels.flatten(2), F.normalize(text.cls.float(), dim=-1)[:, None]
            maps = torch.cat([self.others @ pixels, name @ pixels], dim=1)           # (B, 2, h' w') cosines
            maps = maps.unflatten(2, shared.pixels.shape[2:])
            prior = F.adaptive_avg_pool2d(maps[:, 1:], self.image_encoder.grid_of(size))
            logits = maps / TEMPERATURE
            for block in self.regularise[:-1]:
                logits = F.leaky_relu(block(logits))
            logits = self.regularise[-1](logits)
        return Segmentation(bilinear(logits, size), min_max(prior.flatten(1)).view_as(prior))

    def clip_patches(self, images: Tensor, shared: Dense) -> Tensor:
        """Take the dense embedding at the patches in place of CLIP's, which training has changed."""
        cells = F.adaptive_avg_pool2d(shared.pixels, self.image_encoder.grid_of(images.shape[2:]))
        return F.normalize(cells.flatten(2).transpose(1, 2), dim=-1)


class DensePrediction(nn.Module):
    """DPT's reassembly and fusion of four maps of tokens, and LSeg's last convolution to the joint embedding."""

    def __init__(self, encoder_width: int, width: int, embed_dim: int):
        super().__init__()
        self.narrow = nn.ModuleList(nn.Conv2d(encoder_width, width, 1) for _ in SCALES)
        self.reassemble = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in SCALES)
        self.take = nn.ModuleList(Residual(width) for _ in SCALES)
        self.fuse = nn.ModuleList(Residual(width) for _ in SCALES)
        self.head = nn.Conv2d(width, embed_dim, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Turn maps (B, 4, C, h, w), the first block's first, into (B, embed_dim, 8 h, 8 w)."""
        x = None
        for i in reversed(range(len(SCALES))):
            grid = [round(SCALES[i] * side) for side in maps.shape[3:]]
            tap = self.take[i](self.reassemble[i](bilinear(self.narrow[i](maps[:, i]), grid)))
            x = self.fuse[i](tap if x is None else tap + bilinear(x, grid))
        return self.head(bilinear(x, [2 * side for side in grid]))


class Residual(nn.Module):
    """Residual convolution unit (RefineNet, Lin 2017), of which DPT's fusion is made."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class Bottleneck(nn.Module):
    """Spatial regularisation: one 3x3 kernel for every label's map, plus the maximum over all labels' maps."""

    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(1, 1, 3, padding=1, bias=False)     # what all labels get decides nothing
        with torch.no_grad():       # start from the maps as they are
            self.depthwise.weight.zero_()[0, 0, 1, 1] = 1

    def forward(self, maps: Tensor) -> Tensor:
        """Smooth maps (B, L, h, w) of L labels; the same for any order of labels."""
        each = self.depthwise(maps.flatten(0, 1)[:, None])[:, 0].view_as(maps)
        return each + maps.amax(dim=1, keepdim=True)

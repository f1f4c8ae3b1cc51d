"""ESDA+: names enter only as CLIP's similarity, so trained parts cannot memorise the seen ones (docs/plus.md)."""
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.dense import dense_clip
from model.clip.layers import Transformer
from model.clip.text_encoder import TextEmbedding
from model.esda import Noise, Segmentation
from model.image_encoder import bilinear, min_max
from model.mask_decoder import MaskDecoder
from model.rivals import Comparing

CHANNELS = ("raw", "standardised", "lead")
KERNEL = 3              # patches, side of the convolution that reads the maps (docs/plus.md)
SHARPNESS = 10.0        # of the patches' affinity (docs/emoji.md)
RIVAL_DROP = 0.2        # chance of a rival to be left out of a training sample (docs/plus.md)
CLIP_WEIGHT = 2.0       # of CLIP's own score beside the presence head's (docs/plus.md)


class Views(NamedTuple):
    """Encoding of B images before a name is given."""
    patches: Tensor         # what the interactor reads of them: tokens (B, n, width), or their affinity (B, n, n)
    joint: Tensor           # (B, V, n, D): CLIP's V readings of them, unit vectors
    image: Tensor           # (B, D): CLIP's embedding of the whole image ([CLS]), unit vectors
    rivals: Tensor          # (B, V, n, R): cosines of these with the rival names
    guide: Tensor | None    # of a guided mask decoder


class ESDAPlus(Comparing):
    """ESDA+, wired together from parts that model/build.py makes.

    readings: names in model/clip/dense.py, one map each; the first one's lead is the prior.
    channels: names in CHANNELS, used of each map. scale: of cosines in them.
    presence_head: None: the mask alone decides.
    asks_clip: add CLIP's own score to presence in evaluation; its zero is uncalibrated, so it needs a threshold.
    """
    asks_clip = True

    def __init__(self, *clip, interactor: "SimilarityInteractor", decoder: MaskDecoder, readings: list[str],
                 channels: list[str], scale: float, presence_head: "PresenceHead | None"):
        super().__init__(*clip)
        self.interactor, self.decoder, self.presence_head = interactor, decoder, presence_head
        self.readings, self.channels, self.scale = tuple(readings), [CHANNELS.index(name) for name in channels], scale

    def sample_noise(self, batch: int, text: TextEmbedding, text_share: float = 0.0) -> Noise:
        """Draw as ESDA's, without text noise: only the text's similarity is read."""
        kept = torch.rand(batch, len(self.rivals), device=self.rivals.device) >= RIVAL_DROP
        return Noise(self.decoder.sample_noise(batch), rivals=kept)

    def before_names(self, images: Tensor) -> Views:
        """Encode uint8 RGB (B, 3, S, S) by one pass of the frozen CLIP."""
        pixels = self.normalise(images)
        tokens, joint, _ = dense_clip(self.image_encoder, pixels, self.readings)
        image = F.normalize(self.image_encoder.project(tokens[:, 0]).float(), dim=-1)
        with torch.autocast(images.device.type, enabled=False):
            rivals = joint @ self.rivals.T                                   # (B, V, n, R)
        guide = self.decoder.guide(pixels, self.image_encoder.grid_of(pixels.shape[2:]))
        return Views(self.interactor.look(tokens[:, 1:]), joint, image, rivals, guide)

    def segment(self, views: Views, text: TextEmbedding, size: tuple[int, int],
                noise: Noise | None = None) -> Segmentation:
        """Segment B images for B names, at the input's ``size``."""
        grid = self.image_encoder.grid_of(size)
        maps = self.similarity(views, text, noise)                           # (B, V, 3, n)
        prior = min_max(maps[:, 0, 2]).unflatten(1, grid)[:, None]           # (B, 1, h, w)
        maps = maps[:, :, self.channels].flatten(1, 2).unflatten(2, grid)    # (B, V * channels, h, w)
        patches = self.interactor(views.patches, maps)                       # (B, n, width)
        logits = self.decoder(patches, prior, noise and noise.decoder, views.guide)  # (B, 2, h, w), finer if guided
        presence = self.presence_head and self.presence_head(patches)
        if self.presence_head and self.asks_clip and not self.training:
            presence = presence + CLIP_WEIGHT * self.clip_presence(views, text)
        return Segmentation(bilinear(logits, size), prior, presence=presence)

    def similarity(self, views: Views, text: TextEmbedding, noise: Noise | None = None) -> Tensor:
        """Compute the three channels of each map, (B, V, 3, n) fp32. The mask reads the name nowhere else."""
        with torch.autocast(views.joint.device.type, enabled=False):
            name, match = self.match(views, text)
            allowed = self.others(name)                                      # (B, R)
            if noise:
                allowed = allowed & noise.rivals
            return similarity_channels(match, views.rivals, allowed, self.scale)

    def clip_presence(self, views: Views, text: TextEmbedding) -> Tensor:
        """Compute CLIP's own logit of each name in its image as a whole, what it was trained for: (B,) uncalibrated."""
        return self.logit_scale * (views.image * F.normalize(text.cls.float(), dim=-1)).sum(dim=1)

    @staticmethod
    def match(views: Views, text: TextEmbedding) -> tuple[Tensor, Tensor]:
        """Return names as unit vectors (B, D), and each patch's cosine with its image's, (B, V, n); both fp32."""
        name = F.normalize(text.cls.float(), dim=-1)
        return name, (views.joint @ name[:, None, :, None])[..., 0]


def similarity_channels(match: Tensor, rivals: Tensor, allowed: Tensor, scale: float) -> Tensor:
    """Stack three channels of each of V maps: (B, V, 3, n) fp32.

    match: (B, V, n), cosine of each patch with its image's name; rivals: (B, V, n, R), with R other names; allowed:
    (B, R), True for the rivals that count.

    1. the cosine times ``scale``: absolute, comparable between images;
    2. the cosine standardised over the image's patches;
    3. ``scale`` times its lead over the best rival, or over its mean in the image where no rival counts.
    """
    centred = match - match.mean(dim=2, keepdim=True)
    standardised = centred / (match.std(dim=2, correction=0, keepdim=True) + 1e-6)
    lead = centred
    if rivals.shape[3]:
        best = rivals.masked_fill(~allowed[:, None, None], -torch.inf).amax(dim=3)               # (B, V, n)
        lead = torch.where(allowed.any(dim=1)[:, None, None], match - best, centred)
    return torch.stack([scale * match, standardised, scale * lead], dim=2)


class SimilarityInteractor(nn.Module):
    """Blocks of ``width`` <= C over the patch tokens plus a convolution of all similarity channels; no text tokens."""

    def __init__(self, encoder_width: int, width: int, heads: int, channels: int, blocks: int):
        super().__init__()
        self.narrow = nn.Identity() if width == encoder_width else nn.Linear(encoder_width, width)
        self.read = nn.Conv2d(channels, width, KERNEL, padding=KERNEL // 2)
        self.blocks = Transformer(width, blocks, heads)

    def look(self, tokens: Tensor) -> Tensor:
        """Take from CLIP's patch tokens (B, n, C), which are the same for every name, what ``forward`` reads."""
        return self.narrow(tokens)

    def forward(self, patches: Tensor, maps: Tensor) -> Tensor:
        """Add maps (B, channels, h, w) to narrowed patches (B, n, width); return (B, n, width)."""
        return self.blocks(patches + self.read(maps).flatten(2).transpose(1, 2))


class AffinityInteractor(SimilarityInteractor):
    """The same without patch tokens: they alone tell which things had masks in training, and new ones have none.

    They say who resembles whom: each channel comes twice, as it is and averaged over patches that look alike.
    """

    def __init__(self, width: int, heads: int, channels: int, blocks: int):
        super().__init__(width, width, heads, 2 * channels, blocks)

    def look(self, tokens: Tensor) -> Tensor:
        """Compute each patch's affinity to all, (B, n, n) fp32, rows that sum to 1."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = F.normalize((tokens - tokens.mean(dim=1, keepdim=True)).float(), dim=-1)
            return (SHARPNESS * tokens @ tokens.transpose(1, 2)).softmax(dim=2)

    def forward(self, affinity: Tensor, maps: Tensor) -> Tensor:
        """Read maps (B, channels, h, w); return (B, n, width)."""
        averaged = (maps.flatten(2) @ affinity.transpose(1, 2)).view_as(maps)
        return self.blocks(self.read(torch.cat([maps, averaged], dim=1)).flatten(2).transpose(1, 2))


class PresenceHead(nn.Module):
    """Image-level presence of the named class: a soft maximum over the patches' logits.

    Absent names train this head and the interactor, not the mask, which would stay empty on unseen classes.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.read = nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """Pool the interactor's patches (B, n, width) to logits (B,) fp32."""
        each = self.read(self.norm(patches))[..., 0].float()                 # (B, n)
        return each.logsumexp(dim=1) - math.log(each.shape[1])

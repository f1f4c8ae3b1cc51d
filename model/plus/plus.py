"""ESDA+: the name is read through CLIP's own similarity, and nowhere else. The forward reads like docs/plus.md.

A frozen CLIP knows, if dimly, which patches a name fits, even a name that was never trained on. ESDA+ learns to make
whole objects of that. Its trained parts never see the name's embedding, so they cannot learn the seen names by heart.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.dense import dense_clip
from model.clip.text_encoder import TextEmbedding, TextEncoder
from model.clip.vision_transformer import VisionTransformer
from model.esda import CLIP_SCALE, ESDA, Segmentation
from model.image_encoder import ImageEncoder, PartialEncoding, repeat_rows
from model.plus.interactor import SimilarityInteractor
from model.plus.presence import PresenceHead
from model.plus.similarity import min_max, others_than, similarity_channels
from model.similarity import bilinear


class Views(NamedTuple):
    """All that ESDA+ takes from B images before it is given a name: the same for every name.

    patches (B, n, width): for the interactor; where text navigation makes others for each name, on entry to that (C);
    joint (B, V, n, D): CLIP's V readings of them, unit vectors; rivals (B, V, n, R): cosines of these with the rival
    names; encoding: tokens (B, 1 + n, C) of the image encoder, as far as all names share them, its earlier blocks, for
    the spatial distribution losses, and the decoder's guide.
    """
    patches: Tensor
    joint: Tensor
    rivals: Tensor
    encoding: PartialEncoding

    def repeat(self, names: int) -> "Views":
        """Each image ``names`` times in a row. In evaluation, where no losses need the encoder's blocks."""
        *parts, encoding = self
        return Views(*(repeat_rows(part, names) for part in parts), encoding.repeat(names))


class PlusNoise(NamedTuple):
    """Everything random in a training step, a row for each sample. decoder: as of Noise; rivals (B, R): which count."""
    decoder: Tensor | None
    rivals: Tensor

    def __getitem__(self, rows) -> "PlusNoise":
        return PlusNoise(None if self.decoder is None else self.decoder[rows], self.rivals[rows])


class ESDAPlus(ESDA):
    """Wires the parts together; model/build.py makes them from the config.

    image_encoder: CLIP's, frozen; or, for ablations, an ImageEncoder with trainable branches or text navigation. The
        maps are always those of CLIP alone, which then runs a second time.
    readings: names in model/clip/dense.py, the maps in order; the first one's lead is the prior.
    channels: which of similarity_channels are used of each map, places from 0.
    scale: of cosines in the channels. rival_drop: chance of each rival to be left out of a training sample.
    presence_head: None: the mask alone says whether the named thing is there. ``asks_clip``: whether CLIP's own score
        counts with it, which needs a threshold.
    """

    def __init__(self, text_encoder: TextEncoder, image_encoder: VisionTransformer, interactor: SimilarityInteractor,
                 decoder: nn.Module, pixel_mean: list[float], pixel_std: list[float], logit_scale: float = CLIP_SCALE,
                 *, readings: tuple[str, ...], channels: tuple[int, ...], scale: float, rival_drop: float,
                 presence_head: PresenceHead | None = None):
        super().__init__(text_encoder, image_encoder, interactor, decoder, pixel_mean, pixel_std, logit_scale)
        self.readings, self.channels, self.scale, self.rival_drop = readings, channels, scale, rival_drop
        self.presence_head, self.asks_clip = presence_head, True
        self.register_buffer("rivals", None, persistent=False)               # (R, D) unit vectors

    @property
    def trains_encoder(self) -> bool:
        return isinstance(self.image_encoder, ImageEncoder)

    @property
    def navigates(self) -> bool:
        """Whether the name's embedding steers the image encoder too, which then runs for each name."""
        return self.trains_encoder and bool(self.image_encoder.replace_indices)

    @property
    def prior_indices(self) -> frozenset[int]:
        """Blocks with branches, the last one excepted: the prior is that of the frozen CLIP."""
        if not self.trains_encoder:
            return frozenset()
        return self.image_encoder.prior_indices - {len(self.image_encoder.transformer.resblocks) - 1}

    def freeze_clip(self) -> None:
        self.text_encoder.requires_grad_(False)
        self.image_encoder.requires_grad_(False)
        if self.trains_encoder:
            self.image_encoder.branches.requires_grad_(True)
        if self.navigates:
            self.image_encoder.text_proj.requires_grad_(True)

    def set_rivals(self, names: Tensor) -> None:
        """The embeddings (R, D) of the names that every name is compared with: those of the fold's *seen* classes.

        An unseen name must not be among them, or the model would know the names of the test. A name is no rival of its
        own, so the seen names' list serves them all.
        """
        self.rivals = F.normalize(names.detach().float(), dim=-1)

    def draw_noise(self, batch: int, text: TextEmbedding, text_share: float = 0.0) -> PlusNoise:
        """As ESDA's. The text has no noise: only its similarity is read."""
        kept = torch.rand(batch, len(self.rivals), device=self.rivals.device) >= self.rival_drop
        return PlusNoise(super().draw_noise(batch, text).decoder, kept)

    def before_names(self, images: Tensor) -> Views:
        """uint8 RGB (B, 3, S, S): one pass of the frozen CLIP, and what is made of it for all names."""
        if self.rivals is None:
            raise RuntimeError("set_rivals tells ESDA+ the seen names before it is given images")
        pixels = self.normalise(images)
        clip = dense_clip(self.image_encoder, pixels, self.readings)
        encoding = self.image_encoder.before_text(pixels) if self.trains_encoder else PartialEncoding(clip.tokens, {})
        patches = encoding.patches if self.navigates else self.interactor.narrow(encoding.patches)
        with torch.autocast(images.device.type, enabled=False):
            rivals = clip.joint @ self.rivals.T                              # (B, V, n, R)
        return Views(patches, clip.joint, rivals, encoding._replace(guide=self.guide(pixels)))

    def segment(self, views: Views, text: TextEmbedding, size: tuple[int, int],
                noise: PlusNoise | None = None) -> Segmentation:
        """From B images to the masks of B names, at the input's ``size``."""
        grid = self.image_encoder.grid_of(size)
        maps = self.similarity(views, text, noise)                           # (B, V, 3, n)
        prior = min_max(maps[:, 0, 2]).unflatten(1, grid)[:, None]           # (B, 1, h, w)
        maps = maps[:, :, self.channels].flatten(1, 2).unflatten(2, grid)    # (B, V * channels, h, w)
        encoding, patches = views.encoding, views.patches
        if self.navigates:
            encoding = self.image_encoder.with_text(encoding, text.cls)
            patches = self.interactor.narrow(encoding.patches)
        patches = self.interactor(patches, maps)                             # (B, n, width)
        logits = self.decode(patches, prior, views.encoding.guide, noise)    # (B, 2, h, w), or finer where guided
        present = None
        if self.presence_head is not None:
            present = self.presence_head(patches)
            if not self.training and self.asks_clip:
                present = present + 2 * self.clip_presence(views, text)  # 2: util/evaluation/predict.py takes a mean
        return Segmentation(bilinear(logits, size), prior, encoding.patches, encoding.blocks, present)

    def similarity(self, views: Views, text: TextEmbedding, noise: PlusNoise | None = None) -> Tensor:
        """The three channels of each map, (B, V, 3, n) fp32. But for text navigation, the name is read nowhere else."""
        with torch.autocast(views.joint.device.type, enabled=False):
            name, match = self.match(views, text)
            allowed = others_than(name, self.rivals)                         # (B, R)
            if noise:
                allowed = allowed & noise.rivals
            return similarity_channels(match, views.rivals, allowed, self.scale)

    def clip_presence(self, views: Views, text: TextEmbedding) -> Tensor:
        """CLIP's own logit of each name, by the 1/32 of the patches that fit it best: (B,) fp32.

        It has no fixed zero. The head trains without it, and the threshold of presence is set with it.
        """
        with torch.autocast(views.joint.device.type, enabled=False):
            match = self.match(views, text)[1][:, 0]                         # (B, n)
            best = match.topk(max(1, match.shape[1] // 32), dim=1, sorted=False).values.mean(dim=1)
            return self.logit_scale * best

    @staticmethod
    def match(views: Views, text: TextEmbedding) -> tuple[Tensor, Tensor]:
        """The names as unit vectors (B, D), and the cosine of each patch with its image's, (B, V, n); both fp32."""
        name = F.normalize(text.cls.float(), dim=-1)
        return name, (views.joint @ name[:, None, :, None])[..., 0]

    def clip_patches(self, images: Tensor, shared: Views) -> Tensor:
        """As ESDA's, but without another pass of CLIP where the output is among the maps."""
        if "output" in self.readings:
            return shared.joint[:, self.readings.index("output")]
        return dense_clip(self.image_encoder, self.normalise(images)).joint[:, 0]

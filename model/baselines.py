"""Baselines that need no training, with ESDA's interface."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.clip import CLIP
from model.clip.dense import dense_clip
from model.clip.text_encoder import TextEmbedding
from model.esda import ESDA, Segmentation
from model.similarity import similarity_map


class Everything(nn.Module):
    """Every pixel is foreground, whatever the name."""
    patch = 1

    def forward(self, images: Tensor, text: TextEmbedding) -> Segmentation:
        batch, _, height, width = images.shape
        logits = torch.zeros(batch, 2, height, width, device=images.device)
        logits[:, 1] = 1
        return Segmentation(logits, torch.ones(batch, 1, 1, 1, device=images.device), logits.flatten(2), {})


class DenseImages(NamedTuple):
    """What is the same for every name: tokens (B, 1 + n, C) and patches (B, n, D), unit vectors in CLIP's embedding."""
    tokens: Tensor
    patches: Tensor

    def repeat(self, names: int) -> "DenseImages":
        """Each image ``names`` times in a row."""
        return DenseImages(*(part.repeat_interleave(names, dim=0) for part in self))


class ClipPrior(nn.Module):
    """CLIP's own patch-text cosine, min-max normalised per image and thresholded. No mask is trained on.

    ESDA's prior mask compares patches with t, whose Linear is random before training. This one compares them in CLIP's
    joint embedding: patches through ln_post and proj against the text.

    reading: of the last block, a name in model/clip/dense.py.
    """

    def __init__(self, clip: CLIP, threshold: float, pixel_mean: list[float], pixel_std: list[float],
                 reading: str = "output"):
        super().__init__()
        self.reading = reading
        self.visual, self.text_encoder, self.threshold = clip.visual, clip.text, threshold
        self.patch = clip.visual.patch
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)

    forward, all_names, names_and_presence = ESDA.forward, ESDA.all_names, ESDA.names_and_presence

    def before_names(self, images: Tensor) -> DenseImages:
        """uint8 RGB (B, 3, S, S) to what is the same for every name."""
        pixels = (images / 255 - self.pixel_mean) / self.pixel_std
        tokens, joint = dense_clip(self.visual, pixels, (self.reading,))     # (B, 1 + n, C), (B, 1, n, D)
        return DenseImages(tokens, joint[:, 0])

    def segment(self, images: DenseImages, text: TextEmbedding, size: tuple[int, int], noise=None) -> Segmentation:
        """From B images to the masks of B names, at the input's ``size``. Nothing here is random."""
        prior = similarity_map(images.patches, text.cls, self.visual.grid_of(size))  # (B, 1, h, h)
        s = F.interpolate(prior, size=size, mode="bilinear", align_corners=False)
        return Segmentation(torch.cat([self.threshold - s, s - self.threshold], dim=1), prior, images.tokens[:, 1:], {})

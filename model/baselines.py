"""Baselines that need no training, with ESDA's interface."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.clip import CLIP
from model.clip.dense import dense_clip
from model.clip.text_encoder import TextEmbedding
from model.esda import Segmentation
from model.similarity import similarity_map


class Everything(nn.Module):
    """Every pixel is foreground, whatever the name."""
    patch = 1

    def forward(self, images: Tensor, text: TextEmbedding) -> Segmentation:
        batch, _, height, width = images.shape
        logits = torch.zeros(batch, 2, height, width, device=images.device)
        logits[:, 1] = 1
        return Segmentation(logits, torch.ones(batch, 1, 1, 1, device=images.device), logits.flatten(2), {})


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

    def forward(self, images: Tensor, text: TextEmbedding) -> Segmentation:
        pixels = (images / 255 - self.pixel_mean) / self.pixel_std
        tokens, joint = dense_clip(self.visual, pixels, (self.reading,))     # (B, 1 + n, C), (B, 1, n, D)
        grid = self.visual.grid_of(images.shape[2:])
        prior = similarity_map(joint[:, 0], text.cls, grid)                  # (B, 1, h, h)
        s = F.interpolate(prior, size=images.shape[2:], mode="bilinear", align_corners=False)
        return Segmentation(torch.cat([self.threshold - s, s - self.threshold], dim=1), prior, tokens[:, 1:], {})

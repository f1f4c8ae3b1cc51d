"""Training-free baselines with ESDA's interface."""
import torch
import torch.nn.functional as F
from torch import Tensor

from model.clip.dense import DenseEmbedding, dense_clip
from model.clip.text_encoder import TextEmbedding
from model.esda import NamedSegmenter, Segmentation
from model.image_encoder import min_max

PRIOR_THRESHOLD = 0.5   # from which on a prior in [0, 1] is foreground: the middle


class Everything(NamedSegmenter):
    """Baseline that predicts foreground everywhere, whatever the name."""

    def forward(self, images: Tensor, text: TextEmbedding, noise=None) -> Segmentation:
        batch, _, height, width = images.shape
        logits = torch.zeros(batch, 2, height, width, device=images.device)
        logits[:, 1] = 1
        return Segmentation(logits, torch.ones(batch, 1, 1, 1, device=images.device))


class ClipPrior(NamedSegmenter):
    """CLIP's patch-text cosine, min-max normalised per image, thresholded. reading: a name in model/clip/dense.py."""

    def __init__(self, *args, reading: str = "output"):
        super().__init__(*args)
        self.reading = reading

    def before_names(self, images: Tensor) -> DenseEmbedding:
        """Encode uint8 RGB (B, 3, S, S) by CLIP alone."""
        return dense_clip(self.image_encoder, self.normalise(images), (self.reading,))

    def segment(self, shared: DenseEmbedding, text: TextEmbedding, size: tuple[int, int], noise=None) -> Segmentation:
        """Segment B images for B names, at the input's ``size``; deterministic."""
        with torch.autocast(shared.joint.device.type, enabled=False):
            match = (shared.joint[:, 0] @ F.normalize(text.cls.float(), dim=-1)[:, :, None])[..., 0]   # (B, n)
        prior = min_max(match).unflatten(1, self.image_encoder.grid_of(size))[:, None]              # (B, 1, h, h)
        s = F.interpolate(prior, size=size, mode="bilinear", align_corners=False)
        return Segmentation(torch.cat([PRIOR_THRESHOLD - s, s - PRIOR_THRESHOLD], dim=1), prior)

"""ESDA: from an image and the embedding of a class name to that class's mask. The forward reads like figure 2."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.image_encoder import ImageEncoder
from model.interactor import Interactor
from model.mask_decoder import MaskDecoder
from model.similarity import similarity_map
from model.text_encoder import TextEmbedding, TextEncoder


class Segmentation(NamedTuple):
    """What every model here returns, in training and in evaluation.

    logits (B, 2, S, S) fp32: background and foreground at the input size.
    prior (B, 1, h, h) fp32 in [0, 1]: the prior mask, on the patch grid.
    patches (B, n, C): patch tokens after the image encoder's last block, and
    blocks {index: (B, n, C)}: after earlier ones, for the spatial distribution losses; empty in evaluation.
    """
    logits: Tensor
    prior: Tensor
    patches: Tensor
    blocks: dict[int, Tensor]


class ESDA(nn.Module):
    """Wires the parts together; model/build.py makes them from the config.

    pixel_mean, pixel_std: statistics of RGB in 0..1 that the encoder's weights expect.
    """

    def __init__(self, text_encoder: TextEncoder, image_encoder: ImageEncoder, interactor: Interactor,
                 decoder: MaskDecoder, pixel_mean: list[float], pixel_std: list[float]):
        super().__init__()
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder
        self.interactor = interactor
        self.decoder = decoder
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        self.freeze_clip()

    def freeze_clip(self) -> None:
        """CLIP's own weights stay as they are; what ESDA adds to the image encoder trains."""
        self.text_encoder.requires_grad_(False)
        self.image_encoder.requires_grad_(False)
        self.image_encoder.text_proj.requires_grad_(True)
        self.image_encoder.branches.requires_grad_(True)

    def trainable_state(self) -> dict[str, Tensor]:
        """The part of the state dict that training changes; the rest is CLIP's, read from its own file."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: tensor for name, tensor in self.state_dict().items() if name in trained}

    def forward(self, images: Tensor, text: TextEmbedding) -> Segmentation:
        """images (B, 3, S, S) uint8 RGB; text: the embeddings of the B names to look for, one an image."""
        pixels = (images / 255 - self.pixel_mean) / self.pixel_std
        embedding = self.image_encoder(pixels, text.cls)
        prior = similarity_map(embedding.patches, embedding.text)            # (B, 1, h, h)
        patches = self.interactor(text, embedding.image, embedding.patches)  # (B, n, C)
        logits = self.decoder(patches, prior)                                # (B, 2, h, h)
        logits = F.interpolate(logits.float(), size=images.shape[2:], mode="bilinear", align_corners=False)
        return Segmentation(logits, prior, embedding.patches, embedding.blocks)

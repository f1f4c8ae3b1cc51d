"""ESDA: from an image and a class name's embedding to that class's mask; the forward reads like figure 2.

NamedSegmenter, the base of all models, encodes an image once, then segments it for one name after another.
"""
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.dense import dense_clip
from model.clip.layers import Block
from model.clip.text_encoder import TextEmbedding, TextEncoder
from model.clip.vision_transformer import VisionTransformer
from model.image_encoder import PartialEncoding, bilinear, similarity_map
from model.interactor import Interactor
from model.mask_decoder import MaskDecoder


class Segmentation(NamedTuple):
    """Output of every model, in training and evaluation."""
    logits: Tensor                      # (B, 2, H, W) fp32: background and foreground at the input's size
    prior: Tensor                       # (B, 1, h, w) fp32 in [0, 1]: the prior mask on the patch grid
    blocks: dict[int, Tensor] = {}      # {index: (B, n, C)}, as in ImageEmbedding, for the losses
    presence: Tensor | None = None      # (B,) fp32: logit that the thing is there; None without a presence head


class Noise(NamedTuple):
    """Random numbers of a training step, a row for each sample; ``[rows]`` selects samples."""
    decoder: Tensor                     # what the mask decoder drew
    text: TextEmbedding | None = None   # standard normal numbers for the text that the interactor reads; None: no noise
    share: float = 0.0                  # length of that noise as a share of the text's
    rivals: Tensor | None = None        # (B, R) bool: ESDA+'s rivals that count

    def __getitem__(self, rows) -> "Noise":
        text, rivals = (None if part is None else part[rows] for part in (self.text, self.rivals))
        return Noise(self.decoder[rows], text, self.share, rivals)


class NamedSegmenter(nn.Module):
    """Base of models that segment what a name fits. CLIP's encoders are frozen. Subclasses implement:

    before_names(images): encode (B, 3, S, S) uint8 RGB up to the first text-conditioned block (shared by all names),
        into a NamedTuple of tensors with a row for each image.
    segment(shared, text, size, noise=None): the Segmentation of B encoded images for B names at the input's size.

    pixel_mean, pixel_std: RGB statistics in 0..1 of the encoder's weights; logit_scale: CLIP's factor from cosines to
    logits, 100 in every published CLIP.
    """

    def __init__(self, text_encoder: TextEncoder, image_encoder: VisionTransformer, pixel_mean: list[float],
                 pixel_std: list[float], logit_scale: float):
        super().__init__()
        self.text_encoder, self.image_encoder, self.logit_scale = text_encoder, image_encoder, logit_scale
        self.patch = image_encoder.patch    # px
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def sample_noise(self, batch: int, text: TextEmbedding, text_share: float = 0.0) -> Noise:
        """Draw the random numbers of one training step, from torch's generator: none, unless a subclass has some.

        They cover the whole batch, so that its parts, and the processes that share it, see the same numbers.
        text: embeddings of the shape that ``forward`` gets; text_share: noise length as a share of theirs.
        """
        return Noise(torch.empty(batch, 0))

    def forward(self, images: Tensor, text: TextEmbedding, noise: Noise | None = None) -> Segmentation:
        """Segment images (B, 3, S, S) uint8 RGB, or the top left of such, for the B names of ``text``.

        noise: rows of ``sample_noise``, for training; None: the decoder draws its own, and the text has none.
        """
        return self.segment(self.before_names(images), text, images.shape[2:], noise)

    def all_names(self, images: Tensor, text: TextEmbedding, chunk: int, shared=None) -> Iterator[Tensor]:
        """Yield the logit margins alone of ``names_and_presence``."""
        return (margins for margins, _ in self.names_and_presence(images, text, chunk, shared))

    def names_and_presence(self, images: Tensor, text: TextEmbedding, chunk: int,
                           shared=None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Segment each image for all K names, ``chunk`` at a time, in evaluation.

        shared: of ``before_names``; None: computed here. Yields logit margins (B, k, S, S) of the next k names, and
        presence logits (B, k) or None.
        """
        shared, count = shared or self.before_names(images), len(text.cls)
        for first in range(0, count, chunk):
            names = torch.arange(first, min(first + chunk, count), device=images.device)
            each = text[names.repeat(len(images))]                           # B k names
            output = self.segment(repeat(shared, len(names)), each, images.shape[2:])
            margins, shape = output.logits[:, 1] - output.logits[:, 0], (len(images), len(names))
            presence = None if output.presence is None else output.presence.unflatten(0, shape)
            yield margins.unflatten(0, shape), presence

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise uint8 RGB by CLIP's pixel statistics."""
        return (images / 255 - self.pixel_mean) / self.pixel_std

    def clip_patches(self, images: Tensor, shared: NamedTuple) -> Tensor:
        """Embed the patches of (B, 3, S, S) uint8 RGB by CLIP alone: (B, n, D) unit vectors."""
        return dense_clip(self.image_encoder, self.normalise(images)).joint[:, 0]

    def region_log_prob(self, patches: Tensor, margins: Tensor, text: TextEmbedding, first: int) -> Tensor:
        """Compute CLIP's log-probability (B, k), among all K names, that each name's predicted region shows its class.

        patches (B, n, D): clip_patches, averaged by foreground probability; margins (B, k, S, S): of the k names of
        ``text`` from ``first`` on.
        """
        grid = self.image_encoder.grid_of(margins.shape[2:])
        found = F.adaptive_avg_pool2d(margins.float().sigmoid(), grid).flatten(2)    # (B, k, n)
        with torch.autocast(margins.device.type, enabled=False):
            regions = F.normalize(found @ patches, dim=-1)                           # (B, k, D)
            match = regions @ F.normalize(text.cls.float(), dim=-1).T                # (B, k, K)
        log_prob = (self.logit_scale * match).log_softmax(dim=-1)
        return log_prob[:, :, first:].diagonal(dim1=1, dim2=2)

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the state_dict without CLIP's frozen weights, which have their own file."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in frozen}

    def cast_frozen(self, dtype: torch.dtype) -> None:
        """Cast the image encoder's frozen matrices to autocast's ``dtype``: half the memory, same results."""
        for module in self.image_encoder.modules():
            if not isinstance(module, nn.LayerNorm):  # which computes in fp32
                for name, parameter in module.named_parameters(recurse=False):
                    if not parameter.requires_grad and name not in ("class_embedding", "positional_embedding"):
                        parameter.data = parameter.data.to(dtype)

    def _blocks(self) -> list[Block]:
        """List the blocks that run in every step; the text encoder's run once per run."""
        return [module for part in self.children() if part is not self.text_encoder
                for module in part.modules() if isinstance(module, Block)]

    def recompute_blocks(self) -> None:
        """Checkpoint activations: recompute each block in backward, with the same results."""
        for block in self._blocks():
            block.recomputed = True

    def compile_blocks(self) -> None:
        """Compile each block; they are alike and share compilations. Parameter names stay."""
        torch._dynamo.config.recompile_limit = 32  # by part, training or evaluation, and length
        for block in self._blocks():
            block.compile()


def repeat(shared: NamedTuple, names: int) -> NamedTuple:
    """Repeat each image's rows of ``before_names`` for ``names`` names in a row; in evaluation."""
    def rows(x):    # as repeat_interleave, which torch writes as wrong ONNX
        return x[:, None].expand(-1, names, *x.shape[1:]).flatten(0, 1).contiguous() if isinstance(x, Tensor) else x
    return type(shared)(*map(rows, shared))


class ESDA(NamedSegmenter):
    """ESDA's parts, wired together. clip: NamedSegmenter's arguments, the image encoder an ImageEncoder."""
    align_corners = False

    def __init__(self, *clip, interactor: Interactor, decoder: MaskDecoder):
        super().__init__(*clip)
        self.interactor, self.decoder = interactor, decoder
        self.image_encoder.text_proj.requires_grad_(True)                    # what ESDA adds to CLIP trains
        self.image_encoder.branches.requires_grad_(True)

    def sample_noise(self, batch: int, text: TextEmbedding, text_share: float = 0.0) -> Noise:
        """Draw the decoder's, and with ``text_share`` the text's."""
        return Noise(self.decoder.sample_noise(batch), text.sample_noise(batch) if text_share else None, text_share)

    def before_names(self, images: Tensor) -> PartialEncoding:
        """Encode uint8 RGB (B, 3, S, S) up to the first text-conditioned block (shared by all names)."""
        pixels = self.normalise(images)
        guide = self.decoder.guide(pixels, self.image_encoder.grid_of(pixels.shape[2:]))
        return self.image_encoder.before_text(pixels)._replace(guide=guide)

    def segment(self, shared: PartialEncoding, text: TextEmbedding, size: tuple[int, int],
                noise: Noise | None = None) -> Segmentation:
        """Segment B partly encoded images for B names, at the input's ``size``."""
        embedding = self.image_encoder.with_text(shared, text.cls)
        prior = similarity_map(embedding.patches, embedding.text, self.image_encoder.grid_of(size))  # (B, 1, h, h)
        if noise and noise.text:
            text = text.noisy(noise.share, noise.text)
        patches = self.interactor(text, embedding.image, embedding.patches)  # (B, n, C)
        logits = self.decoder(patches, prior, noise and noise.decoder, shared.guide)  # (B, 2, h, h), finer if guided
        return Segmentation(bilinear(logits, size, self.align_corners), prior, embedding.blocks)

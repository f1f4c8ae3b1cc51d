"""ESDA: from an image and the embedding of a class name to that class's mask. The forward reads like figure 2."""
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.clip.layers import Block
from model.clip.text_encoder import TextEmbedding, TextEncoder
from model.image_encoder import ImageEncoder, PartialEncoding
from model.interactor import Interactor
from model.mask_decoder import MaskDecoder
from model.similarity import bilinear, similarity_map

CLIP_SCALE = 100.0  # of every published CLIP: training brings it to its upper bound (Radford 2021, section 2.5)


class Segmentation(NamedTuple):
    """What every model here returns, in training and in evaluation.

    logits (B, 2, S, S) fp32: background and foreground at the input size.
    prior (B, 1, h, h) fp32 in [0, 1]: the prior mask, on the patch grid. (H x W and h x w, if images are not square.)
    patches (B, n, C): patch tokens after the image encoder's last block, and
    blocks {index: (B, n, C)}: after earlier ones, for the spatial distribution losses; empty in evaluation.
    presence (B,) fp32: logit of "the named thing is in the image", in evaluation but for a constant; None from models
    that have none but the mask's.
    """
    logits: Tensor
    prior: Tensor
    patches: Tensor
    blocks: dict[int, Tensor]
    presence: Tensor | None = None


class Noise(NamedTuple):
    """Everything random in a training step, a row for each sample; ``[rows]`` takes those of some samples.

    decoder: what the mask decoder drew; None: nothing in it is random.
    text: standard normal numbers for the text that the interactor reads, of ``share`` of its length; None: no noise.
    """
    decoder: Tensor | None
    text: TextEmbedding | None = None
    share: float = 0.0

    def __getitem__(self, rows) -> "Noise":
        decoder, text = (None if part is None else part[rows] for part in (self.decoder, self.text))
        return Noise(decoder, text, self.share)


class ESDA(nn.Module):
    """Wires the parts together; model/build.py makes them from the config.

    pixel_mean, pixel_std: statistics of RGB in 0..1 that the encoder's weights expect.
    logit_scale: CLIP's factor from cosines of images and texts to logits.
    """

    def __init__(self, text_encoder: TextEncoder, image_encoder: ImageEncoder, interactor: Interactor,
                 decoder: MaskDecoder, pixel_mean: list[float], pixel_std: list[float],
                 logit_scale: float = CLIP_SCALE):
        super().__init__()
        self.logit_scale = logit_scale
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder
        self.interactor = interactor
        self.decoder = decoder
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        self.freeze_clip()

    def freeze_clip(self) -> None:
        """Freeze CLIP's own weights; what ESDA adds to the image encoder trains."""
        self.text_encoder.requires_grad_(False)
        self.image_encoder.requires_grad_(False)
        self.image_encoder.text_proj.requires_grad_(True)
        self.image_encoder.branches.requires_grad_(True)

    def cast_frozen(self, dtype: torch.dtype) -> None:
        """Keep the image encoder's frozen matrices in ``dtype``, autocast's: no cast at each use, half the memory.

        No number changes, because autocast computes with the same values.
        """
        for module in self.image_encoder.modules():
            if not isinstance(module, nn.LayerNorm):  # which computes in fp32
                for name, parameter in module.named_parameters(recurse=False):
                    if not parameter.requires_grad and name not in ("class_embedding", "positional_embedding"):
                        parameter.data = parameter.data.to(dtype)

    def _blocks(self) -> Iterator[Block]:
        """The blocks that run in every step. The text encoder's run once per run."""
        for part in (self.image_encoder, self.interactor):
            yield from (module for module in part.modules() if isinstance(module, Block))

    def recompute_blocks(self) -> None:
        """In training, compute each block again in backward instead of keeping its activations: less memory, more time,
        the same numbers.
        """
        for block in self._blocks():
            block.recomputed = True

    def compile_blocks(self) -> None:
        """Let torch.compile fuse the operations of each block. The names of parameters stay.

        Blocks are compiled one by one: they are alike, so a few compilations serve all of them.
        """
        torch._dynamo.config.recompile_limit = 32  # by part, training or evaluation, and length
        for block in self._blocks():
            block.compile()

    def trainable_state(self) -> dict[str, Tensor]:
        """The part of the state dict that training changes; the rest is CLIP's, read from its own file."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: tensor for name, tensor in self.state_dict().items() if name in trained}

    def draw_noise(self, batch: int, text: TextEmbedding, text_share: float = 0.0) -> Noise:
        """The random numbers of one training step on ``batch`` samples, from torch's generator.

        They are drawn for the whole batch, so that its parts, and the processes that share it, see the same numbers.
        text: embeddings of the shape that ``forward`` will get; text_share: length of their noise as a share of theirs.
        """
        decoder = self.decoder.draw(batch) if hasattr(self.decoder, "draw") else None
        return Noise(decoder, text.draw(batch) if text_share else None, text_share)

    def forward(self, images: Tensor, text: TextEmbedding, noise: Noise | None = None) -> Segmentation:
        """images (B, 3, S, S) uint8 RGB, or the top left of such; text: the embeddings of the B names to look for.

        noise: rows of ``draw_noise``, for training; None: the decoder draws its own, and the text has none.
        """
        return self.segment(self.before_names(images), text, images.shape[2:], noise)

    def before_names(self, images: Tensor) -> PartialEncoding:
        """uint8 RGB (B, 3, S, S) to what is the same for every name."""
        pixels = self.normalise(images)
        return self.image_encoder.before_text(pixels)._replace(guide=self.guide(pixels))

    @property
    def prior_indices(self) -> frozenset[int]:
        """The image encoder's blocks whose similarity maps the losses can train."""
        return self.image_encoder.prior_indices

    @property
    def patch(self) -> int:
        """Side of a patch in px."""
        return self.image_encoder.patch

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 RGB to the range that CLIP was trained on."""
        return (images / 255 - self.pixel_mean) / self.pixel_std

    def segment(self, partial: PartialEncoding, text: TextEmbedding, size: tuple[int, int],
                noise: Noise | None = None) -> Segmentation:
        """From B partly encoded images to the masks of B names, at the input's ``size``."""
        embedding = self.image_encoder.with_text(partial, text.cls)
        grid = self.image_encoder.grid_of(size)
        prior = similarity_map(embedding.patches, embedding.text, grid)      # (B, 1, h, h)
        if noise and noise.text:
            text = text.noisy(noise.share, noise.text)
        patches = self.interactor(text, embedding.image, embedding.patches)  # (B, n, C)
        logits = self.decode(patches, prior, partial.guide, noise)           # (B, 2, h, h), or finer where guided
        return Segmentation(self.upsample(logits, size), prior, embedding.patches, embedding.blocks)

    def guide(self, pixels: Tensor) -> Tensor | None:
        """What the decoder takes from normalised images (B, 3, H, W), once an image; None if nothing."""
        if not hasattr(self.decoder, "guide"):
            return None
        return self.decoder.guide(pixels, self.image_encoder.grid_of(pixels.shape[2:]))

    def decode(self, patches: Tensor, prior: Tensor, guide: Tensor | None, noise) -> Tensor:
        """The decoder's logits, with its part of the ``noise`` and the ``guide`` where it has some."""
        factors = () if noise is None or noise.decoder is None else (noise.decoder,)
        return self.decoder(patches, prior, *factors, **({} if guide is None else {"guide": guide}))

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 2, h, h) to (B, 2, *size) fp32."""
        return bilinear(logits, size)

    def all_names(self, images: Tensor, text: TextEmbedding, chunk: int, shared=None) -> Iterator[Tensor]:
        """Look for all K names in each image, ``chunk`` of them at a time; for evaluation.

        What is the same for every name is computed once, or given as ``shared``, of ``before_names``.
        Yields (B, k, S, S): foreground minus background logit of the next k names.
        """
        return (found for found, _ in self.names_and_presence(images, text, chunk, shared))

    def names_and_presence(self, images: Tensor, text: TextEmbedding, chunk: int,
                           shared=None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """As ``all_names``, each part with the presence (B, k) of its names (Segmentation), or None."""
        shared, count = shared or self.before_names(images), len(text.cls)
        for first in range(0, count, chunk):
            names = torch.arange(first, min(first + chunk, count), device=images.device)
            each = text[names.repeat(len(images))]                           # B k names
            output = self.segment(shared.repeat(len(names)), each, images.shape[2:])
            found = output.logits[:, 1] - output.logits[:, 0]
            shape = (len(images), len(names))
            yield found.unflatten(0, shape), None if output.presence is None else output.presence.unflatten(0, shape)

    def clip_patches(self, images: Tensor, shared: PartialEncoding) -> Tensor:
        """uint8 RGB (B, 3, S, S) to CLIP's own patch embeddings, (B, n, D) unit vectors, by a pass without branches."""
        return self.image_encoder.clip_patches(self.normalise(images))

    def presence(self, patches: Tensor, evidence: Tensor, text: TextEmbedding, first: int) -> Tensor:
        """CLIP's log-probability that the region predicted for a name shows that class: (B, k).

        patches (B, n, D): clip_patches; evidence (B, k, S, S): logits of the k names of ``text`` from ``first`` on.
        A name's region is the mean of the patches weighted by their predicted foreground. It is classified among all
        K names as CLIP classifies an image.
        """
        grid = self.image_encoder.grid_of(evidence.shape[2:])
        found = F.adaptive_avg_pool2d(evidence.float().sigmoid(), grid).flatten(2)   # (B, k, n)
        with torch.autocast(evidence.device.type, enabled=False):
            regions = F.normalize(found @ patches, dim=-1)                           # (B, k, D)
            match = regions @ F.normalize(text.cls.float(), dim=-1).T                # (B, k, K)
        own = match.new_tensor(range(first, first + match.shape[1]), dtype=torch.long)
        likely = (self.logit_scale * match).log_softmax(dim=-1)
        return likely.gather(2, own.expand(len(likely), -1)[..., None])[..., 0]

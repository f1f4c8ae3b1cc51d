"""ESDA: from an image and the embedding of a class name to that class's mask. The forward reads like figure 2."""
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.bilinear import bilinear
from model.clip.layers import Block
from model.clip.text_encoder import TextEmbedding, TextEncoder
from model.image_encoder import Begun, ImageEncoder
from model.interactor import Interactor
from model.mask_decoder import MaskDecoder
from model.similarity import similarity_map

CLIP_SCALE = 100.0  # of every published CLIP: training brings it to its upper bound (Radford 2021, section 2.5)


class Segmentation(NamedTuple):
    """What every model here returns, in training and in evaluation.

    logits (B, 2, S, S) fp32: background and foreground at the input size.
    prior (B, 1, h, h) fp32 in [0, 1]: the prior mask, on the patch grid. (H x W and h x w, if images are not square.)
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
    align_corners: how the logits are brought to the input size (torch's ``interpolate``).
    logit_scale: CLIP's, by which cosines of images and texts become logits.
    """

    def __init__(self, text_encoder: TextEncoder, image_encoder: ImageEncoder, interactor: Interactor,
                 decoder: MaskDecoder, pixel_mean: list[float], pixel_std: list[float], align_corners: bool = False,
                 logit_scale: float = CLIP_SCALE):
        super().__init__()
        self.align_corners, self.logit_scale = align_corners, logit_scale
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

    def hold_frozen(self, dtype: torch.dtype) -> None:
        """Keep the image encoder's frozen matrices in ``dtype``, that of autocast: it need not turn each of them into it
        at every use, and they take half the memory. Not one number changes, for autocast computes with the same ones.
        """
        for module in self.image_encoder.modules():
            if not isinstance(module, nn.LayerNorm):  # which computes in fp32
                for name, parameter in module.named_parameters(recurse=False):
                    if not parameter.requires_grad and name not in ("class_embedding", "positional_embedding"):
                        parameter.data = parameter.data.to(dtype)

    def _blocks(self) -> Iterator[Block]:
        """The blocks that run in every step; the text encoder's run once a run."""
        for part in (self.image_encoder, self.interactor):
            yield from (module for module in part.modules() if isinstance(module, Block))

    def recompute_blocks(self) -> None:
        """In training, compute each block a second time in backward instead of keeping what it made: less memory, more
        time, the same numbers.
        """
        for block in self._blocks():
            block.recomputed = True

    def compile_blocks(self) -> None:
        """Let torch.compile make one kernel of several operations in each block. Names of parameters stay.

        By block, not whole: the blocks are alike, so that a few compilations serve all of them.
        """
        torch._dynamo.config.recompile_limit = 32  # by part, training or evaluation, and length
        for block in self._blocks():
            block.compile()

    def trainable_state(self) -> dict[str, Tensor]:
        """The part of the state dict that training changes; the rest is CLIP's, read from its own file."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: tensor for name, tensor in self.state_dict().items() if name in trained}

    def forward(self, images: Tensor, text: TextEmbedding, keep: Tensor | None = None,
                heard: TextEmbedding | None = None) -> Segmentation:
        """images (B, 3, S, S) uint8 RGB, or the top left of such; text: the embeddings of the B names to look for.

        keep: the decoder's dropout (MaskDecoder.draw); None: drawn where it is wanted.
        heard: the text as it reaches the interactor, noisy in training; None: ``text``.
        """
        return self.segment(self.image_encoder.begin(self.normalise(images)), text, images.shape[2:], keep, heard)

    @property
    def patch(self) -> int:
        """Side of a patch in px."""
        return self.image_encoder.patch

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 RGB to what CLIP was trained on."""
        return (images / 255 - self.pixel_mean) / self.pixel_std

    def segment(self, begun: Begun, text: TextEmbedding, size: tuple[int, int],
                keep: Tensor | None = None, heard: TextEmbedding | None = None) -> Segmentation:
        """From B images that have met no text yet to the masks of B names, at the input's ``size``."""
        embedding = self.image_encoder.finish(begun, text.cls)
        grid = self.image_encoder.grid_of(size)
        prior = similarity_map(embedding.patches, embedding.text, grid)      # (B, 1, h, h)
        patches = self.interactor(heard or text, embedding.image, embedding.patches)  # (B, n, C)
        logits = self.decoder(patches, prior, keep)                          # (B, 2, h, h)
        logits = bilinear(logits, size, self.align_corners)                  # (B, 2, S, S)
        return Segmentation(logits, prior, embedding.patches, embedding.blocks)

    def all_names(self, images: Tensor, text: TextEmbedding, chunk: int) -> Iterator[Tensor]:
        """Look for every one of K names in each image, ``chunk`` of them at a time.

        What is common to all names, the patch embedding and the blocks before the text, runs once. In evaluation.
        Yields (B, k, S, S): foreground minus background logit of the next k names.
        """
        begun = self.image_encoder.begin(self.normalise(images)).tokens      # (B, 1 + n, C)
        count = len(text.cls)
        for first in range(0, count, chunk):
            names = torch.arange(first, min(first + chunk, count), device=images.device)
            tokens = begun.repeat_interleave(len(names), dim=0)              # (B k, 1 + n, C)
            logits = self.segment(Begun(tokens, {}), text[names.repeat(len(images))], images.shape[2:]).logits
            yield (logits[:, 1] - logits[:, 0]).unflatten(0, (len(images), len(names)))

    def clip_patches(self, images: Tensor) -> Tensor:
        """uint8 RGB (B, 3, S, S) to CLIP's own patch embeddings, (B, n, D) unit vectors."""
        return self.image_encoder.clip_patches(self.normalise(images))

    def presence(self, patches: Tensor, evidence: Tensor, text: TextEmbedding, first: int) -> Tensor:
        """How sure CLIP alone is that what was found under a name is of that name and of no other.

        patches (B, n, D): clip_patches; evidence (B, k, S, S): logits of the k names of ``text`` from ``first`` on. Each
        name's region, its patches weighted by how much foreground they are, is classified among all K names as CLIP
        classifies an image. Returns log-probabilities (B, k).
        """
        grid = self.image_encoder.grid_of(evidence.shape[2:])
        found = F.adaptive_avg_pool2d(evidence.float().sigmoid(), grid).flatten(2)   # (B, k, n)
        with torch.autocast(evidence.device.type, enabled=False):
            regions = F.normalize(found @ patches, dim=-1)                           # (B, k, D)
            match = regions @ F.normalize(text.cls.float(), dim=-1).T                # (B, k, K)
        own = match.new_tensor(range(first, first + match.shape[1]), dtype=torch.long)
        likely = (self.logit_scale * match).log_softmax(dim=-1)
        return likely.gather(2, own.expand(len(likely), -1)[..., None])[..., 0]

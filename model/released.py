"""What the authors' released code does differently from the paper, each as a subclass of the part that it concerns.

model/build.py takes these classes where the config asks for them. config/*/released.yaml asks for all of them.
"""
import torch
from torch import Tensor

from model import IGNORE
from model.clip.text_encoder import TextEmbedding
from model.esda import ESDA, Segmentation
from model.image_encoder import ImageEncoder
from model.interactor import Interactor
from model.losses import EsdaLosses
from model.similarity import bilinear


class ReleasedImageEncoder(ImageEncoder):
    """``model.cls_twice``: the class embedding is added to the [CLS] token twice."""

    def positions(self, height: int, width: int) -> Tensor:
        positions = super().positions(height, width)                         # [CLS]'s first, which the embedding joins
        return torch.cat([positions[:1] + self.class_embedding, positions[1:]])


class ReleasedInteractor(Interactor):
    """``model.token_order: released`` and ``model.mask_padding: false``, each a switch of its own.

    moves_tokens: a layer hands its tokens on as [patch, semantic], but the next layer and the read-out take the last n
        of them for the patches.
    hides_padding: whether attention ignores positions after end-of-text.
    """

    def __init__(self, *args, moves_tokens: bool = True, hides_padding: bool = False, **options):
        super().__init__(*args, **options)
        self.moves_tokens, self.hides_padding = moves_tokens, hides_padding

    def mask(self, visible: Tensor) -> Tensor | None:
        return super().mask(visible) if self.hides_padding else None

    def forward(self, text: TextEmbedding, image: Tensor, patches: Tensor) -> Tensor:
        """As Interactor.forward; with ``moves_tokens`` the tokens returned do not lie in their places."""
        if not self.moves_tokens:
            return super().forward(text, image, patches)
        semantic, visible = self.semantic_tokens(text, image)                # (B, m, C), (B, m)
        m = semantic.shape[1]
        tokens = torch.cat([semantic, patches.to(semantic.dtype)], dim=1)    # (B, m + n, C)
        visible = torch.cat([visible, visible.new_ones(patches.shape[:2])], dim=1)
        for i, (vl, iee) in enumerate(zip(self.vl, self.iee)):
            tokens = vl(tokens, self.mask(visible))
            semantic, patches = tokens[:, :m], iee(tokens[:, m:], self.mask(visible[:, m:]))
            if i < len(self.sse):
                semantic = self.sse[i](semantic, self.mask(visible[:, :m]))
            tokens = torch.cat([patches, semantic], dim=1)                   # the padding moves with its tokens
            visible = torch.cat([visible[:, m:], visible[:, :m]], dim=1)
        return tokens[:, m:]


class ReleasedESDA(ESDA):
    """``model.align_corners: true``: corners of the upsampled logits lie on those of the patch grid."""

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return bilinear(logits, size, align_corners=True)


class ReleasedLosses(EsdaLosses):
    """``loss.sign: released``, ``loss.ignored: background``, ``model.align_corners: true``, each a switch of its own.

    reversed_sign: a map s is read as the logits [s, 1 - s], which lowers the similarity on the foreground.
    ignored_as_background: label 255 trains as background, padding included. The released code writes 0 over it while it
        builds the prototypes; here the target itself is not written to.
    align_corners: of the resizing of similarity maps and masks.
    """

    def __init__(self, weights: dict[str, float], reversed_sign: bool = True, ignored_as_background: bool = True,
                 align_corners: bool = True, temperature: float = 1.0):
        super().__init__(weights, temperature)
        self.reversed_sign, self.ignored_as_background = reversed_sign, ignored_as_background
        self.align_corners = align_corners

    def __call__(self, output: Segmentation, target: Tensor, pixels: Tensor | None = None) -> dict[str, Tensor]:
        return super().__call__(output, self._with_ignored(target), pixels)

    def pixels(self, target: Tensor) -> Tensor:
        return super().pixels(self._with_ignored(target))

    def _with_ignored(self, target: Tensor) -> Tensor:
        return target.masked_fill(target == IGNORE, 0) if self.ignored_as_background else target

    def evidence(self, s: Tensor) -> Tensor:
        return -super().evidence(s) if self.reversed_sign else super().evidence(s)

    def resize(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        return bilinear(maps, size, self.align_corners)

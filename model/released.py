"""Released code of the authors where it departs from the paper, as subclasses; config/*/released.yaml asks for all."""
import torch
from torch import Tensor

from model import IGNORE
from model.clip.text_encoder import TextEmbedding
from model.esda import ESDA, Segmentation
from model.image_encoder import ImageEncoder
from model.interactor import Interactor
from model.losses import EsdaLosses


class ReleasedImageEncoder(ImageEncoder):
    """Image encoder with ``model.cls_twice``: the class embedding is added to the [CLS] token twice."""

    def positions(self, height: int, width: int) -> Tensor:
        positions = super().positions(height, width)                         # [CLS]'s first, which the embedding joins
        return torch.cat([positions[:1] + self.class_embedding, positions[1:]])


class ReleasedInteractor(Interactor):
    """Interactor with ``model.token_order: released`` and ``model.mask_padding: false``, each a switch.

    moves_tokens: a layer hands its tokens on as [patch, semantic], but the next takes the last n for the patches.
    hides_padding: whether attention ignores positions after end-of-text.
    """

    def __init__(self, *args, moves_tokens: bool = True, hides_padding: bool = False, **options):
        super().__init__(*args, **options)
        self.moves_tokens, self.hides_padding = moves_tokens, hides_padding

    def mask(self, visible: Tensor) -> Tensor | None:
        return super().mask(visible) if self.hides_padding else None

    def forward(self, text: TextEmbedding, image: Tensor, patches: Tensor) -> Tensor:
        """Fuse as Interactor.forward; with ``moves_tokens`` the patch tokens returned are out of place."""
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
    """ESDA with ``model.align_corners: true``: corners of the upsampled logits lie on those of the patch grid."""
    align_corners = True


class ReleasedLosses(EsdaLosses):
    """Losses with ``loss.sign: released``, ``loss.ignored: background``, ``model.align_corners: true``, each a switch.

    reversed_sign: a map s is read as the logits [s, 1 - s], which lowers the similarity on the foreground.
    ignored_as_background: label 255 trains as background, padding included; the target itself is not written to.
    align_corners: of the resizing of similarity maps and masks.
    """

    def __init__(self, weights: dict[str, float], reversed_sign: bool = True, ignored_as_background: bool = True,
                 align_corners: bool = True):
        super().__init__(weights)
        self.sign, self.align_corners = -1 if reversed_sign else 1, align_corners
        self.ignored_as_background = ignored_as_background

    def __call__(self, output: Segmentation, target: Tensor, pixels: Tensor | None = None) -> dict[str, Tensor]:
        return super().__call__(output, self._with_ignored(target), pixels)

    def pixels(self, target: Tensor) -> Tensor:
        return super().pixels(self._with_ignored(target))

    def _with_ignored(self, target: Tensor) -> Tensor:
        return target.masked_fill(target == IGNORE, 0) if self.ignored_as_background else target

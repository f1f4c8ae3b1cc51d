"""The vision-language embedding interactor: semantic tokens and patch tokens talk to each other (ESDA, part 3)."""
import torch
from torch import Tensor, nn

from model.clip.layers import Transformer
from model.clip.text_encoder import TextEmbedding


class Interactor(nn.Module):
    """Layers of joint attention, each followed by attention among the patches and among the semantic tokens.

    Args:
        width: C; heads: of every block; embed_dim: D; text_width: W of the text tokens; layers: L.
        text_tokens: whether the tokens of the whole text take part, or only its cls.
        mask_padding: whether positions after end-of-text are hidden from attention.
        token_order: "described", or "released": there each layer hands its tokens on as [patch, semantic], while
            the next layer and the read-out still take the last n of them for the patches.
    """

    def __init__(self, width: int, heads: int, embed_dim: int, text_width: int, layers: int, text_tokens: bool = True,
                 mask_padding: bool = True, token_order: str = "described"):
        super().__init__()
        self.text_tokens, self.mask_padding, self.shifts = text_tokens, mask_padding, token_order == "released"
        self.cls_proj = nn.Linear(embed_dim, width)
        # In ViT-B/16 the text tokens are as wide as the joint embedding, and the paper has one Linear for both.
        self.token_proj = nn.Linear(text_width, width) if text_tokens and text_width != embed_dim else None
        self.fuse_proj = nn.Linear(2 * embed_dim, width)
        self.vl = nn.ModuleList(Transformer(width, 1, heads) for _ in range(layers))        # VL interaction
        self.iee = nn.ModuleList(Transformer(width, 1, heads) for _ in range(layers))       # image embedding enhancement
        self.sse = nn.ModuleList(Transformer(width, 1, heads) for _ in range(layers - 1))   # semantic support enhancement

    def forward(self, text: TextEmbedding, image: Tensor, patches: Tensor) -> Tensor:
        """text of B names; image (B, D) unit vectors; patches (B, n, C).

        Returns the patch tokens (B, n, C), each in its place unless token_order is "released".
        """
        semantic, visible = self.semantic_tokens(text, image)                # (B, m, C), (B, m)
        m = semantic.shape[1]
        tokens = torch.cat([semantic, patches.to(semantic.dtype)], dim=1)    # (B, m + n, C)
        visible = torch.cat([visible, visible.new_ones(patches.shape[:2])], dim=1)
        for i, (vl, iee) in enumerate(zip(self.vl, self.iee)):
            tokens = vl(tokens, self._mask(visible))
            semantic = tokens[:, :m]
            patches = iee(tokens[:, m:], self._mask(visible[:, m:]) if self.shifts else None)
            if i < len(self.sse):
                semantic = self.sse[i](semantic, self._mask(visible[:, :m]))
            tokens, visible = self._join(semantic, patches), self._join(visible[:, :m], visible[:, m:])
        return tokens[:, m:]

    def _join(self, semantic: Tensor, patches: Tensor) -> Tensor:
        """What a layer hands on: (B, m, ...) and (B, n, ...) to (B, m + n, ...)."""
        return torch.cat([patches, semantic] if self.shifts else [semantic, patches], dim=1)

    def _mask(self, visible: Tensor) -> Tensor | None:
        """(B, N), True where a token is no padding, to (B, 1, 1, keys); None where nothing is to be hidden."""
        return visible[:, None, None] if self.text_tokens and self.mask_padding else None

    def semantic_tokens(self, text: TextEmbedding, image: Tensor) -> tuple[Tensor, Tensor]:
        """Text cls, then the text tokens, then text and image fused: (B, m, C) and which are not padding (B, m)."""
        cls = self.cls_proj(text.cls)[:, None]                               # (B, 1, C)
        fused = self.fuse_proj(torch.cat([text.cls, image], dim=-1))[:, None]
        one = text.valid.new_ones(len(cls), 1)
        if not self.text_tokens:
            return torch.cat([cls, fused], dim=1), torch.cat([one, one], dim=1)
        tokens = (self.token_proj or self.cls_proj)(text.tokens)             # (B, L, C)
        return torch.cat([cls, tokens, fused], dim=1), torch.cat([one, text.valid, one], dim=1)

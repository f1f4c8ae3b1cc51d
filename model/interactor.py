"""Vision-language embedding interactor: joint attention of semantic and patch tokens (ESDA, part 3)."""
import torch
from torch import Tensor, nn

from model.clip.layers import Transformer
from model.clip.text_encoder import TextEmbedding


class Interactor(nn.Module):
    """Layers of joint attention, each followed by self-attention of the patches and of the semantic tokens.

    width: C; heads: of every block; embed_dim: D; text_width: W; text_tokens: whether all text tokens take part or cls.
    """

    def __init__(self, width: int, heads: int, embed_dim: int, text_width: int, layers: int, text_tokens: bool = True):
        super().__init__()
        self.text_tokens = text_tokens
        self.cls_proj = nn.Linear(embed_dim, width)
        # In ViT-B/16 the text tokens are as wide as the joint embedding, and the paper has one Linear for both.
        self.token_proj = nn.Linear(text_width, width) if text_tokens and text_width != embed_dim else None
        self.fuse_proj = nn.Linear(2 * embed_dim, width)
        # VL interaction, IEE (image embedding enhancement) and SSE (semantic support enhancement)
        self.vl = nn.ModuleList(Transformer(width, 1, heads) for _ in range(layers))
        self.iee = nn.ModuleList(Transformer(width, 1, heads) for _ in range(layers))
        self.sse = nn.ModuleList(Transformer(width, 1, heads) for _ in range(layers - 1))

    def forward(self, text: TextEmbedding, image: Tensor, patches: Tensor) -> Tensor:
        """Fuse text of B names, image (B, D) unit vectors and patches (B, n, C) into patch tokens (B, n, C)."""
        semantic, visible = self.semantic_tokens(text, image)                # (B, m, C), (B, m)
        patches, m = patches.to(semantic.dtype), semantic.shape[1]
        hiding = self.mask(torch.cat([visible, visible.new_ones(patches.shape[:2])], dim=1))
        for i, (vl, iee) in enumerate(zip(self.vl, self.iee)):
            tokens = vl(torch.cat([semantic, patches], dim=1), hiding)       # (B, m + n, C)
            semantic, patches = tokens[:, :m], iee(tokens[:, m:])
            if i < len(self.sse):
                semantic = self.sse[i](semantic, self.mask(visible))
        return patches

    def mask(self, visible: Tensor) -> Tensor | None:
        """Build the attention mask (B, 1, 1, N) that hides padding; visible (B, N): True for other tokens."""
        return visible[:, None, None] if self.text_tokens else None          # without the text there is no padding

    def semantic_tokens(self, text: TextEmbedding, image: Tensor) -> tuple[Tensor, Tensor]:
        """Concatenate cls, text tokens and fused text-image token: (B, m, C), valid (B, m) bool."""
        cls = self.cls_proj(text.cls)[:, None]                               # (B, 1, C)
        fused = self.fuse_proj(torch.cat([text.cls, image], dim=-1))[:, None]
        one = text.valid.new_ones(cls.shape[0], 1)
        if not self.text_tokens:
            return torch.cat([cls, fused], dim=1), torch.cat([one, one], dim=1)
        tokens = (self.token_proj or self.cls_proj)(text.tokens)             # (B, L, C)
        return torch.cat([cls, tokens, fused], dim=1), torch.cat([one, text.valid, one], dim=1)

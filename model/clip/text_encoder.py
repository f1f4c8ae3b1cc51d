"""CLIP's text encoder: from class names to the embeddings that condition the segmentation (ESDA, part 1)."""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.clip.layers import Transformer


class TextEmbedding(NamedTuple):
    """Embeddings of K names."""
    cls: Tensor     # (K, D), the projected end-of-text embedding, not normalised
    tokens: Tensor  # (K, L, W), ln_final of every position, unprojected
    valid: Tensor   # (K, L), True up to and including end-of-text

    def __getitem__(self, rows) -> "TextEmbedding":
        """Select rows, e.g. those of each sample's class in a batch."""
        return TextEmbedding(*(part[rows] for part in self))

    def sample_noise(self, batch: int) -> "TextEmbedding":
        """Draw standard normal numbers in the shape of ``batch`` such embeddings, from torch's generator."""
        cls, tokens = (torch.randn(batch, *x.shape[1:], device=x.device) for x in (self.cls, self.tokens))
        return TextEmbedding(cls, tokens, self.valid.new_ones(batch, self.valid.shape[1]))

    def noisy(self, share: float, noise: "TextEmbedding") -> "TextEmbedding":
        """Add Gaussian noise of expected length ``share`` of each vector's own; noise: rows of ``sample_noise``."""
        def add(x: Tensor, by: Tensor) -> Tensor:
            return x + share * x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5 * by
        return TextEmbedding(add(self.cls, noise.cls), add(self.tokens, noise.tokens), self.valid)

    def to(self, device) -> "TextEmbedding":
        return TextEmbedding(*(part.to(device) for part in self))


class TextEncoder(nn.Module):
    """Text encoder, parameters named as in CLIP's state_dict; width W, context_length L, embed_dim D."""

    def __init__(self, vocabulary: int, context_length: int, width: int, layers: int, heads: int, embed_dim: int,
                 activation: str = "quickgelu"):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.transformer = Transformer(width, layers, heads, activation)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width ** -0.5)

    @property
    def context_length(self) -> int:
        return self.positional_embedding.shape[0]

    def forward(self, ids: Tensor) -> TextEmbedding:
        """Encode ids (K, L') int64 from the tokenizer, L' <= L."""
        length = ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        x = self.token_embedding(ids) + self.positional_embedding[:length]   # (K, L', W)
        tokens = self.ln_final(self.transformer(x, causal))                  # (K, L', W)
        end = ids.argmax(dim=1)                  # end-of-text has the highest id of the vocabulary
        valid = torch.arange(length, device=ids.device) <= end[:, None]      # (K, L')
        cls = tokens[torch.arange(len(ids), device=ids.device), end] @ self.text_projection  # (K, D)
        return TextEmbedding(cls, tokens, valid)

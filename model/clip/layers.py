"""Transformer block of CLIP, the one kind of block that every part of ESDA is made of."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class QuickGELU(nn.Module):
    """QuickGELU, x * sigmoid(1.702 x): the activation that OpenAI's CLIP weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x) / 1.702  # the same function; silu keeps one tensor for backward instead of two


ACTIVATIONS = {"quickgelu": QuickGELU, "gelu": nn.GELU}  # gelu: most of OpenCLIP's own weights


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend by scaled dot product, (B, heads, N, C/heads); ``mask`` as for Attention.

    torch's fused kernel, except in bf16 on a CPU, where that computes in fp32 and plain products are faster.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    heads, width = q.shape[:2], q.shape[-1]
    hidden = q.new_zeros(1, 1, 1)
    if mask is not None:  # adding it within the product saves a pass over the scores
        mask = mask[None] if mask.ndim == 2 else mask.expand(*heads, *mask.shape[2:]).flatten(0, 1)
        hidden = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))                            # (B heads, N, C/heads)
    scores = torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=width ** -0.5, beta=0 if mask is None else 1)
    # Where nothing is kept for backward, in place: the scores of twelve heads do not fit into the cache.
    weights = torch.softmax(scores, dim=-1, out=None if torch.is_grad_enabled() else scores)
    return torch.bmm(weights, v).unflatten(0, heads)


class Attention(nn.Module):
    """Multi-head self-attention under the parameter names of ``nn.MultiheadAttention``, as in CLIP's weights.

    mask: bool, 2-D or 4-D, broadcast to (B, heads, N, N); True lets a query (row) see a key (column).
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.merge(attend(*self.heads_of(x), mask))

    def heads_of(self, x: Tensor) -> Tensor:
        """Project (B, N, C) to q, k and v of each head: (3, B, heads, N, C/heads)."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)                 # (B, N, 3C)
        return qkv.view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)

    def merge(self, mixed: Tensor) -> Tensor:
        """Merge heads (B, heads, N, C/heads) to (B, N, C)."""
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-LN residual attention block with an MLP four times as wide; (B, N, C) -> (B, N, C).

    activation: of the MLP, a name in ACTIVATIONS. recomputed: in training, compute all but the input again in backward.
    """
    recomputed = False

    def __init__(self, width: int, heads: int, activation: str = "quickgelu"):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", ACTIVATIONS[activation]())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.recomputed and self.training:  # nothing random happens here, so no generator need be put back
            return checkpoint(self._through, x, mask, use_reentrant=False, preserve_rng_state=False)
        return self._through(x, mask)

    def _through(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if not torch.is_grad_enabled() and torch.is_autocast_enabled(x.device.type):
            # In evaluation the residual stream, too, is in autocast's type, which saves conversions; in training fp32.
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return self.after_heads(x, self.attn.heads_of(self.ln_1(x)), mask)

    def after_heads(self, x: Tensor, qkv: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the rest of the block after q, k, v of its input x, as ``attn.heads_of(ln_1(x))`` gives them."""
        x = x + self.attn.merge(attend(*qkv, mask))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Stack of blocks, named ``resblocks`` as in CLIP's state_dict, with CLIP's initialisation.

    Residual writes start with std width^-1/2 * (2 layers)^-1/2 (OpenAI CLIP, model.py).
    """

    def __init__(self, width: int, layers: int, heads: int, activation: str = "quickgelu"):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))
        residual_std = width ** -0.5 * (2 * layers) ** -0.5
        for block in self.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=width ** -0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=residual_std)
            nn.init.zeros_(block.attn.out_proj.bias)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=residual_std)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x

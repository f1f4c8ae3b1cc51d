"""Dense CLIP without training: patch embeddings from other readings of the last attention.

CLIP is trained on the joint embedding of [CLS] alone. Its last block mixes the patches for that purpose, so a patch
after it tells little of its own place. All readings share the other blocks. They differ in the last one, for its input
x (B, 1 + n, C) and q, k, v of ln_1(x), per head of width d:

    output  the block as it is: y + MLP(ln_2(y)) with y = x + out(softmax(q k^T / sqrt(d)) v)
    value   the same with y = x + out(v): each token attends to itself (MaskCLIP, Zhou 2022, section 3.2, which has no
            residual and no MLP here; we keep both)
    kk      out(softmax(k k^T / sqrt(d) + w) v), no residual, no MLP; w = exp(-|a - b|^2 / (2 * 5^2)) for patches at the
            places a and b of the grid, 0 where one is [CLS] (NACLIP, Hajimiri 2025)
    qq      out(softmax(q q^T / sqrt(d)) v), no residual, no MLP (ClearCLIP, Lan 2024)
    cls     what the patch adds to [CLS] in the attention of *all* blocks, out(a v) with a the softmax from [CLS] to it,
            through the last LayerNorm with [CLS]'s own deviation (Gandelsman 2024, arXiv 2310.05916, who find most of
            the effect in the last four blocks). No unit vector: its length says how much it adds
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.clip.layers import Block
from model.clip.vision_transformer import VisionTransformer

READINGS = ("output", "value", "kk", "qq", "cls")
NEIGHBOURHOOD = 5.0     # patches, the standard deviation of the Gaussian in kk (NACLIP)


class DenseEmbedding(NamedTuple):
    """Encoding of B images by CLIP."""
    tokens: Tensor          # (B, 1 + n, C), after the last block
    joint: Tensor | None    # (B, V, n, D) fp32: V readings of the patches, unit vectors but for cls; None for none
    taps: Tensor | None     # (B, T, 1 + n, C): tokens after the blocks that were asked for; None for none


def dense_clip(visual: VisionTransformer, images: Tensor, readings: tuple[str, ...] = ("output",),
               taps: tuple[int, ...] = ()) -> DenseEmbedding:
    """Encode normalised images (B, 3, H, W) in one pass of CLIP, read in each of ``readings``.

    taps: blocks, counted from 0, whose tokens are wanted, too.
    """
    x = visual.embed(images)                                                 # (B, 1 + n, C)
    *blocks, last = visual.transformer.resblocks
    after, added = {}, 0.0
    for i, block in enumerate(blocks):
        if "cls" in readings:
            qkv = block.attn.heads_of(block.ln_1(x))
            added = added + added_to_cls(block, qkv)
            x = block.after_heads(x, qkv)
        else:
            x = block(x)
        if i in taps:
            after[i] = x
    q, k, v = qkv = last.attn.heads_of(last.ln_1(x))                         # 3 x (B, heads, 1 + n, d)
    tokens = last.after_heads(x, qkv)
    joint = []
    for reading in readings:
        if reading == "output":
            y = tokens
        elif reading == "value":
            y = x + last.attn.merge(v)
            y = y + last.mlp(last.ln_2(y))
        elif reading == "kk":
            near = neighbourhood(*visual.grid_of(images.shape[2:]), x.device)
            y = last.attn.merge(F.scaled_dot_product_attention(k, k, v, attn_mask=near.to(k.dtype)))
        elif reading == "qq":
            y = last.attn.merge(F.scaled_dot_product_attention(q, q, v))
        else:
            joint.append(through_ln_post(visual, added + added_to_cls(last, qkv), tokens[:, 0]))
            continue
        joint.append(F.normalize(visual.project(y[:, 1:]).float(), dim=-1))  # (B, n, D)
    after[len(blocks)] = tokens
    return DenseEmbedding(tokens, torch.stack(joint, dim=1) if readings else None,
                          torch.stack([after[i] for i in taps], dim=1) if taps else None)


def added_to_cls(block: Block, qkv: Tensor) -> Tensor:
    """Compute what each patch adds to [CLS] in a block's attention, of q, k, v (3, B, heads, 1 + n, d): (B, n, C)."""
    q, k, v = qkv
    share = (q[:, :, :1] @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(dim=3)              # (B, heads, 1, 1 + n)
    return F.linear((share.transpose(2, 3) * v)[:, :, 1:].transpose(1, 2).flatten(2), block.attn.out_proj.weight)


def through_ln_post(visual: VisionTransformer, added: Tensor, cls: Tensor) -> Tensor:
    """Project parts (B, n, C) of [CLS] (B, C) as ln_post does the whole: (B, n, D) fp32, sqrt(n) times their share."""
    with torch.autocast(added.device.type, enabled=False):
        cls, added = cls.float(), added.float()
        deviation = (cls.var(dim=1, correction=0) + visual.ln_post.eps).sqrt()[:, None, None]
        parts = (added - added.mean(dim=2, keepdim=True)) / deviation * visual.ln_post.weight @ visual.proj.float()
        whole = (visual.ln_post(cls) @ visual.proj.float()).norm(dim=1)[:, None, None]
        return added.shape[1] ** 0.5 * parts / whole


def neighbourhood(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Compute what ``kk`` adds to the scores of [CLS] and n = height * width patches: (1 + n, 1 + n)."""
    places = torch.cartesian_prod(torch.arange(height, device=device), torch.arange(width, device=device))  # (n, 2)
    squared = (places[:, None] - places).square().sum(dim=2)                 # (n, n)
    return F.pad(torch.exp(-squared / (2 * NEIGHBOURHOOD ** 2)), (1, 0, 1, 0))

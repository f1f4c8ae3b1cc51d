"""What the miniature CLIP is pretrained to do: images and texts that belong together are near each other."""
import torch
import torch.nn.functional as F
from torch import Tensor

from data.shapes.pretrain.captioned import TILES, Pair
from model.clip.clip import CLIP

BEST = 12  # patches whose mean match stands for a tile; the least tile has 36


def contrastive_loss(clip: CLIP, images: Tensor, pairs: Pair, prompts: Tensor, keep: float, weights) -> Tensor:
    """The sum of four terms, all from captions alone.

    Args:
        images: (B, 3, S, S) normalised; pairs: a batch of ``Pair``; prompts: (K, L) ids, a prompt for each class.
        keep: share of the patches that enter the encoder (FLIP, Li 2023).
        weights: caption_weight, tile_weight and spread_weight; a weight of 0 also saves the computation.
    """
    scale = clip.logit_scale.exp()
    tokens = F.normalize(clip.visual.project(clip.visual(images, keep)).float(), dim=-1)  # (B, 1 + n, D)
    texts = clip.encode_text(torch.cat([prompts, pairs.tokens])).float()                  # (K + B, D)
    names, captions = texts[:len(prompts)], texts[len(prompts):]
    loss = F.cross_entropy(scale * tokens[:, 0] @ names.T, pairs.named)  # each image against the names of all classes
    if weights.caption_weight:
        loss = loss + weights.caption_weight * image_against_caption(scale * tokens[:, 0] @ captions.T)
    if weights.tile_weight:
        loss = loss + weights.tile_weight * tile_contrast(scale, tokens[:, 1:], names, pairs)
    if weights.spread_weight:
        loss = loss + weights.spread_weight * spread(names)
    return loss


def image_against_caption(logits: Tensor) -> Tensor:
    """CLIP's own loss (Radford 2021, figure 3). logits (B, B), the matching pairs on the diagonal."""
    same = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2


def tile_contrast(scale: Tensor, patches: Tensor, names: Tensor, pairs: Pair) -> Tensor:
    """Each tile's best-matching patches against the names of all classes.

    As in FILIP (Yao 2021) a match is that of the best patches, here the mean of BEST, so that patches learn the words
    too, and not [CLS] alone. Without mosaics any patch may carry what lies elsewhere in the picture, and does: the
    tiles make it tell of its own surroundings. patches (B, n, D); names (K, D).
    """
    match = patches @ names.T                                                             # (B, n, K)
    inside = F.one_hot(pairs.tile_of, TILES).bool()                                       # (B, n, 4)
    best = match[:, :, None].masked_fill(~inside[..., None], -1).topk(BEST, dim=1).values.mean(1)  # (B, 4, K)
    there = pairs.tiles.any(-1)                                                           # (B, 4)
    return F.cross_entropy(scale * best[there], pairs.tiles[there])


def spread(names: Tensor) -> Tensor:
    """Uniformity of the names on the sphere: log mean exp(-2 |a - b|^2) over pairs (Wang and Isola 2020, section 4).

    Without it all names lie in a narrow cone (mean cosine 0.68), told apart by small differences.
    """
    count = len(names)
    near = (4 * (names @ names.T - 1)).exp()  # |a - b|^2 = 2 - 2 cos
    return ((near.sum() - count) / (count * (count - 1))).log()

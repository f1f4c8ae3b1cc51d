"""The one place where numbers become modules."""
import torch
from torch import nn

from model.baselines import ClipPrior, Everything
from model.clip.text_encoder import TextEmbedding, TextEncoder
from model.clip.tokenizer import Tokenizer
from model.clip.weights import ClipWeights, WeightsError, build_clip, build_text, build_vision, read_clip
from model.esda import CLIP_SCALE, ESDA
from model.image_encoder import ImageEncoder
from model.interactor import Interactor
from model.mask_decoder import MaskDecoder


def build_esda(options, weights: ClipWeights) -> ESDA:
    """ESDA on the given CLIP. ``options``: the fields of config section ``model`` (see config/base.yaml)."""
    try:
        image_encoder = build_vision(weights, options.size, ImageEncoder, replace_indices=options.replace_indices,
                                     branch_indices=options.branch_indices, branch_rank=options.branch_rank,
                                     prior_indices=options.prior_indices, cls_twice=options.cls_twice)
    except ValueError as error:
        raise WeightsError(f"{error}; set it in the config for the CLIP in {options.clip}") from None
    if options.text_start == "clip":
        image_encoder.start_text_from_clip()
    width, embed_dim = image_encoder.proj.shape
    text_width = weights.text["token_embedding.weight"].shape[1]
    heads = image_encoder.transformer.resblocks[0].attn.heads
    interactor = Interactor(width, heads, embed_dim, text_width, options.interactor_layers, options.text_tokens,
                            options.mask_padding, options.token_order)
    return ESDA(build_text(weights), image_encoder, interactor, MaskDecoder(width, options.dropout),
                options.pixel_mean, options.pixel_std, options.align_corners,
                CLIP_SCALE if weights.logit_scale is None else float(weights.logit_scale.exp()))


def build_model(options, weights: ClipWeights | None = None) -> tuple[nn.Module, ClipWeights]:
    """The model that ``options.kind`` names, and the CLIP weights it stands on: the given ones, or those of
    ``options.clip``. Raises WeightsError."""
    weights = weights or read_clip(options.clip)
    if options.kind == "esda":
        return build_esda(options, weights), weights
    clip = build_clip(weights, options.size).requires_grad_(False)
    if options.kind in ("clip_prior", "maskclip"):
        return ClipPrior(clip, options.prior_threshold, options.pixel_mean, options.pixel_std,
                         value_path=options.kind == "maskclip"), weights
    model = Everything()
    model.text_encoder = clip.text
    return model, weights


@torch.no_grad()
def embed_names(text_encoder: TextEncoder, names: list[str], options) -> TextEmbedding:
    """The embeddings of all class names, computed once and kept; row = place in ``names``.

    options: config section ``model``. Where padding is hidden from attention anyway, there are only as many positions as
    the longest name has: the text encoder looks backwards only, and so nothing changes but the time it all takes.
    """
    texts = [options.prompt.format(options.same_word or name) for name in names]
    try:
        ids = Tokenizer()(texts, text_encoder.context_length)
    except ValueError as error:
        raise WeightsError(f"model.prompt: {error}") from None
    if options.mask_padding and options.token_order == "described":  # the released order moves patches by the length
        ids = ids[:, :int(ids.argmax(dim=1).max()) + 1]              # end-of-text has the highest id of the vocabulary
    return text_encoder(ids)

"""The one place where options become modules, and where another design of a part is registered."""
import difflib
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from model.baselines import ClipPrior, Everything
from model.clip.text_encoder import TextEmbedding, TextEncoder
from model.clip.tokenizer import Tokenizer
from model.clip.vision_transformer import VisionTransformer
from model.clip.weights import HEAD_WIDTH, ClipWeights, WeightsError, build_clip, build_text, build_vision, read_clip
from model.esda import CLIP_SCALE, ESDA
from model.image_encoder import ImageEncoder, LowRankBranch
from model.interactor import Interactor
from model.losses import TERMS, EsdaLosses
from model.mask_decoder import MaskDecoder
from model.plus.decoder import GuidedDecoder
from model.plus.interactor import SimilarityInteractor
from model.plus.plus import ESDAPlus
from model.plus.presence import PresenceHead
from model.plus.similarity import CHANNELS
from model.released import ReleasedESDA, ReleasedImageEncoder, ReleasedInteractor, ReleasedLosses


class Sizes(NamedTuple):
    """Of the CLIP that the parts are built around."""
    width: int        # C
    heads: int        # of the image encoder's blocks
    embed_dim: int    # D
    text_width: int   # W


def _interactor(sizes: Sizes, options) -> Interactor:
    arguments = (*sizes, options.interactor_layers, options.text_tokens)
    if options.token_order == "described" and options.mask_padding:
        return Interactor(*arguments)
    return ReleasedInteractor(*arguments, moves_tokens=options.token_order == "released",
                              hides_padding=options.mask_padding)


# Each table is one option of config section ``model``; its functions get that section and what else they need.
BRANCHES = {"low_rank": lambda width, options: LowRankBranch(width, options.branch_rank)}
INTERACTORS = {"esda": _interactor}
DECODERS = {
    "convolutions": lambda sizes, options: MaskDecoder(sizes.width, options.dropout, options.decoder_channels),
    "guided": lambda sizes, options: GuidedDecoder(sizes.width, options.dropout, options.decoder_channels,
                                                   options.guide_rounds),
}

TRAINED = ("esda", "plus")      # kinds of model that train.py trains
READINGS = {"clip_prior": "output", "maskclip": "value", "naclip": "kk", "clearclip": "qq"}  # of model/clip/dense.py


def build_esda(options, weights: ClipWeights) -> ESDA:
    """ESDA on the given CLIP. ``options``: the fields of config section ``model`` (see config/base.yaml)."""
    weights = weights.with_activation(options.activation, options.clip)
    branch = _registered("branch", BRANCHES, options) if options.branch_rank else None
    try:
        image_encoder = build_vision(
            weights, options.size, ReleasedImageEncoder if options.cls_twice else ImageEncoder,
            replace_indices=options.replace_indices, branch=branch and (lambda width: branch(width, options)),
            branch_indices=options.branch_indices, prior_indices=options.prior_indices)
    except ValueError as error:
        raise WeightsError(f"{error}; set it in the config for the CLIP in {options.clip}") from None
    if options.text_start == "clip":
        image_encoder.start_text_from_clip()
    width, embed_dim = image_encoder.proj.shape
    sizes = Sizes(width, image_encoder.transformer.resblocks[0].attn.heads, embed_dim,
                  weights.text["token_embedding.weight"].shape[1])
    interactor = _registered("interactor", INTERACTORS, options)(sizes, options)
    text_encoder, decoder = build_text(weights), _registered("decoder", DECODERS, options)(sizes, options)
    return (ReleasedESDA if options.align_corners else ESDA)(
        text_encoder, image_encoder, interactor, decoder, options.pixel_mean, options.pixel_std,
        CLIP_SCALE if weights.logit_scale is None else float(weights.logit_scale.exp()))


def build_plus(options, weights: ClipWeights) -> ESDAPlus:
    """ESDA+ on the given CLIP, options as for ``build_esda``. ``embed_classes`` then tells it the rivals."""
    branch = _registered("branch", BRANCHES, options) if options.branch_rank else None
    encoder, arguments = (ImageEncoder, {
        "replace_indices": options.replace_indices, "branch": branch and (lambda width: branch(width, options)),
        "branch_indices": options.branch_indices, "prior_indices": options.prior_indices
    }) if branch or options.replace_indices else (VisionTransformer, {})
    try:
        image_encoder = build_vision(weights, options.size, encoder, **arguments)
    except ValueError as error:
        raise WeightsError(f"{error}; set it in the config for the CLIP in {options.clip}") from None
    if options.replace_indices and options.text_start == "clip":
        image_encoder.start_text_from_clip()
    elif branch and not options.replace_indices:
        image_encoder.text_proj = None  # no text enters this encoder
    encoder_width, embed_dim = image_encoder.proj.shape
    width = options.interactor_width or encoder_width
    if width % HEAD_WIDTH or width > encoder_width:
        raise WeightsError(f"model.interactor_width={width} should be a multiple of {HEAD_WIDTH}, the width of a head, "
                           f"and at most the image encoder's {encoder_width}")
    channels = tuple(CHANNELS.index(name) for name in options.channels)
    interactor = SimilarityInteractor(encoder_width, width, width // HEAD_WIDTH, len(options.maps) * len(channels),
                                      options.map_kernel, options.interactor_layers)
    sizes = Sizes(width, width // HEAD_WIDTH, embed_dim, weights.text["token_embedding.weight"].shape[1])
    return ESDAPlus(build_text(weights), image_encoder, interactor,
                    _registered("decoder", DECODERS, options)(sizes, options), options.pixel_mean,
                    options.pixel_std, CLIP_SCALE if weights.logit_scale is None else float(weights.logit_scale.exp()),
                    readings=tuple(options.maps), channels=channels, scale=options.map_scale,
                    rival_drop=options.rival_drop, presence_head=PresenceHead(width) if options.presence_head else None)


def build_losses(model: ESDA, loss, options) -> EsdaLosses:
    """The losses of ``model``. ``loss`` and ``options``: config sections ``loss`` and ``model``."""
    weights = {name: 1.0 if term.weight is None else getattr(loss, term.weight) for name, term in TERMS.items()}
    if not options.presence_head:
        weights["presence"] = 0.0
    last = {len(model.image_encoder.transformer.resblocks) - 1}
    for name, blocks in (("last", last), ("others", model.prior_indices - last)):
        if not blocks & model.prior_indices:
            weights[name] = 0.0
    switches = {"reversed_sign": loss.sign == "released", "ignored_as_background": loss.ignored == "background",
                "align_corners": options.align_corners}
    if any(switches.values()):
        return ReleasedLosses(weights, **switches, temperature=loss.temperature)
    return EsdaLosses(weights, loss.temperature)


def build_model(options, weights: ClipWeights | None = None) -> tuple[nn.Module, ClipWeights]:
    """The model that ``options.kind`` names, and the CLIP weights it stands on: the given ones, or those of
    ``options.clip``. Raises WeightsError."""
    weights = (weights or read_clip(options.clip)).with_activation(options.activation, options.clip)
    if options.kind == "esda":
        return build_esda(options, weights), weights
    if options.kind == "plus":
        return build_plus(options, weights), weights
    clip = build_clip(weights, options.size).requires_grad_(False)
    if options.kind in READINGS:
        return ClipPrior(clip, options.prior_threshold, options.pixel_mean, options.pixel_std,
                         READINGS[options.kind]), weights
    model = Everything()
    model.text_encoder = clip.text
    return model, weights


def _registered(option: str, table: dict, options):
    name = getattr(options, option)
    if name not in table:
        near = difflib.get_close_matches(name, table, 1, 0)
        raise WeightsError(f"model.{option}={name!r} is none of {', '.join(table)}; did you mean {near[0]!r}?")
    return table[name]


def embed_classes(model: nn.Module, names: list[str], seen: tuple[int, ...], options) -> TextEmbedding:
    """``embed_names`` of a data set's classes, class id = place + 1.

    ESDA+ is told its rivals on the way: of all these names those of the ``seen`` ids alone, and the background words.
    """
    text = embed_names(model.text_encoder, names, options)
    if isinstance(model, ESDAPlus):
        rivals = [text.cls[[i - 1 for i in seen if options.rivals == "seen"]]]
        if options.background_words:
            rivals.append(embed_names(model.text_encoder, options.background_words, options).cls)
        model.set_rivals(torch.cat(rivals))
    return text


@cache
def tokenizer() -> Tokenizer:
    """The one of all names: it takes a quarter of a second to make, and remembers the words it has met."""
    return Tokenizer()


@torch.no_grad()
def embed_names(text_encoder: TextEncoder, names: list[str], options) -> TextEmbedding:
    """The embeddings of all class names, computed once and kept; row = place in ``names``.

    options: config section ``model``. Where attention ignores padding, only as many positions are kept as the longest
    name has. The text encoder looks backwards only, so this changes nothing but the time it takes.
    """
    texts = [options.prompt.format(options.same_word or name) for name in names]
    try:
        ids = tokenizer()(texts, text_encoder.context_length)
    except ValueError as error:
        raise WeightsError(f"model.prompt: {error}") from None
    if options.mask_padding and options.token_order == "described":  # the released order moves patches by the length
        ids = ids[:, :int(ids.argmax(dim=1).max()) + 1]              # end-of-text has the highest id of the vocabulary
    try:
        return text_encoder(ids)
    except IndexError:
        raise WeightsError(f"{options.clip}: the text encoder knows {text_encoder.token_embedding.num_embeddings:,} "
                           f"tokens, and CLIP's tokenizer has {int(ids.max()) + 1:,}; give OpenAI's weights or others "
                           f"with that tokenizer") from None

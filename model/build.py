"""Factory: the one place where options become modules."""
from functools import cache

import torch

from model.baselines import ClipPrior, Everything
from model.clip.text_encoder import TextEmbedding, TextEncoder
from model.clip.tokenizer import Tokenizer
from model.clip.weights import HEAD_WIDTH, ClipWeights, WeightsError, build_text, build_vision, read_clip
from model.esda import ESDA, NamedSegmenter
from model.image_encoder import ImageEncoder
from model.interactor import Interactor
from model.losses import TERMS, EsdaLosses
from model.mask_decoder import MaskDecoder
from model.peers.catseg import CATSeg
from model.peers.clipseg import CLIPSeg
from model.peers.lseg import LSeg
from model.peers.zegclip import ZegCLIP
from model.plus.pamr import GuidedDecoder
from model.plus.plus import AffinityInteractor, ESDAPlus, PresenceHead, SimilarityInteractor
from model.released import ReleasedESDA, ReleasedImageEncoder, ReleasedInteractor, ReleasedLosses
from model.rivals import Comparing

DECODERS = {"convolutions": MaskDecoder, "guided": GuidedDecoder}   # option model.decoder: (width, channels) -> module
tokenizer = cache(Tokenizer)    # one for all names, which remembers the words it has met
OTHERS = "others"       # LSeg's label of all that a name does not fit
READINGS = {  # of model/clip/dense.py
    "clip_prior": "output", "maskclip": "value", "naclip": "kk", "clearclip": "qq", "decomposed": "cls"}


def build_model(cfg, weights: ClipWeights | None = None) -> NamedSegmenter:
    """Build ``cfg.model.kind``; weights None: of ``cfg.model.clip``. Raises WeightsError if unreadable or unfitting."""
    options = cfg.model
    weights = weights or read_clip(options.clip, options.activation)
    if options.kind == "esda":
        return _build_esda(options, weights)
    image_encoder = build_vision(weights, options.size)
    if options.kind == "plus":
        return _build_plus(cfg, weights, image_encoder)
    clip = _clip(options, weights, image_encoder)
    if options.kind == "everything":
        return Everything(*clip)
    return ClipPrior(*clip, reading=READINGS[options.kind]) if options.kind in READINGS else _build_peer(cfg, clip)


def _clip(options, weights: ClipWeights, image_encoder) -> tuple:
    """Return the arguments of NamedSegmenter."""
    return build_text(weights), image_encoder, options.pixel_mean, options.pixel_std, float(weights.logit_scale.exp())


def _build_esda(options, weights: ClipWeights) -> ESDA:
    image_encoder = build_vision(
        weights, options.size, ReleasedImageEncoder if options.cls_twice else ImageEncoder,
        replace_indices=options.replace_indices, branch_rank=options.branch_rank)
    blocks = image_encoder.transformer.resblocks
    _require_blocks("model.replace_indices", options.replace_indices, image_encoder, options.clip)
    if options.text_start == "clip":
        image_encoder.start_text_from_clip()
    width, embed_dim = image_encoder.proj.shape
    sizes = (width, blocks[0].attn.heads, embed_dim, weights.text["token_embedding.weight"].shape[1],
             options.interactor_layers, options.text_tokens)
    if options.token_order == "described" and options.mask_padding:
        interactor = Interactor(*sizes)
    else:
        interactor = ReleasedInteractor(*sizes, moves_tokens=options.token_order == "released",
                                        hides_padding=options.mask_padding)
    return (ReleasedESDA if options.align_corners else ESDA)(
        *_clip(options, weights, image_encoder), interactor=interactor,
        decoder=DECODERS[options.decoder](width, options.decoder_channels))


def _build_plus(cfg, weights: ClipWeights, image_encoder) -> ESDAPlus:
    options, encoder_width = cfg.plus, len(image_encoder.proj)
    width = options.width or encoder_width
    if width % HEAD_WIDTH or width > encoder_width:
        raise WeightsError(f"plus.width={width} should be a multiple of {HEAD_WIDTH}, the width of a head, and at most "
                           f"the image encoder's {encoder_width}")
    sizes = (width, width // HEAD_WIDTH, len(options.maps) * len(options.channels), cfg.model.interactor_layers)
    interactor = (AffinityInteractor(*sizes) if options.patches == "affinity" else
                  SimilarityInteractor(encoder_width, *sizes))
    return ESDAPlus(*_clip(cfg.model, weights, image_encoder), interactor=interactor,
                    decoder=DECODERS[cfg.model.decoder](width, cfg.model.decoder_channels), readings=options.maps,
                    channels=options.channels, scale=options.scale,
                    presence_head=PresenceHead(width) if options.presence_head else None)


def _build_peer(cfg, clip: tuple) -> NamedSegmenter:
    kind, peers, (text_encoder, image_encoder) = cfg.model.kind, cfg.peers, clip[:2]
    if kind == "zegclip":
        return ZegCLIP(*clip, prompts=peers.prompts)
    _require_blocks("peers.blocks", peers.blocks, image_encoder, cfg.model.clip)
    if kind == "lseg":
        return LSeg(*clip, others=embed_names(text_encoder, [OTHERS], cfg.model).cls, blocks=peers.blocks,
                    width=peers.width)
    if kind == "clipseg":
        return CLIPSeg(*clip, blocks=peers.blocks, width=peers.width)
    return CATSeg(*clip, blocks=peers.blocks, width=peers.width, names=peers.names)


def _require_blocks(option: str, blocks: list[int], image_encoder, file: str) -> None:
    count = len(image_encoder.transformer.resblocks)
    if max(blocks, default=0) >= count:
        raise WeightsError(f"{option}={blocks}: the image encoder in {file} has blocks 0 to {count - 1}")


def build_losses(model: NamedSegmenter, cfg) -> EsdaLosses:
    """Build the losses of ``model``: those of TERMS whose inputs it has, weighted as ``cfg.loss`` says."""
    weights = {name: getattr(cfg.loss, term.weight) if isinstance(term.weight, str) else term.weight
               for name, term in TERMS.items()}
    if not isinstance(model, ESDA):
        weights["last"] = weights["others"] = 0.0   # other models' maps are not what is trained
    if not getattr(model, "presence_head", None):
        weights["presence"] = 0.0
    released = cfg.loss.sign == "released", cfg.loss.ignored == "background", cfg.model.align_corners
    return ReleasedLosses(weights, *released) if any(released) else EsdaLosses(weights)


def embed_classes(model: NamedSegmenter, names: list[str], seen: tuple[int, ...], cfg) -> TextEmbedding:
    """Embed a data set's classes, id = place + 1; the rivals of a model that has some are those of the ``seen`` ids."""
    text = embed_names(model.text_encoder, names, cfg.model)
    if isinstance(model, Comparing):
        model.set_rivals(text.cls[[i - 1 for i in seen if cfg.plus.rivals == "seen"]])
    return text


@torch.no_grad()
def embed_names(text_encoder: TextEncoder, names: list[str], options) -> TextEmbedding:
    """Embed all class names; row = place in ``names``. options: config section ``model``.

    Where attention ignores padding, positions beyond the longest name are cut; the text encoder is causal, so this does
    not change embeddings. Raises WeightsError for a prompt that is too long.
    """
    texts = [options.prompt.format(options.same_word or name) for name in names]
    ids = tokenizer()(texts, text_encoder.context_length)
    if options.mask_padding and options.token_order == "described":  # the released order moves patches by the length
        ids = ids[:, :int(ids.argmax(dim=1).max()) + 1]              # end-of-text has the highest id of the vocabulary
    return text_encoder(ids)

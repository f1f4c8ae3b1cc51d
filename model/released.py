"""The tensor names of the authors' released checkpoints and ours, one to one.

The released module tree is another cut of the same model: what it calls the decoder is our interactor and mask decoder.
"""
import re

import torch
from torch import Tensor

from model.clip.text_encoder import TextEncoder
from model.clip.weights import HEAD_WIDTH, WeightsError, depth, differences
from model.esda import ESDA
from model.image_encoder import ImageEncoder
from model.interactor import Interactor
from model.mask_decoder import MaskDecoder

PARTS = (  # (ours, theirs); where both start a name, the longer comes first
    ("image_encoder.text_proj.", "image_encoder.text_cls_proj."),
    ("image_encoder.", "image_encoder."),                 # CLIP's `visual.` names
    ("text_encoder.", "text_encoder."),                   # CLIP's other names
    ("interactor.cls_proj.", "decoder.text_embedding_proj."),    # theirs serves cls and tokens: both are D wide there
    ("interactor.fuse_proj.", "decoder.text_img_concat_proj."),
    ("interactor.vl.", "decoder.VL_interaction."),
    ("interactor.iee.", "decoder.IEE."),
    ("interactor.sse.", "decoder.SSE."),
    ("decoder.res.", "decoder.res2."),
    ("decoder.cls.", "decoder.cls."),
)


def released_name(name: str) -> str | None:
    """Our name to theirs; None where their format has no place for it."""
    branch = re.fullmatch(r"image_encoder\.branches\.(\d+)\.(down|up)", name)
    if branch:  # theirs is one list: A of block 0, B of block 0, A of block 1, ...
        return f"image_encoder.prompt.{2 * int(branch[1]) + (branch[2] == 'up')}"
    return next((theirs + name[len(ours):] for ours, theirs in PARTS if name.startswith(ours)), None)


def our_name(name: str) -> str | None:
    """Their name to ours; None where it starts like none of theirs."""
    prompt = re.fullmatch(r"image_encoder\.prompt\.(\d+)", name)
    if prompt:
        block, second = divmod(int(prompt[1]), 2)
        return f"image_encoder.branches.{block}.{'up' if second else 'down'}"
    return next((ours + name[len(theirs):] for ours, theirs in PARTS if name.startswith(theirs)), None)


def from_released(state: dict[str, Tensor], where) -> dict[str, Tensor]:
    """A released state dict, its names with or without a leading ``module.``, under our names; the tensors as they are.

    Raises WeightsError that names every tensor which is missing, superfluous or of another shape.
    """
    if all(name.startswith("module.") for name in state):  # of DataParallel
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    ours = {our_name(name): tensor for name, tensor in state.items()}
    expected = _described(ours, where, every_block=True)
    _complain(differences({released_name(name): tensor for name, tensor in expected.items()}, state), where)
    return ours


def to_released(state: dict[str, Tensor], where) -> dict[str, Tensor]:
    """The inverse of :func:`from_released`; raises WeightsError for a model that the released format cannot hold."""
    foreign = sorted(name for name in state if released_name(name) is None)
    if foreign:
        raise WeightsError(f"{where}: the released format has no place for {', '.join(foreign)}; its one Linear serves "
                           f"the text's cls and tokens, which here differ in width")
    out = {released_name(name): tensor for name, tensor in state.items()}
    from_released(out, where)  # nor has it one for a model with branches at some blocks only
    return out


def check(state: dict[str, Tensor], where) -> None:
    """Raise WeightsError, naming each difference, unless these are all tensors of one ESDA under our names."""
    _complain(differences(_described(state, where), state), where)


def _complain(found: str, where) -> None:
    if found:
        raise WeightsError(f"{where}: not the tensors of one ESDA: {found}")


def _described(state: dict[str | None, Tensor], where, every_block: bool = False) -> dict[str, Tensor]:
    """The state dict, without values, of the ESDA whose sizes the tensors of ``state`` (our names) tell.

    every_block: a branch beside one block means one beside each.
    """
    visual, text, interactor = ({name.removeprefix(prefix): tensor for name, tensor in state.items()
                                 if name and name.startswith(prefix)}
                                for prefix in ("image_encoder.", "text_encoder.", "interactor."))
    down = {int(name.split(".")[1]): tensor for name, tensor in visual.items()
            if re.fullmatch(r"branches\.\d+\.down", name)}
    layers = {name.split(".")[1] for name in interactor if name.startswith("vl.")}
    try:
        width, _, patch, _ = visual["conv1.weight"].shape
        grid = round((len(visual["positional_embedding"]) - 1) ** 0.5)
        embed_dim = visual["proj"].shape[1]
        vocabulary, text_width = text["token_embedding.weight"].shape
        length = len(text["positional_embedding"])
        blocks = range(depth(visual))
        branches = blocks if down and every_block else [block for block in down if block in blocks]
        rank = next(iter(down.values())).shape[1] if down else 0
        with torch.device("meta"):  # shapes only
            image_encoder = ImageEncoder(grid * patch, patch, width, depth(visual), width // HEAD_WIDTH, embed_dim,
                                         replace_indices=(), branch_indices=branches, branch_rank=rank)
            model = ESDA(TextEncoder(vocabulary, length, text_width, depth(text), text_width // HEAD_WIDTH, embed_dim),
                         image_encoder,
                         Interactor(width, width // HEAD_WIDTH, embed_dim, text_width, len(layers),
                                    text_tokens="token_proj.weight" in interactor),
                         MaskDecoder(width), [0.0] * 3, [1.0] * 3)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"{where}: not the tensors of one ESDA: missing or odd {error}") from None
    return model.state_dict()

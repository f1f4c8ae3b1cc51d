"""Every option of the project: its type, default, bounds and reason, each declared once.

    python -m util.config > config/base.yaml      after a change here: the same page as a config file

A type lists the choices of an option that has some. util/config.py reads configs and the command line into these
classes and rejects what is unknown, of another type or out of bounds. The defaults are the method as the paper
describes it, on CLIP ViT-B/16 at 480 px.
"""
from dataclasses import MISSING, dataclass, field
from typing import Literal, NamedTuple

from util.runtime.errors import UserError


def option(default=MISSING, help: str = "", *, least: float | None = None, most: float | None = None,
           length: int | None = None, numbers: bool = True):
    """Declare one option.

    default: MISSING where every config has to set it.
    least, most: bounds, both allowed values; of each item where the option is a list. length: of a list.
    numbers: whether another value gives other losses, weights or scores (by more than rounding). A run may be resumed
        with, and util.compare may average over, other values of an option that changes no number.
    """
    about = {"help": help, "least": least, "most": most, "length": length, "numbers": numbers}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=about)
    return field(default=default, metadata=about)


@dataclass
class Data:
    """images, masks and classes"""
    root: str = option("data/sets/pascal", "images and masks lie here, named by the lists", numbers=False)
    classes: str = option("lists/pascal/classes.yaml", "class names in order of their ids, and the folds")
    train_list: str = option("lists/pascal/train.txt", 'lines "image mask", relative to root; empty: a set to test on '
                             "alone")
    val_list: str = option("lists/pascal/val.txt", "likewise, of the images to test on")
    min_pixels: int = option(
        2048, "2 x 32 x 32: a class counts as present from this area at the original size on (PFENet, BAM)", least=1)
    train_classes: Literal["seen", "ignore", "all"] = option(
        "seen", "seen: images with any unseen class are left out of training (PFENet, BAM, ESDA); ignore: they stay "
        "and the unseen classes' pixels are ignored; all: the supervised ceiling")
    names: Literal["words", "annotation", "synonyms"] = option(
        "words", "words: the names of the classes' file, as captions would have them; annotation: its annotation_names "
        'where it has them, as the released code ("diningtable", "tvmonitor"); synonyms: likewise, other words for the '
        "same things")
    workers: int = option(4, "loader processes (of each process of NPROC); only the speed depends on it",
                          least=0, numbers=False)


@dataclass
class Augment:
    """ESDA's training augmentation, in this order; data/transform.py has its probabilities"""
    scale: list[float] = option([0.9, 1.1], "factor, drawn evenly", least=0.01, most=10, length=2)
    rotate: float = option(10.0, "degrees either way", least=0)
    blur: int = option(5, "px, side of the Gaussian kernel", least=1)


@dataclass
class Model:
    """CLIP and what ESDA adds to it"""
    kind: Literal["esda", "plus", "lseg", "clipseg", "zegclip", "catseg", "clip_prior", "maskclip", "naclip",
                  "clearclip", "decomposed", "everything"] = option(
        "esda", "esda; plus: ESDA+ (docs/plus.md); lseg, clipseg, zegclip, catseg: other papers' heads "
        "(docs/peers.md); without training: clip_prior, maskclip, naclip, clearclip, decomposed, everything "
        "(model/baselines.py)")
    clip: str = option("weights/ViT-B-16.pt", "CLIP's weights in any format of model/clip/weights.py. Only the place: "
                       "runs know the weights themselves by a fingerprint", numbers=False)
    activation: Literal["auto", "quickgelu", "gelu"] = option(
        "auto", "of CLIP's own blocks: quickgelu (OpenAI's weights), gelu (most of OpenCLIP's), or auto: what the file "
        "or the config.json beside it tells; a run stops where neither does (docs/extend.md)")
    size: int = option(480, "px, side of the square input; a multiple of the patch size", least=1, most=4096)
    pixel_mean: list[float] = option(
        [0.48145466, 0.4578275, 0.40821073],
        "RGB in 0..1, those CLIP was trained with (OpenAI CLIP, clip.py); the released ESDA has ImageNet's",
        least=0, most=1, length=3)
    pixel_std: list[float] = option([0.26862954, 0.26130258, 0.27577711], "likewise", least=0.001, length=3)
    prompt: str = option("a photo of a {}",
                         'template of a class name (paper, figure 2); "{}" in the released code, the bare name')
    same_word: str = option("", "if given, stands for every name, in training and testing: the floor without text")
    text_start: Literal["random", "clip"] = option(
        "random", "t's Linear at the start: random (torch's default, as released), or clip: CLIP's own projection")
    replace_indices: list[int] = option(
        [2, 3, 4], "blocks on entry to which [CLS] becomes the text (ClsCLIP), counted from 0", least=0)
    branch_rank: int = option(2, "rank r of the trainable low-rank branch beside each block; 0: no branches", least=0)
    cls_twice: bool = option(False, "true: the class embedding is added to [CLS] twice, as the released code does")
    interactor_layers: int = option(2, "layers of the vision-language embedding interactor; plus: its blocks", least=1)
    token_order: Literal["described", "released"] = option(
        "described", "described: each patch keeps its place; released: a layer hands on [patch, semantic], but the "
        "next and the read-out take the last n tokens for patches. With 2 layers, 900 patches and 79 semantic tokens "
        "no place of the map read out holds its own patch")
    text_tokens: bool = option(True, "the tokens of the whole text take part in it; false: only the text's cls")
    mask_padding: bool = option(
        True, "positions after end-of-text are hidden from attention; false in the released code")
    align_corners: bool = option(
        False, "torch's, where logits and similarity maps are upsampled and masks are resized for the prototypes; true "
        "in the released code. Of the position embedding it is false in either")
    decoder: Literal["convolutions", "guided"] = option(
        "convolutions", "the mask decoder: convolutions as described, or guided by the image (model/plus/pamr.py)")
    decoder_channels: int = option(256, "of its first convolution; the two further ones have a half and a quarter",
                                   least=4)


@dataclass
class Plus:
    """ESDA+ (docs/plus.md), for model.kind=plus"""
    maps: list[Literal["output", "value", "kk", "qq", "cls"]] = option(
        ["output", "value"], "CLIP's similarity maps, readings of its last block (model/clip/dense.py); the first "
        "one's lead is the prior")
    channels: list[Literal["raw", "standardised", "lead"]] = option(
        ["raw", "standardised", "lead"], "what is read of each map (model/plus/plus.py)")
    patches: Literal["tokens", "affinity"] = option(
        "tokens", "what is read of CLIP's patches beside the maps: their tokens, or only who looks like whom, by which "
        "each map is averaged once more. Tokens tell which things had masks in training (docs/emoji.md)")
    scale: float = option(3.0, "by which cosines, and their lead over a rival, enter the network", least=0)
    rivals: Literal["seen", "none"] = option(
        "seen", "names that each name is compared with: those of the fold's seen classes, or none. Never other unseen "
        "names")
    width: int = option(0, "of the interactor's blocks, a multiple of 64; 0: that of the image encoder", least=0)
    presence_head: bool = option(
        False, "a head of its own says whether the named thing is there at all; train.absent_names then train it and "
        "the interactor that it reads, and the mask's loss leaves them out (model/plus/plus.py)")


@dataclass
class Peers:
    """other papers' heads (docs/peers.md)"""
    width: int = option(64, "channels of the head, a multiple of 64: CLIPSeg has 64, CAT-Seg 128, LSeg 256", least=64)
    blocks: list[int] = option([3, 6, 9], "blocks of CLIP's image encoder, from 0, whose tokens are read: four for "
                               "lseg, two for catseg", least=0)
    prompts: int = option(10, "zegclip: learned tokens in every block", least=0)
    names: int = option(8, "catseg: at most so many names beside each other, the one asked for and those seen names "
                        "that CLIP finds most in the image", least=1)


@dataclass
class Loss:
    """total = mask + last * (last block's map) + others * (mean over the other blocks' maps)"""
    last: float = option(0.2, "weight of the last block's similarity map", least=0)
    others: float = option(0.1, "weight of the other blocks' maps", least=0)
    sign: Literal["described", "released"] = option(
        "described", "described: a map s is read as logits [1 - s, s]; released: [s, 1 - s] while label 1 is "
        "foreground, which lowers the similarity on the foreground")
    ignored: Literal["ignore", "background"] = option(
        "ignore", "ignore: label 255 counts nowhere; background: it trains as 0, padding included, because the "
        "released code writes 0 over it while it builds the prototypes. Training only")


@dataclass
class Train:
    """the recipe"""
    epochs: int = option(200, "at most; the poly schedule runs over all of them", least=1)
    epoch_samples: int = option(0, "samples an epoch; 0: every training image once", least=0)
    batch_size: int = option(8, "images an iteration, over all processes", least=1)
    micro_batch: int = option(
        0, "images at once; 0: all that a process has of the batch. Fewer take less memory and more time, and change "
        "numbers by rounding only", least=0, numbers=False)
    checkpoint_blocks: bool = option(
        False, "true: a block's activations are computed again in backward instead of kept: less memory, more time, "
        "the same numbers", numbers=False)
    optimizer: Literal["sgd", "adamw", "muon"] = option(
        "sgd", "sgd as published; adamw; muon: Muon for the blocks' matrices, AdamW for the rest")
    lr: float = option(5e-4, "the rate actually taken: the published base_lr 5e-5 times 10 (released index_split: -1)",
                       least=0)
    muon_lr: float = option(5e-3, "muon: the rate of the matrices, beside lr for the rest", least=0)
    weight_decay: float = option(1e-4, "decoupled from the gradient with adamw and muon", least=0)
    warmup: int = option(0, "iterations of linear warm-up", least=0)
    clip_grad: float = option(0.0, "largest gradient norm; 0: unlimited, as published", least=0)
    text_noise: float = option(
        0.0, "Gaussian noise on the text that the interactor reads in training, as a share of its length; not "
        "published: keeps few seen names from being learned by heart", least=0)
    absent_names: float = option(
        0.0, "share of the training samples that ask for a seen class which the image does not show, target empty "
        "(CLIPSeg, Lueddecke 2022); 0 as published", least=0, most=1)
    patience: int = option(75, "epochs without a better mIoU, unseen or seen as `select` says, until training stops",
                           least=1)
    select: Literal["unseen", "seen", "last"] = option(
        "unseen", "the epoch of the final test: unseen, best by unseen-class mIoU, as the field does; seen, best on "
        "held-out images of seen classes, no unseen mask used; last, never stopped early. A run keeps the epochs of "
        "all three and its results name the one tested", numbers=False)


@dataclass
class Eval:
    """how a model is scored"""
    protocol: Literal["exhaustive", "episodic", "generalised"] = option(
        "episodic", "episodic: `samples` draws round the test list (what papers print); exhaustive: every image and "
        "present class once; generalised: one label a pixel out of background and all classes (epochs are then chosen "
        "by the exhaustive score)")
    samples: int = option(1000, "episodic only", least=1)
    seed: int = option(321, "of the episodic draw", least=0, most=2**63 - 1)
    draws: int = option(1, "episodic: how many draws are scored, with seeds `seed`, seed + 1, ...; mean and deviation",
                        least=1)
    manifest: str = option("", "a file that python -m data.samples made: these samples, whatever the protocol says")
    batch_size: int = option(8, "images that the loader hands over at once; on a CPU in fp32 fewer may be computed at "
                             "once", least=1, numbers=False)
    fit: Literal["described", "cut", "released"] = option(
        "described", "described: the longer side to `size`, the rest filled with the mean colour and cut off again; "
        "cut: the same, but patches of that filling stay out of the network, a quarter of the work at 500x375; "
        "released: both sides floored to multiples of 8, the rest black, and the whole square resized (align_corners) "
        "to one of the longer original side (PFENet, BAM)")
    flip: bool = option(False, "final test: logits, and presence, of the image and of its mirror image are averaged")
    refine: int = option(
        0, "final test: rounds in which pixels that look alike share their logits, so that borders follow the image "
        "(PAMR; NACLIP, too, takes 10); 0: none. Gain: docs/plus.md", least=0)
    seen_samples: int = option(
        200, "pairs of held-out images and seen classes, evenly spaced, scored beside unseen ones; 0: none", least=0)
    name_check: bool = option(
        False, "final test: AUC of the name and score under an absent name (a second pass)", numbers=False)


@dataclass
class Config:
    """Every option of train.py and test.py."""
    dataset: str = option("pascal", "name of the data set in output paths and results")
    arch: str = option("esda", "name of the configuration in output paths and results")
    fold: int = option(0, "0..3: which classes are unseen (data/folds.py)", least=0)
    seed: int = option(321, "of weights, sampling and augmentation; the released code's", least=0, most=2**32 - 1)
    device: str = option("auto", "auto (CUDA where there is one, else the CPU), cpu, cuda, cuda:1", numbers=False)
    precision: Literal["auto", "fp32", "tf32", "bf16"] = option(
        "fp32", "fp32 as published; tf32 (CUDA: products of fp32 numbers in 10 bits); bf16 (autocast); auto: bf16 "
        "where the hardware has it")
    compile: bool = option(False, "true: torch.compile of the transformer blocks, for a GPU; on a CPU it gains nothing",
                           numbers=False)
    exp: str = option("exp", "runs live in EXP/DATASET/ARCH/foldK/RUN/", numbers=False)
    run: str = option("", "name of the run's folder; empty: the time it started", numbers=False)
    resume: str = option("", "a run's folder (or its checkpoints/last.pt) to go on with, by its own options where no "
                         "--config is given. Others may be those that change no number, and more train.epochs. auto: "
                         "the run that is named by run=, if it has a checkpoint; else it starts", numbers=False)
    dry_run: bool = option(False, "true: check data, weights, device and disk, count and predict from a few steps what "
                           "the run would take, and train nothing", numbers=False)
    weights: str = option("", "test.py: the checkpoint to evaluate; train.py: one to start from (fine-tuning)")
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    plus: Plus = field(default_factory=Plus)
    peers: Peers = field(default_factory=Peers)
    loss: Loss = field(default_factory=Loss)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)

    def __post_init__(self):
        for problem, found in _problems(self).items():
            if found:
                raise UserError(problem)


def _problems(cfg: Config) -> dict[str, bool]:
    """{what a value should be or does not go with: whether that is so}."""
    model, plus, test, around = cfg.model, cfg.plus, cfg.eval, cfg.model.prompt.split("{}")
    return {
        **{f"{key}={name!r} names a folder of EXP/DATASET/ARCH/foldK/RUN/: one name without '/'":
           "/" in name or name in (".", "..") or not name and key != "run"
           for key, name in (("dataset", cfg.dataset), ("arch", cfg.arch), ("run", cfg.run))},
        f"augment.blur={cfg.augment.blur} should be odd, as the side of a kernel is": cfg.augment.blur % 2 == 0,
        f"model.prompt={model.prompt!r} should hold {{}} once, where the class name goes":
            len(around) != 2 or bool(set("{}") & set("".join(around))),
        "model.align_corners=true: the guided decoder has logits on no patch grid to align; set it to false, or "
        "model.decoder=convolutions": model.align_corners and model.decoder == "guided",
        **{f"plus.{key}={given} should name at least one, and each once": not given or len(set(given)) < len(given)
           for key, given in (("maps", plus.maps), ("channels", plus.channels))},
        f"peers.width={cfg.peers.width} should be a multiple of 64": bool(cfg.peers.width % 64),
        f"peers.blocks={cfg.peers.blocks} should name {BLOCKS_READ.get(model.kind)} blocks for {model.kind}, in order":
            model.kind in BLOCKS_READ and
            (len(cfg.peers.blocks) != BLOCKS_READ[model.kind] or sorted(set(cfg.peers.blocks)) != cfg.peers.blocks),
        "plus.presence_head learns from absent names; set train.absent_names above 0, or plus.presence_head=false":
            model.kind == "plus" and plus.presence_head and not cfg.train.absent_names,
        "eval.flip and eval.refine are for protocols that look for one name at a time; leave them away with "
        "eval.protocol=generalised": test.protocol == "generalised" and bool(test.flip or test.refine)}

ESDA, OURS = ("esda",), ("esda", "plus")
BLOCKS_READ = {"lseg": 4, "clipseg": 3, "catseg": 2}    # of CLIP, by the kinds of model that read some
TRAINED = (*OURS, *BLOCKS_READ, "zegclip")
READ_BY = {  # an option, or all of a section: the kinds of model that read it; every kind reads the others
    "model.text_start": ESDA, "model.replace_indices": ESDA, "model.branch_rank": ESDA, "model.cls_twice": ESDA,
    "model.token_order": ESDA, "model.text_tokens": ESDA, "model.align_corners": ESDA, "loss.last": ESDA,
    "loss.others": ESDA, "loss.sign": ESDA, "train.text_noise": ESDA, "model.interactor_layers": OURS,
    "model.decoder": OURS, "model.decoder_channels": OURS, "plus": ("plus",), "peers.prompts": ("zegclip",),
    "peers.names": ("catseg",), "peers": tuple(BLOCKS_READ),
}


def unread(name: str, cfg: Config) -> str:
    """The option that has to be set so that ``cfg`` reads the option ``name`` ("model.decoder"); "" if it reads it."""
    kinds = READ_BY.get(name, READ_BY.get(name.partition(".")[0]))
    if kinds and cfg.model.kind not in kinds:
        return f"model.kind={' or '.join(kinds)}"
    if name in ("eval.samples", "eval.draws") and cfg.eval.protocol != "episodic":
        return "eval.protocol=episodic"
    return ""


class Selection(NamedTuple):
    """A rule by which an epoch is chosen for the final test (``train.select``)."""
    words: str          # as results and logs say it
    file: str           # the epoch's weights, in the run's checkpoints/
    score: str | None   # of an epoch's scores, the one that is to be highest


SELECTIONS = {
    "unseen": Selection("best epoch by unseen-class mIoU", "best.pt", "miou"),
    "seen": Selection("best epoch by mIoU on held-out images of seen classes", "best_seen.pt", "seen_miou"),
    "last": Selection("last epoch", "last.pt", None),
}

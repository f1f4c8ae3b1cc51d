"""Every option of the project: its type, default, bounds and reason, each declared once.

    python -m util.config > config/base.yaml      after a change here: the same page as a config file

A type lists the choices of an option that has some. util/config.py reads configs and the command line into these
classes and rejects what is unknown, of another type or out of bounds. The defaults are the method as the paper
describes it, on CLIP ViT-B/16 at 480 px.
"""
import string
from dataclasses import MISSING, dataclass, field, fields
from typing import Literal

from util.runtime.errors import UserError


def option(default=MISSING, help: str = "", *, least: float | None = None, most: float | None = None,
           length: int | None = None, numbers: bool = True, before=MISSING, kinds: tuple[str, ...] = ()):
    """Declare one option.

    default: MISSING where every config has to set it.
    least, most: bounds, both allowed values; of each item where the option is a list. length: of a list.
    numbers: whether another value gives other losses, weights or scores (by more than rounding). A run may be resumed
        with, and util.compare may average over, other values of an option that changes no number.
    before: the value for runs that were saved before the option existed, where that is not the default.
    kinds: the values of model.kind that read it; empty: all.
    """
    about = {"help": help, "least": least, "most": most, "length": length, "numbers": numbers,
             "before": default if before is MISSING else before, "kinds": kinds}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=about)
    return field(default=default, metadata=about)


PLUS, ESDA, TRAINED = ("plus",), ("esda",), ("esda", "plus")
CLIP_ALONE = ("clip_prior", "maskclip", "naclip", "clearclip")


@dataclass
class Data:
    """images, masks and classes"""
    root: str = option("data/sets/pascal", "images and masks lie here, named by the lists", numbers=False)
    classes: str = option("lists/pascal/classes.yaml", "class names in order of their ids, and the folds")
    folds: Literal["file", "contiguous", "interleaved"] = option(
        "file", "as the classes' file says, or contiguous, or interleaved")
    train_list: str = option("lists/pascal/train.txt", 'lines "image mask", relative to root; empty: a set to test on '
                             "alone")
    val_list: str = option("lists/pascal/val.txt", "likewise, of the images to test on")
    min_pixels: int = option(
        2048, "2 x 32 x 32: a class counts as present from this area at the original size on (PFENet, BAM)",
        least=1, most=2**31 - 1)
    train_classes: Literal["seen", "ignore", "all"] = option(
        "seen", "seen: images with any unseen class are left out of training (PFENet, BAM, ESDA); ignore: they stay "
        "and the unseen classes' pixels are ignored; all: the supervised ceiling")
    names: Literal["words", "annotation"] = option(
        "words", "words: the names of the classes' file, as captions would have them; annotation: its annotation_names "
        'where it has them, as the released code ("diningtable", "tvmonitor")')
    workers: int = option(4, "loader processes (of each process of NPROC); only the speed depends on it",
                          least=0, most=256, numbers=False)


@dataclass
class Augment:
    """ESDA's training augmentation, in this order"""
    scale: list[float] = option([0.9, 1.1], "factor, drawn evenly", least=0.01, most=10, length=2)
    rotate: float = option(10.0, "degrees either way", least=0, most=180)
    rotate_p: float = option(0.5, "probability", least=0, most=1)
    blur: int = option(5, "px, side of the Gaussian kernel", least=1, most=255)
    blur_p: float = option(0.5, "probability", least=0, most=1)
    flip_p: float = option(0.5, "probability of a horizontal flip", least=0, most=1)
    keep: float = option(0.85, "share of the target's pixels that a random crop must keep ...", least=0, most=1)
    crop_tries: int = option(30, "... or be redrawn, this often at most", least=1, most=10_000)

    def __post_init__(self):
        if self.scale[0] > self.scale[1]:
            raise UserError(f"augment.scale={self.scale} should be the smallest factor, then the largest")
        if self.blur % 2 == 0:
            raise UserError(f"augment.blur={self.blur} should be odd, as the side of a kernel is")


@dataclass
class Model:
    """CLIP and what ESDA adds to it"""
    kind: Literal["esda", "plus", "clip_prior", "maskclip", "naclip", "clearclip", "everything"] = option(
        "esda", "esda; plus: ESDA+ (docs/plus.md); without training: clip_prior, maskclip, naclip, clearclip, "
        "everything (model/baselines.py)")
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
    pixel_std: list[float] = option([0.26862954, 0.26130258, 0.27577711], "likewise", least=0.001, most=100, length=3)
    prompt: str = option("a photo of a {}",
                         'template of a class name (paper, figure 2); "{}" in the released code, the bare name')
    same_word: str = option("", "if given, stands for every name, in training and testing: the floor without text")
    text_start: Literal["random", "clip"] = option(
        "random", "t's Linear at the start: random (torch's default, as released), or clip: CLIP's own projection")
    replace_indices: list[int] = option(
        [2, 3, 4], "blocks on entry to which [CLS] becomes the text (ClsCLIP), counted from 0", least=0, most=999)
    branch: str = option("low_rank", "design of the trainable branch beside a block, one of BRANCHES in model/build.py",
                         kinds=TRAINED)
    branch_indices: list[int] | None = option(None, "blocks with a trainable low-rank branch; null: all",
                                              least=0, most=999, kinds=TRAINED)
    branch_rank: int = option(2, "its rank r; 0: no branches", least=0, most=4096, kinds=TRAINED)
    prior_indices: list[int] | None = option(None, "blocks whose similarity maps enter the losses; null: all",
                                             least=0, most=999, kinds=TRAINED)
    cls_twice: bool = option(False, "true: the class embedding is added to [CLS] twice, as the released code does",
                             kinds=ESDA)
    interactor: str = option("esda", "design of the vision-language embedding interactor, one of INTERACTORS there",
                             kinds=ESDA)
    interactor_layers: int = option(2, "layers of the vision-language embedding interactor; plus: its blocks", least=1,
                                    most=100, kinds=TRAINED)
    token_order: Literal["described", "released"] = option(
        "described", "described: each patch keeps its place; released: a layer hands on [patch, semantic], but the "
        "next and the read-out take the last n tokens for patches. With 2 layers, 900 patches and 79 semantic tokens "
        "no place of the map read out holds its own patch: 742 are shifted by 158, 79 hold semantic tokens, 79 patches "
        "are lost", kinds=ESDA)
    text_tokens: bool = option(True, "the tokens of the whole text take part in it; false: only the text's cls",
                               kinds=ESDA)
    mask_padding: bool = option(
        True, "positions after end-of-text are hidden from attention; false in the released code")
    align_corners: bool = option(
        False, "torch's, where logits and similarity maps are upsampled and masks are resized for the prototypes; true "
        "in the released code. Of the position embedding it is false in either", kinds=ESDA)
    decoder: str = option(
        "convolutions", "design of the mask decoder, one of DECODERS there: convolutions as described, or guided by "
        "the image (model/plus/decoder.py)", kinds=TRAINED)
    decoder_channels: int = option(256, "of its first convolution; the two further ones have a half and a quarter",
                                   least=4, most=65_536, kinds=TRAINED)
    guide_rounds: int = option(5, "decoder guided: rounds in which cells of the image that look alike share "
                               "their evidence (model/plus/decoder.py)", least=1, most=1000, kinds=TRAINED)
    maps: list[Literal["output", "value", "kk", "qq"]] = option(
        ["output", "value"], "plus: CLIP's similarity maps, readings of its last block (model/clip/dense.py); the "
        "first one's lead is the prior", kinds=PLUS)
    channels: list[Literal["raw", "standardised", "lead"]] = option(
        ["raw", "standardised", "lead"], "plus: what is read of each map (model/plus/similarity.py)", kinds=PLUS)
    map_scale: float = option(3.0, "plus: by which cosines, and their lead over a rival, enter the network", least=0,
                              most=1e6, kinds=PLUS)
    map_kernel: Literal[1, 3, 7] = option(3, "plus: side of the convolution that reads the maps, in patches",
                                          kinds=PLUS)
    rivals: Literal["seen", "none"] = option(
        "seen", "plus: names that each name is compared with: those of the fold's seen classes, or none. Never other "
        "unseen names", kinds=PLUS)
    rival_drop: float = option(0.2, "plus: chance of each rival to be left out of a training sample", least=0, most=1,
                               kinds=PLUS)
    background_words: list[str] = option([], "plus: further rivals, words for what is no object", kinds=PLUS)
    interactor_width: int = option(0, "plus: width of the interactor's blocks, a multiple of 64; 0: that of the image "
                                   "encoder", least=0, most=65_536, kinds=PLUS)
    presence_head: bool = option(
        False, "plus: a head of its own says whether the named thing is there at all; train.absent_names then train it "
        "and the interactor that it reads, and the mask's loss leaves them out (model/plus/presence.py)", kinds=PLUS)
    dropout: float = option(0.1, "Dropout2d before the decoder's last convolution", least=0, most=1, kinds=TRAINED)
    prior_threshold: float = option(
        0.5, "clip_prior, maskclip, naclip, clearclip: where the min-max normalised map becomes foreground",
        least=0, most=1, kinds=CLIP_ALONE)

    def __post_init__(self):
        try:
            fields = [rest for _, *rest in string.Formatter().parse(self.prompt) if rest[0] is not None]
        except ValueError:
            fields = []
        if self.decoder_channels % 4:
            raise UserError(f"model.decoder_channels={self.decoder_channels} should be a multiple of 4: the last "
                            f"convolution has a quarter of them")
        for key in ("maps", "channels"):
            given = getattr(self, key)
            if not given or len(set(given)) < len(given):
                raise UserError(f"model.{key}={given} should name at least one, and each once")
        if fields != [["", "", None]]:
            raise UserError(f"model.prompt={self.prompt!r} should hold {{}} once, where the class name goes")


@dataclass
class Loss:
    """total = main + last * (last block's map) + others * (mean over the other maps) + presence * (ESDA+'s)"""
    last: float = option(0.2, "weight of the last block's similarity map", least=0, most=1e6)
    others: float = option(0.1, "weight of the other blocks' maps", least=0, most=1e6)
    presence: float = option(0.1, "plus: weight of the presence head's cross-entropy", least=0, most=1e6, kinds=PLUS)
    temperature: float = option(
        1.0, "factor k of the logits k [1 - s, s] as which a similarity map s is read. A perfect map's loss is log(1 + "
        "exp(-k)): 0.313 as published, and 0.00005 with 10", least=0.001, most=1e4)
    sign: Literal["described", "released"] = option(
        "described", "described: a map s is read as logits [1 - s, s]; released: [s, 1 - s] while label 1 is "
        "foreground, which lowers the similarity on the foreground")
    ignored: Literal["ignore", "background"] = option(
        "ignore", "ignore: label 255 counts nowhere; background: it trains as 0, padding included, because the "
        "released code writes 0 over it while it builds the prototypes. Training only")


@dataclass
class Train:
    """the recipe"""
    epochs: int = option(200, "at most; the poly schedule runs over all of them", least=1, most=10**6)
    epoch_samples: int = option(0, "samples an epoch; 0: every training image once", least=0, most=10**7)
    batch_size: int = option(8, "images an iteration, over all processes", least=1, most=65_536)
    micro_batch: int = option(
        0, "images at once; 0: all that a process has of the batch. Fewer take less memory and more time, and change "
        "numbers by rounding only", least=0, most=65_536, numbers=False)
    checkpoint_blocks: bool = option(
        False, "true: a block's activations are computed again in backward instead of kept: less memory, more time "
        "(docs/speed.md has both), the same numbers", numbers=False)
    optimizer: Literal["sgd", "adamw", "muon"] = option(
        "sgd", "sgd as published; adamw; muon: Muon for the blocks' matrices, AdamW for the rest")
    lr: float = option(5e-4, "the rate actually taken: the published base_lr 5e-5 times 10 (released index_split: -1)",
                       least=0, most=1e6)
    muon_lr: float = option(5e-3, "muon: the rate of the matrices, beside lr for the rest", least=0, most=1e6)
    momentum: float = option(0.9, "sgd", least=0, most=1)
    weight_decay: float = option(1e-4, "decoupled from the gradient with adamw and muon", least=0, most=1e6)
    warmup: int = option(0, "iterations of linear warm-up", least=0, most=10**9)
    power: float = option(0.9, "poly decay per iteration: lr * (1 - iteration / iterations) ** power",
                          least=0, most=100)
    clip_grad: float = option(0.0, "largest gradient norm; 0: unlimited, as published", least=0, most=1e6)
    text_noise: float = option(
        0.0, "Gaussian noise on the text that the interactor reads in training, as a share of its length; not "
        "published: keeps few seen names from being learned by heart (docs/shapes.md)", least=0, most=1e6)
    absent_names: float = option(
        0.0, "share of the training samples that ask for a seen class which the image does not show, target empty "
        "(CLIPSeg, Lueddecke 2022); 0 as published", least=0, most=1)
    ema: float = option(
        0.0, "share that the mean of the weights keeps at a step (util/training/ema.py); it is the mean that is "
        "scored and saved. 0: no mean, as published", least=0, most=0.99999)
    patience: int = option(75, "epochs without a better mIoU, unseen or seen as `select` says, until training stops",
                           least=1, most=10**6)
    select: Literal["unseen", "seen", "last"] = option(
        "unseen", "the epoch of the final test: unseen, best by unseen-class mIoU, as the field does; seen, best on "
        "held-out images of seen classes, no unseen mask used; last, never stopped early. A run keeps the epochs of "
        "all three and its results name the one tested",
        numbers=False)
    checkpoint_minutes: float = option(10.0, "checkpoints/last.pt is also written this often within an epoch",
                                       least=0, most=1e6, numbers=False)
    log_every: int = option(20, "iterations between points in TensorBoard", least=1, most=10**9, numbers=False)


@dataclass
class Eval:
    """how a model is scored"""
    protocol: Literal["exhaustive", "episodic", "generalised"] = option(
        "episodic", "episodic: `samples` draws round the test list (what papers print); exhaustive: every image and "
        "present class once; generalised: one label a pixel out of background and all classes (epochs are then chosen "
        "by the exhaustive score)")
    samples: int = option(1000, "episodic only", least=1, most=10**6)
    seed: int = option(321, "of the episodic draw", least=0, most=2**63 - 1)
    draws: int = option(1, "episodic: how many draws are scored, with seeds `seed`, seed + 1, ...; mean and deviation",
                        least=1, most=1000)
    manifest: str = option("", "a file that python -m data.samples made: these samples, whatever the protocol says")
    images: int = option(0, "generalised: so many images, evenly spaced over the validation list; 0: all",
                         least=0, most=2**31 - 1)
    presence: float = option(
        1.0, "generalised: weight of CLIP's verdict on what was found under a name; 1 was best of 0, 0.5, 1, 2 "
        "(docs/protocols.md)", least=0, most=1e6)
    chunk: int = option(0, "generalised: names at once; 0: as many as memory allows", least=0, most=65_536,
                        numbers=False)
    batch_size: int = option(8, "images that the loader hands over at once; on a CPU in fp32 fewer may be computed at "
                             "once", least=1, most=65_536, numbers=False)
    fit: Literal["described", "cut", "released"] = option(
        "described", "described: the longer side to `size`, the rest filled with the mean colour and cut off again; "
        "cut: the same, but patches of that filling stay out of the network, a quarter of the work at 500x375 (score: "
        "docs/experiment.md); released: both sides floored to multiples of 8, the rest black, and the whole square "
        "resized (align_corners) to one of the longer original side (PFENet, BAM)")
    flip: bool = option(False, "final test: evidences, and presence, of the image and of its mirror image are averaged")
    scales: list[float] = option(
        [1.0], "final test: evidences at these factors of `size`, rounded to whole patches, are averaged", least=0.25,
        most=4)
    zoom: bool = option(
        False, "final test: the same name again in the box of each small region that was found, enlarged, and the "
        "evidences averaged there (util/evaluation/views.py; gain and cost: docs/plus.md)")
    refine: int = option(
        0, "final test: rounds in which pixels that look alike share their evidence, so that borders follow the image "
        "(PAMR; NACLIP, too, takes 10); 0: none. Gain: docs/plus.md", least=0, most=1000)
    seen_samples: int = option(
        200, "pairs of held-out images and seen classes, evenly spaced, scored beside the unseen ones",
        least=1, most=10**7)
    name_check: bool = option(
        False, "final test: AUC of the name and score under an absent name (a second pass)", numbers=False)
    pictures: int = option(12, "samples drawn in TensorBoard, and one by one and on a sheet by the final test",
                           least=1, most=1000, numbers=False)

    def __post_init__(self):
        if self.samples * self.draws > 10**7:
            raise UserError(f"eval.samples={self.samples} with eval.draws={self.draws} are more than 10 million")
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise UserError(f"eval.scales={self.scales} should name at least one factor, and each once")
        if self.protocol == "generalised" and (self.flip or self.zoom or self.refine or self.scales != [1.0]):
            raise UserError("eval.flip, eval.scales, eval.zoom and eval.refine are for protocols that look for one "
                            "name at a time; leave them away with eval.protocol=generalised")


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
    compile: bool = option(
        False, "true: torch.compile of the transformer blocks. On two CPU cores it takes 44 s at the start and gains "
        "nothing (docs/speed.md); on a GPU it has not been measured", numbers=False)
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
    loss: Loss = field(default_factory=Loss)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)

    def __post_init__(self):
        for key in ("dataset", "arch", "run"):
            name = getattr(self, key)
            if "/" in name or name in (".", "..") or not name and key != "run":
                raise UserError(f"{key}={name!r} names a folder of EXP/DATASET/ARCH/foldK/RUN/: one name without '/'")
        if self.model.kind == "plus":
            self._require_plus()

    def _require_plus(self) -> None:
        """ESDA+ has no text tokens, and no maps that train where nothing in its encoder does."""
        for section, key in (("loss", "last"), ("train", "text_noise")):
            if getattr(getattr(self, section), key):
                raise UserError(f"{section}.{key} has no effect on model.kind=plus; set {section}.{key}=0")
        if self.model.presence_head and not (self.train.absent_names and self.loss.presence):
            raise UserError("model.presence_head learns from absent names; set train.absent_names and loss.presence "
                            "above 0, or model.presence_head=false")
        if self.loss.others and not (self.model.branch_rank or self.model.replace_indices):
            raise UserError(f"loss.others={self.loss.others} trains nothing of a frozen encoder; set loss.others=0, or "
                            f"model.branch_rank=2 for trainable branches")

    def require_effect(self) -> None:
        """Raise UserError for an option that would change nothing, or not what it says, in silence.

        For what a user gives; options that a run has saved stay as they are.
        """
        model = self.model
        branches = model.branch_rank, "model.branch_rank above 0"
        episodic = self.eval.protocol == "episodic", "eval.protocol=episodic"
        needs = {"model.guide_rounds": (model.decoder != "convolutions", "model.decoder=guided"),
                 "model.align_corners": (model.decoder != "guided", "model.decoder=convolutions"),
                 "model.branch": branches, "model.branch_indices": branches,
                 "loss.presence": (model.presence_head, "model.presence_head=true"),
                 "eval.samples": episodic, "eval.draws": episodic}
        for section in ("model", "loss", "eval"):
            part = getattr(self, section)
            usual = type(part)()
            for known in fields(part):
                name, given, kinds = f"{section}.{known.name}", getattr(part, known.name), known.metadata["kinds"]
                has_effect, needed = needs.get(name, (True, ""))
                if kinds and model.kind not in kinds:
                    has_effect, needed = False, f"model.kind={' or '.join(kinds)}"
                if not has_effect and given != getattr(usual, known.name):
                    raise UserError(f"{name}={given} has no effect without {needed}; set that, or leave it away")

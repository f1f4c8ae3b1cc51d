"""What is published about the lists of PASCAL-5i and COCO-20i, and how a data set on this disk compares with it."""
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

from data.files import read_bytes, read_list
from data.folds import Classes
from data.index import Index
from data.prepare import pascal
from data.samples import exhaustive, train_images
from util.config import ROOT, Config
from util.runtime.errors import UserError

MIN_PIXELS = 2048       # of a present class: 2 * 32 * 32
STAMP = "prepared.json"


class Figure(NamedTuple):
    """What was found beside what is published. exact: any difference is an error. why: a cause of a difference."""
    what: str
    found: int | str
    known: int | str
    exact: bool
    why: str

    def __str__(self) -> str:
        if self.found == self.known:
            return f"ok    {self.what}: {_shown(self.found)}"
        sign = "WRONG" if self.exact else "note "
        off = ""
        if isinstance(self.known, int):
            off = f" ({self.found - self.known:+,}" + (f", {100 * (self.found / self.known - 1):+.1f} %)" if self.known
                                                       else ")")
        return f"{sign} {self.what}: {_shown(self.found)}, published {_shown(self.known)}{off}: {self.why}"


def _shown(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value


class Fold(NamedTuple):
    """What a fold consists of: rows of the training and of the validation list, and the number of its test pairs."""
    train: list[int]
    test: list[int]
    pairs: int


def fold_of(train: Index, val: Index, classes: Classes, fold: int, cfg: Config) -> Fold:
    """What fold ``fold`` consists of. An empty one is no error here."""
    try:
        rows = train_images(train, classes, fold, cfg.data.min_pixels, cfg.data.train_classes).rows
    except UserError:
        rows = []
    try:
        samples = exhaustive(val, classes.unseen(fold), cfg.data.min_pixels)
    except UserError:
        samples = []
    return Fold(rows, list(dict.fromkeys(sample.row for sample in samples)), len(samples))


def as_published(cfg: Config, folds: str) -> bool:
    """Whether the options are those under which published lists were made."""
    return cfg.data.min_pixels == MIN_PIXELS and cfg.data.train_classes == "seen" and cfg.data.folds in ("file", folds)


# PASCAL-5i: SCCAN's, BBD's and I2R's lists agree.

PASCAL_LISTS = ("lists/pascal/train.txt", "lists/pascal/val.txt")
PASCAL_FOLDS = ((4208, 364, 365), (3726, 445, 467), (2752, 592, 734), (4510, 336, 357))  # train, test images, pairs
PASCAL_WHY = "other masks or lists than the published ones"
SOURCES = {"voc_train": ("VOC's training masks", 1464), "voc_val": ("VOC's validation masks", 1449),
           "sbd_train": ("SBD's train", 8498), "sbd_val": ("SBD's val", 2857)}


def pascal_figures(cfg: Config, train: Index, val: Index, folds: list[Fold], outlined: int) -> list[Figure]:
    """outlined: how many masks of the two lists have the value 255."""
    figures = []
    root = Path(cfg.data.root)
    published = (cfg.data.train_list, cfg.data.val_list) == PASCAL_LISTS
    if published:
        figures += [Figure("lines of the training list", len(train.pairs), 5953, True, PASCAL_WHY),
                    Figure("lines of the validation list", len(val.pairs), 1449, True, PASCAL_WHY),
                    Figure("masks with the value 255", outlined, 2913, True,
                           "VOC's own masks, training and validation, have outlines of 255 and SBD's have none")]
    if published and as_published(cfg, "contiguous"):
        for number, (fold, known) in enumerate(zip(folds, PASCAL_FOLDS)):
            found = (len(fold.train), len(fold.test), fold.pairs)
            figures += [Figure(f"{what} of fold {number}", *counts, True, PASCAL_WHY) for what, *counts in
                        zip(("training images", "test images", "test pairs"), found, known)]
    try:
        names = pascal.read_names(root)
    except UserError:
        return figures  # masks made elsewhere: there is nothing of the sources to count
    made = pascal.lists(names)
    why = "its own list; the archive is incomplete or of another release"
    figures += [Figure(what, len(names[key]), count, True, why) for key, (what, count) in SOURCES.items()]
    figures += [Figure(f"masks in {pascal.MASKS}", sum(1 for _ in (root / pascal.MASKS).glob("*.png")), 12_031, True,
                       "one for each name of these four lists; data.prepare goes on with what is missing"),
                Figure("names of train_aug.txt", len(made["train_aug"]), 10_582, True, "what most ZS3 papers train on")]
    if published:
        listed, ours = {Path(mask).stem for _, mask in read_list(cfg.data.train_list)}, set(made["train"])
        why = ("the published list holds SBD's images without VOC 2012's val images, and VOC's own; training reads the "
               "published list in any case")
        figures += [Figure("names that only the published training list has", len(listed - ours), 0, True, why),
                    Figure("names that only its rule gives from the archives", len(ours - listed), 0, True, why)]
    return figures


# COCO-20i, interleaved folds: HSNet's validation lists. BAM's family has the same images in all folds. The hashes are
# of a fold's ids, one a line: of the validation ids in the published order, of the training ids sorted. The training
# list of fold 3 is not known.

class CocoFold(NamedTuple):
    images: int
    pairs: int
    test_hash: str
    train: int = 0
    train_hash: str = ""


COCO_FOLDS = (
    CocoFold(26_052, 35_783, "6ea77dcb476e689dc10e6c420f4963f926a17106b02cbaf2135a9385e49a7338",
             21_917, "76799a819fd8f2f383dc50d1a60d87a7da214af40a512a4f794fddcf6510d692"),
    CocoFold(15_305, 17_912, "96f94cc848370e54f1f1314c593098f275f7e978070103d0457f70001072fd21",
             41_809, "5514a5c26d2ed4ad5b58ce80ea6ee7627adc8967229c5f40fc27b94ecf34c469"),
    CocoFold(13_138, 14_563, "fac79cffb4c31e38affd1c8b4e021f1e112728b9317c5c12e6a4f7ee4ee8809a",
             43_045, "063e5f18f841945007759b6ff23d274db0c73c5fd0220c8eae3bc7e078f1f7bd"),
    CocoFold(12_640, 14_315, "f5367f2835c93dd288df7eb09cec87adebcd0ef28133a8eefab6f02763ea668a"))


def coco_val_order() -> list[int]:
    """Image ids of the 40,137 lines of the val.txt that BAM's family uses, in its order. Each fold's list is that order
    filtered. The other images of val2014 are in no list.
    """
    return [int(line) for line in gzip.decompress(read_bytes(ROOT / "lists/coco/val_order.txt.gz")).split()]


def hash_of(ids: list[int]) -> str:
    """SHA-256 of ids in decimal, one a line."""
    return hashlib.sha256("".join(f"{number}\n" for number in ids).encode()).hexdigest()


def image_id(path: str) -> int:
    """COCO's id of an image, the last digits of its name; -1 where there are none."""
    digits = re.search(r"(\d+)$", Path(path).stem)
    return int(digits[1]) if digits else -1


def coco_figures(cfg: Config, train: Index, val: Index, folds: list[Fold], outlined: int) -> list[Figure]:
    """If pycocotools made the masks, fold lists that differ from the published ones are a note and no error."""
    try:
        rule = json.loads((Path(cfg.data.root) / STAMP).read_text())["made_with"].get("masks", "pycocotools")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        rule = "unknown"
    exact = rule != "pycocotools"
    why = (f"the published masks are painted in the file's order, without crowds, by OpenCV's fillPoly; those here: "
           f"{rule} (data.prepare coco --masks)")
    incomplete = "COCO 2014; an incomplete archive"
    figures = [Figure("lines of the training list", len(train.pairs), 82_783, True, incomplete),
               Figure("lines of the validation list", len(val.pairs), 40_504, True, incomplete)]
    place = {number: place for place, number in enumerate(coco_val_order())}
    ids = [image_id(image) for image, _ in val.pairs]
    listed = [number for number in ids if number in place]
    order = "as published" if listed == sorted(listed, key=place.get) else "another"
    figures.append(Figure("order of the validation list", order, "as published", True, "the episodic protocol draws "
                          "other samples then; data.prepare coco writes the published order"))
    if not as_published(cfg, "interleaved"):
        return figures
    for number, (fold, known) in enumerate(zip(folds, COCO_FOLDS)):
        test = sorted((ids[row] for row in fold.test), key=lambda i: place.get(i, len(place)))
        figures += [Figure(f"test images of fold {number}", len(fold.test), known.images, exact, why),
                    Figure(f"test pairs of fold {number}", fold.pairs, known.pairs, exact, why),
                    Figure(f"SHA-256 of the test ids of fold {number}", hash_of(test), known.test_hash, exact, why)]
        if known.train:
            seen = sorted(image_id(train.pairs[row][0]) for row in fold.train)
            figures += [Figure(f"training images of fold {number}", len(seen), known.train, exact, why),
                        Figure(f"SHA-256 of the training ids of fold {number}", hash_of(seen), known.train_hash, exact,
                               why)]
    return figures


FIGURES = {"pascal": pascal_figures, "coco": coco_figures}

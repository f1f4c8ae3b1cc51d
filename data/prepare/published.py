"""Published statistics of PASCAL-5i's and COCO-20i's lists, and how a data set on this disk compares with them."""
import hashlib
import re
from contextlib import suppress
from pathlib import Path

from data.files import read_list
from data.folds import Classes
from data.index import Index
from data.prepare.coco import val_order
from data.samples import exhaustive, train_images
from util.config import ROOT, Config
from util.runtime.errors import UserError

MIN_PIXELS = 2048   # of a present class: 2 * 32 * 32
LINES = {"pascal": (5953, 1449), "coco": (82_783, 40_504)}  # of the training and of the validation list
# Of each fold: training images, test images, test pairs, and SHA-256 of the test and of the training ids. PASCAL:
# SCCAN's, BBD's and I2R's lists agree. COCO, interleaved folds: HSNet's validation lists; BAM's family has the same
# images. Its ids are hashed one a line, test ids in the published order, training ids sorted. None: not known.
FOLDS = {
    "pascal": ((4208, 364, 365), (3726, 445, 467), (2752, 592, 734), (4510, 336, 357)),
    "coco": ((21_917, 26_052, 35_783, "6ea77dcb476e689dc10e6c420f4963f926a17106b02cbaf2135a9385e49a7338",
              "76799a819fd8f2f383dc50d1a60d87a7da214af40a512a4f794fddcf6510d692"),
             (41_809, 15_305, 17_912, "96f94cc848370e54f1f1314c593098f275f7e978070103d0457f70001072fd21",
              "5514a5c26d2ed4ad5b58ce80ea6ee7627adc8967229c5f40fc27b94ecf34c469"),
             (43_045, 13_138, 14_563, "fac79cffb4c31e38affd1c8b4e021f1e112728b9317c5c12e6a4f7ee4ee8809a",
              "063e5f18f841945007759b6ff23d274db0c73c5fd0220c8eae3bc7e078f1f7bd"),
             (None, 12_640, 14_315, "f5367f2835c93dd288df7eb09cec87adebcd0ef28133a8eefab6f02763ea668a", None))}


def fold_of(train: Index, val: Index, classes: Classes, fold: int, cfg: Config) -> tuple[list[str], list[str]]:
    """List a fold's training images, and the image of each test pair. An empty fold is no error here."""
    rows, samples = [], exhaustive(val, classes.unseen(fold), cfg.data.min_pixels)
    with suppress(UserError):
        rows = train_images(train, classes, fold, cfg.data.min_pixels, cfg.data.train_classes).rows
    return [train.pairs[row][0] for row in rows], [val.pairs[sample.row][0] for sample in samples]


def compare(name: str, cfg: Config, classes: Classes, val: Index, train_lines: int,
            folds: list[tuple[list[str], list[str]]], outlined: int) -> list[str]:
    """Compare with the published statistics: lines "ok ..." or "WRONG ..."; none for other data or training lists.

    folds: :func:`fold_of` of each; outlined: number of masks with the value 255.
    """
    if name not in FOLDS or (name == "pascal" and cfg.data.train_list != "lists/pascal/train.txt"):
        return []
    facts = {"lines of the training list": (train_lines, LINES[name][0]),
             "lines of the validation list": (len(val.pairs), LINES[name][1])}
    order = {number: place for place, number in enumerate(val_order())}
    made = Path(cfg.data.root, "lists/train.txt")
    if name == "coco":
        places = [order[image_id(image)] for image, _ in val.pairs if image_id(image) in order]
        facts["order of the validation list"] = (     # in which the episodic protocol draws its samples
            "as published" if places == sorted(places) else "another", "as published")
    else:
        facts["masks with the value 255, which are VOC's"] = (outlined, 2913)
        if made.is_file():  # it is not where the masks were made elsewhere
            differ = set(read_list(made)) ^ set(read_list(ROOT / cfg.data.train_list))
            facts["lines in which the published training list and the one made here differ"] = (len(differ), 0)
    if (cfg.data.min_pixels == MIN_PIXELS and cfg.data.train_classes == "seen"
            and classes.folds == Classes.read(ROOT / "lists" / name / "classes.yaml").folds):
        for number, ((train, test), known) in enumerate(zip(folds, FOLDS[name])):
            images = sorted(dict.fromkeys(map(image_id, test)), key=lambda i: order.get(i, len(order)))
            found = {"training images": len(train), "test images": len(images), "test pairs": len(test),
                     "SHA-256 of the test ids": hash_of(images),
                     "SHA-256 of the training ids": hash_of(sorted(map(image_id, train)))}
            facts |= {f"{what} of fold {number}": (value, expected)
                      for (what, value), expected in zip(found.items(), known) if expected}
    return [f"ok    {what}: {found}" if found == known else f"WRONG {what}: {found}, published {known}"
            for what, (found, known) in facts.items()]


def hash_of(ids: list[int]) -> str:
    """Hash ids in decimal, one a line, by SHA-256."""
    return hashlib.sha256("".join(f"{number}\n" for number in ids).encode()).hexdigest()


def image_id(path: str) -> int:
    """Parse COCO's id of an image, the last digits of its name; -1 without any."""
    digits = re.search(r"(\d+)$", Path(path).stem)
    return int(digits[1]) if digits else -1

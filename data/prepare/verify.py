"""Check a data set before training on it: every file, every count, and a sheet of pictures to look at.

    python -m data.verify DATASET [key=value ...]     DATASET as for train.sh: pascal, coco, shapes, or your own

Reads every image and mask of the lists in config/DATASET/esda.yaml. Writes report.md and samples.png to ROOT/verify, or
to EXP/verify/DATASET where ROOT cannot be written to. Status 2 if a file cannot be used or a count that must be exact
is not.
"""
import hashlib
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.files import how_to_make, orientation, overlap, read_list, read_pair
from data.folds import Classes, classes_of
from data.index import Index, count_pixels
from data.prepare.published import FIGURES, fold_of
from model import IGNORE
from util.config import Config, from_command_line
from util.run.atomic import write_where_possible
from util.runtime.errors import UserError, run_main
from util.runtime.markdown import markdown_table
from util.runtime.png import encode_png, sheet
from util.runtime.workers import cores, map_in_processes

PICTURES = 12
SHOWN = 10  # problems named on screen; the report names all


class Checked(NamedTuple):
    """One line of a list: pixels of each class (K + 1,), the mask's digest, or what is wrong with it.

    turned: the image has an EXIF rotation, which is ignored; outlined: the mask has ignored pixels, 255.
    """
    pixels: np.ndarray
    digest: bytes
    problem: str
    turned: bool = False
    outlined: bool = False


class CheckedList(NamedTuple):
    """All lines of a list. digest: one of all masks, whatever their order. turned: the images with an EXIF rotation."""
    index: Index
    problems: list[str]
    digest: str
    turned: list[str]
    outlined: int


def check_pair(root: str, classes: int, pair: tuple[str, str]) -> Checked:
    try:
        _, mask = read_pair(root, pair, classes)
    except UserError as error:
        return Checked(np.zeros(classes + 1, np.int64), b"", str(error))
    digest = hashlib.sha256(f"{pair[1]} {mask.shape}".encode() + mask.tobytes()).digest()
    turned = orientation(Path(root) / pair[0]) != 1
    return Checked(count_pixels(mask, classes), digest, "", turned, bool((mask == IGNORE).any()))


def check_list(root: str, list_file: str, classes: int, remedy: str = "") -> CheckedList:
    """Read everything that a list names."""
    pairs = read_list(list_file, remedy)
    checked = list(map_in_processes(partial(check_pair, root, classes), pairs, f"reading {Path(list_file).name}"))
    return CheckedList(Index(list_file, pairs, np.stack([c.pixels for c in checked])),
                       [c.problem for c in checked if c.problem],
                       hashlib.sha256(b"".join(sorted(c.digest for c in checked))).hexdigest(),
                       [image for (image, _), c in zip(pairs, checked) if c.turned], sum(c.outlined for c in checked))


def class_rows(train: Index, val: Index, classes: Classes, min_pixels: int) -> list[list]:
    """For each class: id, name, its unseen fold, images that show it in the training and in the validation list."""
    unseen_in = {c: fold for fold, ids in enumerate(classes.folds) for c in ids}
    in_train, in_val = ((index.pixels >= min_pixels).sum(axis=0) for index in (train, val))
    return [[c, name, unseen_in.get(c, "-"), in_train[c], in_val[c]] for c, name in enumerate(classes.names, start=1)]


def notes(train: CheckedList, val: CheckedList, classes: Classes) -> list[str]:
    """Lines on what is allowed and yet often a mistake."""
    out = []
    turned = train.turned + val.turned
    if turned:
        out.append(f"note  {len(turned)} images have an EXIF rotation, which is ignored; their masks must be drawn on "
                   f"the stored pixels: {', '.join(turned)}")
    pixels = train.index.pixels.sum(axis=0) + val.index.pixels.sum(axis=0)
    never = [name for name, count in zip(classes.names, pixels[1:]) if not count]
    if never:
        out.append(f"note  no mask shows {', '.join(never)}; ids in masks are the places in data.classes, from 1 on")
    if not pixels[0]:
        out.append("note  no mask has a pixel of 0, which is the background; do the masks count from another number?")
    return out


def overlay(image: np.ndarray, mask: np.ndarray, classes: Classes, height: int = 300) -> np.ndarray:
    """(H', W', 3) uint8 RGB: each class of the mask in a colour over the image, with its name; ignored pixels white.

    ``height`` is H' in px. An image more than three times as wide as high is made less high instead.
    """
    scale = min(height / image.shape[0], 3 * height / image.shape[1])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    hues = np.array([[[(67 * c) % 180, 220, 255]] for c in range(256)], np.uint8)  # neighbouring ids get distant hues
    colours = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)[:, 0]
    colours[IGNORE] = 255
    out = np.where((mask > 0)[..., None], (0.45 * image + 0.55 * colours[mask]).astype(np.uint8), image)
    for c in (int(c) for c in np.unique(mask) if c not in (0, IGNORE)):
        y, x = (int(v) for v in np.argwhere(mask == c).mean(axis=0))
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(out, classes.name(c), (max(0, x - 25), y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness,
                        cv2.LINE_AA)
    return out


def samples(cfg: Config, index: Index, classes: Classes, good: list[int]) -> np.ndarray:
    """A sheet of random pairs of the list with their masks drawn over them."""
    rows = np.random.default_rng(cfg.seed).permutation(good)[:PICTURES]
    pairs = [read_pair(cfg.data.root, index.pairs[row], len(classes.names)) for row in rows]
    return sheet([overlay(*pair, classes) for pair in pairs], 3)


def verify(name: str, cfg: Config) -> list[str]:
    """Print and write the report; returns what is wrong, in lines."""
    remedy = how_to_make(name)
    if not Path(cfg.data.root).is_dir():
        raise UserError(f"{cfg.data.root}: no such folder; {remedy}, or set data.root")
    classes, count = classes_of(cfg.data), len(classes_of(cfg.data).names)
    start = time.perf_counter()
    train, val = (check_list(cfg.data.root, file, count, remedy) if file else
                  CheckedList(Index("no training list", [], np.zeros((0, count + 1), np.int64)), [], "-", [], 0)
                  for file in (cfg.data.train_list, cfg.data.val_list))
    pairs, seconds = len(train.index.pairs) + len(val.index.pairs), time.perf_counter() - start
    folds = [fold_of(train.index, val.index, classes, fold, cfg) for fold in range(len(classes.folds))]
    problems = train.problems + val.problems
    common = overlap(train.index.pairs, val.index.pairs)
    if common:
        problems.append(common)
    figures = []
    if name in FIGURES:
        figures = FIGURES[name](cfg, train.index, val.index, folds, train.outlined + val.outlined)
    lines = [*map(str, figures), *notes(train, val, classes)]
    any_area = [int((val.index.pixels[:, list(ids)] > 0).sum()) for ids in classes.folds]
    table = markdown_table(["fold", "training images", "test images", "test pairs", "pairs of any area"],
                           [[number, len(fold.train), len(fold.test), fold.pairs, any_area[number]]
                            for number, fold in enumerate(folds)])
    counts = f"{len(train.index.pairs):,} training and {len(val.index.pairs):,} validation pairs"
    head = (f"{name}: {counts} in {cfg.data.root}, "
            f"classes present from {cfg.data.min_pixels} px on, training on {cfg.data.train_classes!r}")
    digests = [f"masks of {Path(c.index.list_file).name}: sha256 {c.digest}" for c in (train, val)]
    print(f"{head}\nread in {seconds:.1f} s ({pairs / seconds:.0f} pairs/s on {cores()} cores)")
    print(*(f"{line[:300]} ..." if len(line) > 300 else line for line in lines), sep="\n")
    print(f"\n{table}\n", *digests, sep="\n")
    by_class = markdown_table(["id", "class", "fold", "training list", "validation list"],
                              class_rows(train.index, val.index, classes, cfg.data.min_pixels))
    report = [f"# {head}", "", *lines, "", table, "", by_class, "", *digests, "", *(problems or ["No problems."])]
    folder = _write("report.md", ("\n".join(report) + "\n").encode(), name, cfg)
    good = np.flatnonzero(val.index.pixels[:, 1:].any(axis=1)).tolist()
    if good:
        _write("samples.png", encode_png(samples(cfg, val.index, classes, good)), name, cfg)
    print(f"report   {folder}/report.md\npictures {folder}/samples.png")
    return problems + [line for line in lines if line.startswith("WRONG")]


def _write(file: str, data: bytes, name: str, cfg: Config) -> Path:
    """Write ``file`` beside the data, or among the runs where that is not possible. Returns the folder."""
    return write_where_possible([Path(cfg.data.root, "verify", file), Path(cfg.exp, "verify", name, file)], data).parent


def main() -> None:
    if len(sys.argv) < 2 or "=" in sys.argv[1] or sys.argv[1].startswith("-"):
        raise UserError("usage: python -m data.verify DATASET [key=value ...], DATASET being a folder of config/")
    name = sys.argv[1]
    config = f"config/{name}.yaml" if "/" in name else f"config/{name}/esda.yaml"
    problems = verify(name.split("/")[0], from_command_line(["--config", config, *sys.argv[2:]]))
    for line in problems[:SHOWN]:
        print(line, file=sys.stderr)
    if problems:
        named = f"the first {SHOWN} of them above" if len(problems) > SHOWN else "named above"
        missing = f"; for missing files, {how_to_make(name)}" if any("no such file" in p for p in problems) else ""
        raise UserError(f"{len(problems)} problems, {named}; all are in the report{missing}")
    print("no problems")


if __name__ == "__main__":
    run_main(main)

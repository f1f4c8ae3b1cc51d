"""Check a data set before training on it: every file, every count, and a picture sheet to look at.

    python -m data.verify DATASET [key=value ...]     DATASET as for train.sh: pascal, coco, shapes, or your own

Reads every image and mask of the lists in config/DATASET/esda.yaml. Writes ROOT/verify/report.md and samples.png.
Status 2 if a file cannot be used or a count that must be exact is not.
"""
import hashlib
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.files import read_list, read_pair
from data.folds import Classes, classes_of
from data.index import Index, count_pixels
from data.prepare import coco, pascal
from data.prepare.overlay import overlay
from data.samples import exhaustive, train_images
from util.config import Config, from_command_line
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import UserError, run_main
from util.runtime.markdown import markdown_table
from util.runtime.png import encode_png, sheet
from util.runtime.workers import cores, map_in_processes

PICTURES = 12
SHOWN = 10  # problems named on screen; the report names all
KNOWN = {"pascal": pascal.known, "coco": coco.known}  # figures from elsewhere to hold the counts against


class Checked(NamedTuple):
    """One line of a list: pixels of each class (K + 1,), the mask's digest, or what is wrong with it."""
    pixels: np.ndarray
    digest: bytes
    problem: str


class Figure(NamedTuple):
    """A count beside the one that is known. why: where it comes from, or why ours may differ; exact: whether it must
    not."""
    what: str
    found: int
    known: int
    exact: bool
    why: str


def check_pair(root: str, classes: int, pair: tuple[str, str]) -> Checked:
    try:
        _, mask = read_pair(root, pair, classes)
    except UserError as error:
        return Checked(np.zeros(classes + 1, np.int64), b"", str(error))
    digest = hashlib.sha256(f"{pair[1]} {mask.shape}".encode() + mask.tobytes()).digest()
    return Checked(count_pixels(mask, classes), digest, "")


def check_list(root: str, list_file: str, classes: int) -> tuple[Index, list[str], str]:
    """Read everything a list names: its index, the problems found, and one digest of all masks, whatever their order."""
    pairs = read_list(list_file)
    checked = list(map_in_processes(partial(check_pair, root, classes), pairs, f"reading {Path(list_file).name}"))
    digest = hashlib.sha256(b"".join(sorted(c.digest for c in checked))).hexdigest()
    return Index(list_file, pairs, np.stack([c.pixels for c in checked])), [c.problem for c in checked if c.problem], digest


def fold_rows(train: Index, val: Index, classes: Classes, cfg: Config) -> list[list]:
    """For each fold: fold, training images, test images, test pairs, and pairs of any area."""
    rows = []
    for fold, unseen in enumerate(classes.folds):
        try:
            images = len(train_images(train, classes, fold, cfg.data.min_pixels, cfg.data.train_classes).rows)
            pairs = exhaustive(val, unseen, cfg.data.min_pixels)
        except UserError:  # an empty fold is a figure here, not an end
            images, pairs = 0, []
        any_area = int((val.pixels[:, list(unseen)] > 0).sum())
        rows.append([fold, images, len({p.row for p in pairs}), len(pairs), any_area])
    return rows


def class_rows(train: Index, val: Index, classes: Classes, min_pixels: int) -> list[list]:
    """For each class: id, name, its unseen fold, images that show it in the training and in the validation list."""
    fold_of = {c: fold for fold, ids in enumerate(classes.folds) for c in ids}
    present = [(index.pixels >= min_pixels).sum(axis=0) for index in (train, val)]
    return [[c, name, fold_of.get(c, "-"), present[0][c], present[1][c]] for c, name in enumerate(classes.names, start=1)]


def told(figure: Figure) -> str:
    """A figure in words: right, or off by how much and why that may be."""
    if figure.found == figure.known:
        return f"ok    {figure.what}: {figure.found:,} ({figure.why.split(';')[0]})"
    sign = "WRONG" if figure.exact else "note "
    return (f"{sign} {figure.what}: {figure.found:,}, known {figure.known:,} ({figure.found - figure.known:+,}, "
            f"{100 * (figure.found / figure.known - 1):+.1f} %): {figure.why}")


def samples(cfg: Config, index: Index, classes: Classes, good: list[int]) -> np.ndarray:
    """A sheet of random pairs of the list with their masks drawn over them."""
    rows = np.random.default_rng(cfg.seed).permutation(good)[:PICTURES]
    return sheet([overlay(*read_pair(cfg.data.root, index.pairs[row], len(classes.names)), classes) for row in rows], 3)


def verify(name: str, cfg: Config) -> list[str]:
    """Print and write the report; returns what is wrong, in lines."""
    if not Path(cfg.data.root).is_dir():
        raise UserError(f"{cfg.data.root}: no such folder; docs/data.md says how to make the data, or set data.root")
    classes, count = classes_of(cfg.data), len(classes_of(cfg.data).names)
    start = time.perf_counter()
    train, train_problems, train_digest = check_list(cfg.data.root, cfg.data.train_list, count)
    val, val_problems, val_digest = check_list(cfg.data.root, cfg.data.val_list, count)
    pairs, seconds = len(train.pairs) + len(val.pairs), time.perf_counter() - start
    folds = fold_rows(train, val, classes, cfg)
    problems = train_problems + val_problems
    both = {m for _, m in train.pairs} & {m for _, m in val.pairs}
    if both:
        problems.append(f"{len(both)} masks are in the training and in the validation list, such as {min(both)}")
    figures = KNOWN[name](Path(cfg.data.root), cfg, len(train.pairs), len(val.pairs), folds) if name in KNOWN else []
    lines = [told(Figure(*figure)) for figure in figures]
    digests = [f"masks of {Path(f).name}: sha256 {d}" for f, d in
               ((cfg.data.train_list, train_digest), (cfg.data.val_list, val_digest))]
    table = markdown_table(["fold", "training images", "test images", "test pairs", "pairs of any area"], folds)
    head = (f"{name}: {len(train.pairs):,} training and {len(val.pairs):,} validation pairs in {cfg.data.root}, "
            f"classes present from {cfg.data.min_pixels} px on, training on {cfg.data.train_classes!r}")
    print(f"{head}\nread in {seconds:.1f} s ({pairs / seconds:.0f} pairs/s on {cores()} cores)\n" + "\n".join(lines)
          + f"\n\n{table}\n\n" + "\n".join(digests))
    by_class = class_rows(train, val, classes, cfg.data.min_pixels)
    folder = Path(cfg.data.root) / "verify"
    table_of_classes = markdown_table(["id", "class", "fold", "training list", "validation list"], by_class)
    report = [f"# {head}", "", *lines, "", table, "", table_of_classes, "", *digests, "",
              *(problems or ["No problems."])]
    write_bytes_atomically(folder / "report.md", ("\n".join(report) + "\n").encode())
    good = np.flatnonzero(val.pixels[:, 1:].any(axis=1)).tolist()
    if good:
        write_bytes_atomically(folder / "samples.png", encode_png(samples(cfg, val, classes, good)))
    print(f"report   {folder}/report.md\npictures {folder}/samples.png")
    return problems + [line for line in lines if line.startswith("WRONG")]


def main() -> None:
    if len(sys.argv) < 2 or "=" in sys.argv[1] or sys.argv[1].startswith("-"):
        raise UserError("usage: python -m data.verify DATASET [key=value ...], DATASET being a folder of config/")
    name = sys.argv[1]
    config = f"config/{name}.yaml" if "/" in name else f"config/{name}/esda.yaml"
    problems = verify(name.split("/")[0], from_command_line(["--config", config, *sys.argv[2:]]))
    for line in problems[:SHOWN]:
        print(line, file=sys.stderr)
    if problems:
        raise UserError(f"{len(problems)} problems" + (f", the first {SHOWN} of them above" if len(problems) > SHOWN else
                                                       ", named above") + "; all are in the report")
    print("no problems")


if __name__ == "__main__":
    run_main(main)

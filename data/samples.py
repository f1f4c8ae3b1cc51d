"""Which (image, class) samples a fold trains on and is tested on (as in PFENet, BAM and ESDA).

    python -m data.samples --config config/pascal/esda.yaml fold=0 > lists/pascal/episodic_fold0.txt

prints the test samples as a manifest, a small text file, so that two codebases or two machines can score the same
ones: ``eval.manifest=FILE`` scores the samples of FILE. A line holds a mask, a class id and the class's name; lines
that begin with # are remarks.
"""
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.files import read_lines, shown
from data.folds import Classes, classes_of
from data.index import Index, read_index
from util.config import Config, from_command_line
from util.runtime.errors import UserError, run_main


class Sample(NamedTuple):
    """One image of a list and one class of it."""
    row: int        # line of the list, from 0
    class_id: int


TRAINED_ON = {  # what results say of data.train_classes
    "seen": "images without any unseen class, as published",
    "ignore": "images with seen classes, unseen classes' pixels ignored",
    "all": "masks of all classes: a ceiling, not zero-shot",
}


@dataclass(frozen=True)
class TrainImages:
    """The images that a fold trains on: the lines of the list.

    classes: of each image, those that may be drawn. absent: those that it does not show. ignored: the classes whose
    pixels are ignored in all of them.
    """
    rows: list[int]
    classes: list[tuple[int, ...]]
    absent: list[tuple[int, ...]]
    ignored: tuple[int, ...] = ()


def train_images(index: Index, classes: Classes, fold: int, min_pixels: int, which: str) -> TrainImages:
    """The images that show at least one class to learn from with ``min_pixels`` or more.

    In such an image any class may be drawn, however small.
    which: ``seen`` drops images with any unseen pixel (PFENet, BAM, ESDA); ``ignore`` keeps them for their seen
    classes and ignores the unseen classes' pixels; ``all`` learns from every class.
    """
    unseen = list(classes.unseen(fold))
    allowed = np.array(range(1, len(classes.names) + 1) if which == "all" else classes.seen(fold), int)
    if not allowed.size:
        raise UserError(f"fold {fold} holds back every class ({', '.join(classes.names)}), so none is left to learn; "
                        f"give data.classes more classes or smaller folds")
    good = (index.pixels[:, allowed] >= min_pixels).any(axis=1)
    if which == "seen":
        good &= index.pixels[:, unseen].sum(axis=1) == 0
    rows = np.flatnonzero(good).tolist()
    if not rows:
        raise UserError(f"{index.list_file}: fold {fold} is empty: no image shows a seen class of {min_pixels} pixels "
                        f"and no unseen class; check data.train_list, data.classes and data.min_pixels")
    visible = [index.pixels[row, allowed] > 0 for row in rows]
    present, absent = ([tuple(allowed[some].tolist()) for some in places] for places in
                       (visible, [~some for some in visible]))
    return TrainImages(rows, present, absent, tuple(unseen) if which == "ignore" else ())


def exhaustive(index: Index, class_ids: tuple[int, ...], min_pixels: int) -> list[Sample]:
    """Every image and present class of ``class_ids`` once, in the order of the list."""
    samples = [Sample(int(row), class_ids[k])
               for row, k in np.argwhere(index.pixels[:, list(class_ids)] >= min_pixels)]
    return _not_empty(samples, index, class_ids, min_pixels)


def episodic(index: Index, class_ids: tuple[int, ...], min_pixels: int, count: int, seed: int) -> list[Sample]:
    """``count`` samples going round the test list in order, the class drawn at random among those in the image."""
    ids = np.array(class_ids)
    rows = np.flatnonzero((index.pixels[:, ids] >= min_pixels).any(axis=1))
    _not_empty(rows, index, class_ids, min_pixels)
    samples = []
    for i in range(count):
        row = int(rows[i % len(rows)])
        present = ids[index.pixels[row, ids] > 0]
        samples.append(Sample(row, int(np.random.default_rng((seed, i)).choice(present))))
    return samples


def draw_samples(cfg: Config, index: Index, classes: Classes) -> list[list[Sample]]:
    """The fold's test samples as section ``eval`` asks for them.

    There is one list, or ``eval.draws`` lists under the episodic protocol. The generalised protocol has no samples of
    one class; training chooses its epochs by those of the exhaustive protocol. index: of the validation list.
    """
    unseen, options = classes.unseen(cfg.fold), cfg.eval
    if options.manifest:
        return [read_manifest(options.manifest, index, classes, unseen)]
    if options.protocol == "episodic":
        return [episodic(index, unseen, cfg.data.min_pixels, options.samples, options.seed + k)
                for k in range(options.draws)]
    return [exhaustive(index, unseen, cfg.data.min_pixels)]


def distinct(draws: list[list[Sample]]) -> list[Sample]:
    """The samples of all draws, each once, in the order of their first appearance: the ones to predict."""
    return list(dict.fromkeys(sample for draw in draws for sample in draw))


def spread(samples: list, count: int) -> list:
    """``count`` of the samples, evenly spaced over the list; all of them if there are not that many."""
    if count >= len(samples):
        return samples
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int)]


def _not_empty(samples, index: Index, class_ids, min_pixels: int):
    if not len(samples):
        raise UserError(f"{index.list_file}: the fold is empty: no image shows any of the classes {list(class_ids)} "
                        f"with {min_pixels} pixels; check data.val_list, data.classes and data.min_pixels")
    return samples


def write_manifest(samples: list[Sample], index: Index, classes: Classes, remark: str) -> str:
    """The text of a manifest."""
    fields = [(index.pairs[s.row][1], str(s.class_id), classes.name(s.class_id)) for s in samples]
    lines = [("\t" if " " in mask else " ").join((mask, *rest)) for mask, *rest in fields]
    return "\n".join([f"# {remark}", "# mask, class id, class name", *lines]) + "\n"


def read_manifest(path: str | Path, index: Index, classes: Classes, allowed: tuple[int, ...]) -> list[Sample]:
    """The samples of a manifest, in its order; a sample that occurs several times is counted as often.

    Raises UserError, naming the line, for a mask that is not in the index's list, for a class that is not one of the
    ``allowed`` ids or has another name here, and for a class that the mask does not show.
    """
    lines = read_lines(path, "eval.manifest names a file that python -m data.samples made")
    rows = {mask: row for row, (_, mask) in enumerate(index.pairs)}
    samples = []
    for number, line in lines:
        parts = line.split("\t") if "\t" in line else line.split(maxsplit=2)
        if parts[0].startswith("#"):
            continue
        where = f"{path}:{number}"
        if len(parts) != 3 or not (re.fullmatch(r"[0-9]{1,3}", parts[1])):
            raise UserError(f"{where}: {shown(line)} should be a mask, a class id and the class's name")
        mask, class_id, name = parts[0], int(parts[1]), parts[2].strip()
        if mask not in rows:
            raise UserError(f"{where}: {mask} is not in {index.list_file}; the manifest belongs to another list")
        if class_id not in allowed or classes.name(class_id) != name:
            names = ", ".join(f"{c} {classes.name(c)}" for c in allowed)
            raise UserError(f"{where}: {class_id} {name} is none of this fold's unseen classes ({names}); check fold "
                            f"and data.classes")
        if not index.pixels[rows[mask], class_id]:
            raise UserError(f"{where}: {mask} shows no pixel of {class_id} {name}; the manifest was made from other "
                            f"masks, make it again")
        samples.append(Sample(rows[mask], class_id))
    if not samples:
        raise UserError(f"{path}: holds no samples; make it again")
    return samples


def main() -> None:
    cfg = from_command_line(sys.argv[1:])
    classes = classes_of(cfg.data)
    index = read_index(cfg.data.root, cfg.data.val_list, len(classes.names), cfg.dataset)
    samples = draw_samples(cfg, index, classes)[0]
    remark = (f"{cfg.dataset} fold {cfg.fold}, {cfg.eval.protocol}, {len(samples)} samples of {cfg.data.val_list}, "
              f"classes from {cfg.data.min_pixels} px on, seed {cfg.eval.seed}")
    print(write_manifest(samples, index, classes, remark), end="")


if __name__ == "__main__":
    run_main(main)

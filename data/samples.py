"""Which (image, class) samples a fold trains on and is tested on (as in PFENet, BAM and ESDA).

    python -m data.samples --config config/pascal/esda.yaml fold=0 > lists/pascal/episodic_fold0.txt

prints the test samples as a manifest, so that two codebases can score the same ones: ``eval.manifest=FILE``. A line
holds a mask, a class id and the class's name; lines that begin with # are remarks.
"""
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.files import read_lines
from data.folds import Classes, classes_of
from data.index import Index, read_index
from util.config import Config, from_command_line
from util.runtime.errors import UserError, run_main


class Sample(NamedTuple):
    """Image of a list, with the query class."""
    row: int        # line of the list, from 0
    class_id: int


@dataclass(frozen=True)
class TrainImages:
    """Training images of a fold."""
    rows: list[int]                 # lines of the list
    classes: list[tuple[int, ...]]  # of each image, those that may be drawn
    absent: list[tuple[int, ...]]   # of each image, those that it does not show
    ignored: tuple[int, ...] = ()   # classes whose pixels are ignored in all of them


def train_images(index: Index, classes: Classes, fold: int, min_pixels: int, which: str) -> TrainImages:
    """Select the images with ``min_pixels`` or more of a class to learn from; any of their classes may be drawn.

    which: ``seen`` drops images with any unseen pixel (PFENet, BAM, ESDA); ``ignore`` keeps them, such pixels ignored;
    ``all`` learns from every class. Raises UserError if none is left.
    """
    unseen = list(classes.unseen(fold))
    allowed = np.array(range(1, len(classes.names) + 1) if which == "all" else classes.seen(fold), int)
    good = (index.pixels[:, allowed] >= min_pixels).any(axis=1)
    if which == "seen":
        good &= index.pixels[:, unseen].sum(axis=1) == 0
    rows = some(np.flatnonzero(good).tolist(), index, f"shows a class to learn from with {min_pixels} pixels"
                 + " and no unseen class" * (which == "seen"))
    visible = index.pixels[np.ix_(rows, allowed)] > 0
    present, absent = ([tuple(allowed[which].tolist()) for which in part] for part in (visible, ~visible))
    return TrainImages(rows, present, absent, tuple(unseen) if which == "ignore" else ())


def exhaustive(index: Index, class_ids: tuple[int, ...], min_pixels: int) -> list[Sample]:
    """List every image with each class of ``class_ids`` it shows, in list order."""
    present = np.argwhere(index.pixels[:, class_ids] >= min_pixels).tolist()
    return [Sample(row, class_ids[k]) for row, k in present]


def episodic(index: Index, class_ids: tuple[int, ...], min_pixels: int, count: int, seed: int) -> list[Sample]:
    """Draw ``count`` samples going round the test list in order, the class at random among the image's own."""
    rows = list(dict.fromkeys(sample.row for sample in exhaustive(index, class_ids, min_pixels)))
    samples = []
    for i in range(count):
        row = rows[i % len(rows)]
        present = [c for c in class_ids if index.pixels[row, c]]
        samples.append(Sample(row, int(np.random.default_rng((seed, i)).choice(present))))
    return samples


def eval_samples(cfg: Config, index: Index, classes: Classes) -> list[list[Sample]]:
    """Return the fold's test samples; ``eval.draws`` lists under the episodic protocol.

    Under the generalised protocol they are the exhaustive ones, which select the epoch in training. Raises UserError
    where there is none.
    """
    unseen, options = classes.unseen(cfg.fold), cfg.eval
    if options.manifest:
        return [read_manifest(options.manifest, index, classes, unseen)]
    some(exhaustive(index, unseen, cfg.data.min_pixels), index,
         f"shows an unseen class ({', '.join(map(classes.name, unseen))}) with {cfg.data.min_pixels} pixels")
    if options.protocol == "episodic":
        return [episodic(index, unseen, cfg.data.min_pixels, options.samples, options.seed + k)
                for k in range(options.draws)]
    return [exhaustive(index, unseen, cfg.data.min_pixels)]


def distinct(draws: list[list[Sample]]) -> list[Sample]:
    """Return the samples of all draws, each once, in the order of first appearance: the ones to predict."""
    return list(dict.fromkeys(sample for draw in draws for sample in draw))


def spread(samples: list, count: int) -> list:
    """Take ``count`` of the samples, evenly spaced over the list; all of them if there are fewer."""
    if count >= len(samples):
        return samples
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int)]


def some(items: list, index: Index, what: str) -> list:
    """Return ``items``. Raises UserError where there are none: no image of the list does ``what``."""
    if not items:
        raise UserError(f"{index.list_file}: the fold is empty: no image {what}; check the lists, data.classes and "
                        f"data.min_pixels")
    return items


def write_manifest(samples: list[Sample], index: Index, classes: Classes, remark: str) -> str:
    """Format samples as the text of a manifest."""
    fields = [(index.pairs[s.row][1], str(s.class_id), classes.name(s.class_id)) for s in samples]
    lines = [("\t" if len(mask.split()) > 1 else " ").join((mask, *rest)) for mask, *rest in fields]
    return "\n".join([f"# {remark}", "# mask, class id, class name", *lines]) + "\n"


def read_manifest(path: str | Path, index: Index, classes: Classes, allowed: tuple[int, ...]) -> list[Sample]:
    """Read a manifest's samples, in its order; repeated samples count as often.

    Raises UserError for a mask that the list lacks, a class not ``allowed`` or of another name, and one not shown.
    """
    rows = {mask: row for row, (_, mask) in enumerate(index.pairs)}
    known = {(str(c), classes.name(c)): c for c in allowed}
    samples = []
    for number, line in read_lines(path, "eval.manifest names a file that python -m data.samples made"):
        if line.startswith("#"):
            continue
        mask, *named = line.split("\t") if "\t" in line else line.split(maxsplit=2)
        row, class_id = rows.get(mask), known.get(tuple(named))
        problem = (f"{mask} is not in {index.list_file}" if row is None else
                   f"{' '.join(named)} is none of this fold's unseen classes" if class_id is None else
                   f"{mask} shows no pixel of {' '.join(named)}" if not index.pixels[row, class_id] else "")
        if problem:
            raise UserError(f"{path}:{number}: {problem}; a line is a mask, a class id and the class's name, of the "
                            f"data and the fold that the manifest was made from")
        samples.append(Sample(row, class_id))
    return some(samples, index, f"is named by {path}")


def main() -> None:
    cfg = from_command_line(sys.argv[1:])
    classes = classes_of(cfg.data)
    index = read_index(cfg.data.root, cfg.data.val_list, len(classes.names), cfg.dataset)
    samples = eval_samples(cfg, index, classes)[0]
    remark = (f"{cfg.dataset} fold {cfg.fold}, {cfg.eval.protocol}, {len(samples)} samples of {cfg.data.val_list}, "
              f"classes from {cfg.data.min_pixels} px on, seed {cfg.eval.seed}")
    print(write_manifest(samples, index, classes, remark), end="")


if __name__ == "__main__":
    run_main(main)

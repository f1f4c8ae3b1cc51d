"""Which (image, class) samples a fold trains on and is tested on (PROTOCOL: PFENet, BAM, ESDA)."""
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.folds import Classes
from data.index import Index
from util.runtime.errors import UserError


class Sample(NamedTuple):
    """One image of a list and one class of it."""
    row: int        # line of the list, from 0
    class_id: int


TRAINED_ON = {  # data.train_classes, as results tell of it
    "seen": "images without any unseen class, as published",
    "ignore": "images with seen classes, unseen classes' pixels ignored",
    "all": "masks of all classes: a ceiling, not zero-shot",
}


@dataclass(frozen=True)
class TrainImages:
    """The images a fold trains on, the classes that may be drawn in each, and those whose pixels are ignored."""
    rows: list[int]
    classes: list[tuple[int, ...]]
    ignored: tuple[int, ...] = ()


def train_images(index: Index, classes: Classes, fold: int, min_pixels: int, which: str) -> TrainImages:
    """Images with at least one present class to learn from.

    A class is present from ``min_pixels`` on; once an image is in, any of its classes may be drawn, however small.
    which: ``seen`` drops images with any unseen pixel (PFENet, BAM, ESDA); ``ignore`` keeps them for their seen
    classes and ignores the unseen ones' pixels; ``all`` learns from every class.
    """
    unseen = list(classes.unseen(fold))
    allowed = np.array(range(1, len(classes.names) + 1) if which == "all" else classes.seen(fold))
    good = (index.pixels[:, allowed] >= min_pixels).any(axis=1)
    if which == "seen":
        good &= index.pixels[:, unseen].sum(axis=1) == 0
    rows = np.flatnonzero(good).tolist()
    if not rows:
        raise UserError(f"{index.list_file}: fold {fold} is empty: no image shows a seen class of {min_pixels} pixels "
                        f"and no unseen class; check data.train_list, data.classes and data.min_pixels")
    drawn = [tuple(int(c) for c in allowed[index.pixels[row, allowed] > 0]) for row in rows]
    return TrainImages(rows, drawn, tuple(unseen) if which == "ignore" else ())


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
        there = ids[index.pixels[row, ids] > 0]
        samples.append(Sample(row, int(np.random.default_rng((seed, i)).choice(there))))
    return samples


def distinct(draws: list[list[Sample]]) -> list[Sample]:
    """The samples of all draws, each once, in the order of their first appearance: what has to be predicted."""
    return list(dict.fromkeys(sample for draw in draws for sample in draw))


def spread(samples: list[Sample], count: int) -> list[Sample]:
    """``count`` of the samples, evenly spaced over the list."""
    if count >= len(samples):
        return samples
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int)]


def _not_empty(samples, index: Index, class_ids, min_pixels: int):
    if not len(samples):
        raise UserError(f"{index.list_file}: the fold is empty: no image shows any of the classes {list(class_ids)} with "
                        f"{min_pixels} pixels; check data.val_list, data.classes and data.min_pixels")
    return samples

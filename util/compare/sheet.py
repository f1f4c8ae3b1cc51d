"""A sheet: what the configurations of a table predict for the same samples, a column each, a row a sample."""
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.files import read_image
from data.samples import spread
from util.compare.groups import Group
from util.compare.picture import name_among, text_width, write_text

MOST = 12                      # samples on a sheet
_WIDTH, _HEIGHT = 256, 192     # px, a picture fits into that
_MARGIN, _LINE, _GAP = 16, 22, 6


class Shared(NamedTuple):
    """A sample that every group has drawn."""
    fold: int
    name: str                  # of the class
    folders: tuple[Path, ...]  # of its pictures, one a group, in their order


def shared_samples(groups: list[Group]) -> list[Shared]:
    """At most MOST of them, dealt evenly to the folds, and in a fold evenly spaced over the list."""
    drawn = [_drawn(group) for group in groups]
    names = {c: name for group in reversed(groups) for r in group.results for c, name in r.names.items()}
    by_fold: dict[int, list[Shared]] = {}
    for fold, file, class_id in sorted(set.intersection(*map(set, drawn))):
        folders = tuple(found[fold, file, class_id] for found in drawn)
        by_fold.setdefault(fold, []).append(Shared(fold, names[class_id], folders))
    dealt = sorted((k, fold) for fold, found in by_fold.items() for k in range(len(found)))[:MOST]
    rows = Counter(fold for _, fold in dealt)
    return [sample for fold, found in by_fold.items() for sample in spread(found, rows[fold])]


def _drawn(group: Group) -> dict[tuple[int, str, int], Path]:
    """{(fold, name, class id): folder of pictures} of each fold's first seed that has any."""
    first = {r.fold: r for r in reversed(group.results) if r.pictures}
    return {(fold, path.name, class_id): path for fold, r in first.items() for path, class_id in r.pictures.items()}


def sheet(groups: list[Group], samples: list[Shared]) -> np.ndarray:
    """(H, W, 3) uint8 RGB: for each sample the image, the truth and every group's prediction, under their names.

    Raises UserError for a picture that cannot be read.
    """
    heads = ["image", "truth", *(name_among(groups, group) for group in groups)]
    captions = [f"{s.name}, fold {s.fold}: {s.folders[0].name}" for s in samples]
    rows = [_pictures(sample) for sample in samples]
    widths = [max(text_width(head), *(row[k].shape[1] for row in rows)) + _GAP for k, head in enumerate(heads)]
    places = np.cumsum([_MARGIN, *widths])[:-1].tolist()
    height = sum(row[0].shape[0] + 2 * _LINE + _MARGIN for row in rows)
    across = max(sum(widths), *map(text_width, captions))
    out = np.full((_MARGIN + height, 2 * _MARGIN + across, 3), 255, np.uint8)
    y = _MARGIN
    for caption, row in zip(captions, rows):
        write_text(out, caption, _MARGIN, y + 14)
        y += 2 * _LINE
        for x, head, picture in zip(places, heads, row):
            write_text(out, head, x, y - 6)
            out[y:y + picture.shape[0], x:x + picture.shape[1]] = picture
        y += row[0].shape[0] + _MARGIN
    return out


def _pictures(sample: Shared) -> list[np.ndarray]:
    """Image, truth and predictions, all of one size."""
    first, *_ = sample.folders
    files = [first / "image.png", first / "truth.png", *(folder / "prediction.png" for folder in sample.folders)]
    pictures = [read_image(file) for file in files]
    height, width = pictures[0].shape[:2]
    scale = min(_WIDTH / width, _HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]

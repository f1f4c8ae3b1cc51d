"""Cached per-image class pixel counts; folds and samples derive from them. Remade when list or masks change."""
import hashlib
import io
import os
import posixpath
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.files import how_to_make, read_list, read_mask_and_palette
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import UserError
from util.runtime.progress import progress


@dataclass(frozen=True)
class Index:
    """Class pixel counts: (image, mask) paths of N list lines, and (N, K + 1) int64 pixels, column c of class c."""
    list_file: str
    pairs: list[tuple[str, str]]
    pixels: np.ndarray
    files: Sequence = ()    # what tells each image's file from others, under whatever path it is listed
    digests: Sequence = ()  # N int64, of the masks' values

    @property
    def version(self) -> str:
        """Hash, 12 hex digits, of the list in order and its masks' values; the same on any machine."""
        listed = "\n".join(f"{image} {mask}" for image, mask in self.pairs).encode("utf-8", "surrogateescape")
        return hashlib.sha256(listed + np.array(self.digests, "<i8").tobytes()).hexdigest()[:12]


def read_index(root: str | Path, list_file: str | Path, classes: int, dataset: str = "") -> Index:
    """Read or make an index; dataset: for the remedy. Raises UserError for missing files, bad or classless masks, an
    image that is listed twice, and masks whose palettes disagree."""
    root, remedy = Path(root), how_to_make(dataset)
    pairs = read_list(list_file, remedy)
    digest, files = hashlib.sha256(f"{classes}, with digests".encode()), []
    for image, mask in pairs:
        try:
            files.append(identity(root / image))
            status = os.stat(root / mask)
        except OSError as error:
            raise UserError(f"{list_file}: {error.filename} is not there; {remedy}, or set data.root") from None
        # The time of the last change catches a mask that was copied here with its old time and size.
        digest.update(f"{image} {mask} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode())
    kept = root / "index" / f"{Path(list_file).stem}-{digest.hexdigest()[:16]}.npy"
    colours = []
    if kept.is_file():
        table = np.load(kept)
    else:
        pixels, colours, digests = zip(*map_in_threads(partial(_read, classes), [root / mask for _, mask in pairs],
                                                       f"indexing {Path(list_file).name}"))
        table = np.column_stack([pixels, digests]).astype(np.int64)
        print(f"indexed {len(pairs)} masks of {list_file}", file=sys.stderr, flush=True)  # stdout may be a manifest
    index = Index(str(list_file), pairs, table[:, :-1], files, table[:, -1])
    if problem := classless(index) or repeated(index) or two_colours(pairs, colours):
        raise UserError(f"{list_file}: {problem}")
    if not kept.is_file():
        buffer = io.BytesIO()
        np.save(buffer, table)
        with suppress(UserError):   # where the folder cannot be written to, each run counts again
            write_bytes_atomically(kept, buffer.getvalue())
    return index


def _read(classes: int, path: Path) -> tuple[np.ndarray, dict[int, bytes], int]:
    mask, palette = read_mask_and_palette(path, classes)
    digest = hashlib.sha256(f"{mask.shape}".encode() + mask.tobytes()).digest()
    return *pixels_and_colours(mask, palette, classes), int.from_bytes(digest[:8], "little", signed=True)


def pixels_and_colours(mask: np.ndarray, palette: bytes, classes: int) -> tuple[np.ndarray, dict[int, bytes]]:
    """Count a mask's pixels of each class, (classes + 1,), and look up the RGB that its palette gives these classes."""
    pixels = count_pixels(mask, classes)
    return pixels, {c: palette[3 * c:3 * c + 3] for c in np.flatnonzero(pixels).tolist() if palette}


def count_pixels(mask: np.ndarray, classes: int) -> np.ndarray:
    """Count the pixels of each class in a mask (H, W), 255 left out: (classes + 1,) int64."""
    return np.bincount(mask.ravel(), minlength=256)[:classes + 1]


def map_in_threads(function: Callable, items: list, label: str) -> list:
    """Map ``function`` over items, in order, with progress. Threads suffice: decoders work outside the GIL."""
    with ThreadPoolExecutor() as pool:
        return list(progress(pool.map(function, items), label, len(items)))


# Lists and masks that are not what they seem

def identity(path: Path) -> object:
    """Return what a file has alone, under whatever path it is listed. Raises OSError where none is there."""
    status = os.stat(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)  # some systems lack it


def classless(index: Index) -> str:
    """Say that no mask of a list shows a class; "" if one does."""
    return "" if index.pixels[:, 1:].any() else (
        "no mask shows any class, only 0 and 255 (background and ignored); masks hold class ids from 1 on: if 255 "
        "stands for an object, write 1")


def repeated(index: Index) -> str:
    """Describe an image that a list holds twice, under two paths; "" without one."""
    first = dict(zip(reversed(index.files), reversed(index.pairs)))
    twice = [(first[file][0], image) for file, (image, _) in zip(index.files, index.pairs) if first[file][0] != image]
    return f"{' and '.join(twice[0])} are one file; list each image once" if twice else ""


def overlap(train: Index, val: Index) -> str:
    """Describe images or masks that two lists share; "" without any."""
    masks = [[posixpath.normpath(mask) for _, mask in index.pairs] for index in (train, val)]
    for k, (what, ours, theirs) in enumerate((("images", train.files, val.files), ("masks", *masks))):
        if both := set(ours) & set(theirs):
            one = min(pair[k] for pair, file in zip(train.pairs, ours) if file in both)
            return f"{len(both)} {what} are in the training and in the validation list, such as {one}"
    return ""


def two_colours(pairs: list[tuple[str, str]], colours: list[dict[int, bytes]]) -> str:
    """Describe a value that has other colours in the palettes of two masks; "" without one.

    A tool that shortens a palette to the colours in use renumbers the values, while the picture stays the same.
    """
    first: dict[int, tuple[str, bytes]] = {}
    for (_, mask), found in zip(pairs, colours):
        for value, colour in found.items():
            other, its = first.setdefault(value, (mask, colour))
            if its != colour:
                return (f"the value {value} has the colour #{its.hex()} in {other} and #{colour.hex()} in {mask}: a "
                        f"tool renumbered the palette. Make the masks anew from their colours (data.prepare masks "
                        f"--colours), or save them as grey PNGs if their values are right")
    return ""

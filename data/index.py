"""Cached per-image class pixel counts; folds and samples derive from them. Remade when list or masks change."""
import hashlib
import io
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import how_to_make, read_list, read_mask
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import UserError
from util.runtime.progress import progress


@dataclass(frozen=True)
class Index:
    """Class pixel counts: (image, mask) paths of N list lines, and (N, K + 1) int64 pixels, column c of class c."""
    list_file: str
    pairs: list[tuple[str, str]]
    pixels: np.ndarray

    @property
    def version(self) -> str:
        """Hash, 12 hex digits, of the list in order and its masks' class pixel counts; the same on any machine."""
        listed = "\n".join(f"{image} {mask}" for image, mask in self.pairs).encode("utf-8", "surrogateescape")
        return hashlib.sha256(listed + self.pixels.astype("<i8").tobytes()).hexdigest()[:12]


def read_index(root: str | Path, list_file: str | Path, classes: int, dataset: str = "") -> Index:
    """Read or make an index; dataset: for the remedy. Raises UserError for missing files, bad or classless masks."""
    root, remedy = Path(root), how_to_make(dataset)
    pairs = read_list(list_file, remedy)
    digest = hashlib.sha256(f"{classes}".encode())
    for image, mask in pairs:
        try:
            os.stat(root / image)
            status = os.stat(root / mask)
        except OSError as error:
            raise UserError(f"{list_file}: {error.filename} is not there; {remedy}, or set data.root") from None
        # The time of the last change catches a mask that was copied here with its old time and size.
        digest.update(f"{image} {mask} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode())
    kept = root / "index" / f"{Path(list_file).stem}-{digest.hexdigest()[:16]}.npy"
    if kept.is_file():
        pixels = np.load(kept)
    else:
        pixels = np.stack(map_in_threads(lambda pair: count_pixels(read_mask(root / pair[1], classes), classes), pairs,
                                         f"indexing {Path(list_file).name}")).astype(np.int64)
        print(f"indexed {len(pairs)} masks of {list_file}", file=sys.stderr, flush=True)  # stdout may be a manifest
        buffer = io.BytesIO()
        np.save(buffer, pixels)
        with suppress(UserError):   # where the folder cannot be written to, each run counts again
            write_bytes_atomically(kept, buffer.getvalue())
    if not pixels[:, 1:].any():
        raise UserError(f"{list_file}: no mask shows any class, only 0 and 255 (background and ignored); masks hold "
                        f"class ids from 1 on, so write 1 where 255 stands for an object")
    return Index(str(list_file), pairs, pixels)


def count_pixels(mask: np.ndarray, classes: int) -> np.ndarray:
    """Count the pixels of each class in a mask (H, W), 255 left out: (classes + 1,) int64."""
    return np.bincount(mask.ravel(), minlength=256)[:classes + 1]


def map_in_threads(function: Callable, items: list, label: str) -> list:
    """Map ``function`` over items, in order, with progress. Threads suffice: OpenCV decodes outside the GIL."""
    with ThreadPoolExecutor() as pool:
        return list(progress(pool.map(function, items), label, len(items)))

"""How many pixels each class has in each mask of a list: what folds and samples are made from.

One pass over the masks serves all folds and is kept beside the data until list or masks change.
"""
import hashlib
import io
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import read_list, read_mask
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import UserError
from util.runtime.progress import progress


@dataclass(frozen=True)
class Index:
    """pairs: (image, mask) paths of each list line; pixels: (N, K + 1) int64, column c the pixels of class c."""
    list_file: str
    pairs: list[tuple[str, str]]
    pixels: np.ndarray


def read_index(root: str | Path, list_file: str | Path, classes: int) -> Index:
    """Read the index of a list, or make it. Raises UserError for a line that points nowhere and for a bad mask."""
    root, pairs = Path(root), read_list(list_file)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; python -m data.prepare makes it from the official archives "
                        f"(docs/data.md), or set data.root")
    digest = hashlib.sha256(f"{classes}".encode())
    for image, mask in pairs:
        if not (root / image).is_file():
            raise _missing(root / image, list_file, (image, mask))
        try:
            status = os.stat(root / mask)
        except OSError:
            raise _missing(root / mask, list_file, (image, mask)) from None
        digest.update(f"{image} {mask} {status.st_size} {status.st_mtime_ns}\n".encode())
    kept = root / "index" / f"{Path(list_file).stem}-{digest.hexdigest()[:16]}.npy"
    if kept.is_file():
        try:
            return Index(str(list_file), pairs, np.load(kept, allow_pickle=False))
        except (ValueError, EOFError):
            pass  # made again below

    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:  # cv2 decodes outside the interpreter's lock
        rows = list(progress(pool.map(lambda pair: count_pixels(read_mask(root / pair[1], classes), classes), pairs),
                             f"indexing {Path(list_file).name}", total=len(pairs)))
    seconds = time.perf_counter() - start
    print(f"indexed {len(pairs)} masks of {list_file} in {seconds:.1f} s ({len(pairs) / seconds:.0f}/s)",
          file=sys.stderr, flush=True)  # stdout may be a manifest
    pixels = np.stack(rows).astype(np.int64)
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    write_bytes_atomically(kept, buffer.getvalue())
    return Index(str(list_file), pairs, pixels)


def count_pixels(mask: np.ndarray, classes: int) -> np.ndarray:
    """(classes + 1,) int64: the pixels of each class in a mask (H, W), 255 left out."""
    return np.bincount(mask.ravel(), minlength=256)[:classes + 1]


def _missing(path: Path, list_file: str | Path, pair: tuple[str, str]) -> UserError:
    """Names the line of the list, which blank lines before it move down."""
    lines = Path(list_file).read_text(encoding="utf-8").splitlines()
    number = 1 + [tuple(line.split()) for line in lines].index(pair)
    return UserError(f"{list_file}:{number}: {path} is not there; check data.root or mend the list")

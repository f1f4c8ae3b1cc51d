"""How many pixels each class has in each mask of a list: what folds and samples are made from.

One pass over the masks serves all folds. Its result is kept beside the data until list or masks change.
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

from data.files import how_to_make, read_lines, read_list, read_mask
from util.run.atomic import write_where_possible
from util.runtime.errors import UserError
from util.runtime.progress import progress


@dataclass(frozen=True)
class Index:
    """pairs: (image, mask) paths of each list line; pixels: (N, K + 1) int64, column c the pixels of class c."""
    list_file: str
    pairs: list[tuple[str, str]]
    pixels: np.ndarray

    @property
    def version(self) -> str:
        """Twelve digits that change with the list, its order, and the masks' pixels of any class, on any machine."""
        listed = "\n".join(f"{image} {mask}" for image, mask in self.pairs).encode("utf-8", "surrogateescape")
        return hashlib.sha256(listed + self.pixels.astype("<i8").tobytes()).hexdigest()[:12]


def read_index(root: str | Path, list_file: str | Path, classes: int, dataset: str = "") -> Index:
    """Read the index of a list, or make it.

    dataset: its name, from which errors tell the command that makes it.
    Raises UserError for a line that points nowhere, for a bad mask and for masks without any class.
    """
    root, remedy = Path(root), how_to_make(dataset)
    pairs = read_list(list_file, remedy if dataset else "")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {remedy}, or set data.root")
    digest = hashlib.sha256(f"{classes}".encode())
    for place, (image, mask) in enumerate(pairs):
        try:
            os.stat(root / image)
            status = os.stat(root / mask)
        except OSError as error:
            line, _ = read_lines(list_file, remedy)[place]  # blank lines before it move it down
            raise UserError(f"{list_file}:{line}: {error.filename} is not there; {remedy}, or set data.root") from None
        # The time of the last change catches a mask that was copied here with its old time and size.
        digest.update(f"{image} {mask} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode())
    name = f"{Path(list_file).stem}-{digest.hexdigest()[:16]}.npy"
    places = [root / "index" / name, _cache() / name]
    pixels = _kept(places, (len(pairs), classes + 1))
    if pixels is None:
        pixels = _count(root, list_file, pairs, classes)
        _keep(pixels, places)
    if not pixels[:, 1:].any():
        raise UserError(f"{list_file}: no mask shows any class, only 0 and 255 (background and ignored); masks hold "
                        f"class ids from 1 on, so write 1 where 255 stands for an object")
    return Index(str(list_file), pairs, pixels)


def count_pixels(mask: np.ndarray, classes: int) -> np.ndarray:
    """(classes + 1,) int64: the pixels of each class in a mask (H, W), 255 left out."""
    return np.bincount(mask.ravel(), minlength=256)[:classes + 1]


def _count(root: Path, list_file: str | Path, pairs: list[tuple[str, str]], classes: int) -> np.ndarray:
    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:  # cv2 decodes outside the interpreter's lock
        rows = list(progress(pool.map(lambda pair: count_pixels(read_mask(root / pair[1], classes), classes), pairs),
                             f"indexing {Path(list_file).name}", total=len(pairs)))
    seconds = time.perf_counter() - start
    print(f"indexed {len(pairs)} masks of {list_file} in {seconds:.1f} s ({len(pairs) / seconds:.0f}/s)",
          file=sys.stderr, flush=True)  # stdout may be a manifest
    return np.stack(rows).astype(np.int64)


def _cache() -> Path:
    """Where an index is kept if the data's folder cannot be written to."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "esda" / "index"


def _kept(places: list[Path], shape: tuple[int, int]) -> np.ndarray | None:
    """The counts at the first place that has them, None if none does. A broken file counts as none."""
    for place in places:
        try:
            pixels = np.load(place, allow_pickle=False)
        except Exception:  # numpy raises many kinds for a file that it did not write
            continue
        if pixels.shape == shape and pixels.dtype == np.int64:
            return pixels
    return None


def _keep(pixels: np.ndarray, places: list[Path]) -> None:
    """Write the counts to the first place that takes them. If none does, each run counts again."""
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    try:
        write_where_possible(places, buffer.getvalue())
    except UserError as error:
        print(f"the index is not kept: {error}", file=sys.stderr, flush=True)

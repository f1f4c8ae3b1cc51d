"""Images and names that a user gives. Imports no torch, so that predict.py tells mistakes at once."""
import glob
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import regex
from PIL import Image

from data.files import SUFFIXES, on_white, read_image
from util.runtime.errors import UserError

MOST_PIXELS = 1 << 27   # of an image: 134 megapixels, which take some 3 GB on their way
MOST_NAMES = 254        # with the rival words: values of an 8-bit mask, less 0 for none and 255, by custom for ignored
OURS = regex.compile(r"\.(json|overlay\.png|mask(-\d+)?\.png)$")     # what prediction writes
TRAINING_FREE = ("clip_prior", "maskclip", "clearclip", "naclip", "decomposed")   # kinds of model that need CLIP alone


def find_images(arguments: list[str]) -> list[Path]:
    """Find images by path, folder (not below) or glob, each once; a note names others. Raises UserError for none."""
    found: dict[Path, Path] = {}
    others: dict[str, None] = {}
    for argument in arguments:
        files = [Path(argument)]
        if not files[0].is_file():
            pattern = f"{glob.escape(argument)}/*" if files[0].is_dir() else argument
            there = [file for file in map(Path, sorted(glob.glob(pattern, recursive=True)))
                     if not file.is_dir() and not OURS.search(file.name)]
            files = [file for file in there if file.suffix.lower() in SUFFIXES and file.is_file()]
            others |= dict.fromkeys(map(str, sorted({*there} - {*files})))
        if not files:
            raise UserError(f"{argument}: no such image, and no folder or glob with {', '.join(SUFFIXES)}; check it")
        for file in files:
            found.setdefault(file.resolve(), file)
    if others:
        print(f"note: {len(others)} files are left out, which are not {', '.join(SUFFIXES)}: {', '.join([*others][:5])}"
              + " ..." * (len(others) > 5), file=sys.stderr)
    return list(found.values())


def as_image(source) -> np.ndarray:
    """Convert a path, an array (H, W, 3) uint8 RGB or a Pillow image to (H, W, 3) uint8 RGB.

    EXIF orientation turns files alone, so that masks lie over the pixels of arrays and Pillow images. Raises UserError
    for other arrays, more than 8 bits, unreadable files and sizes beyond MOST_PIXELS.
    """
    if isinstance(source, (str, Path)):
        image = read_image(source, upright=True)
    elif isinstance(source, Image.Image) and source.mode[0] not in "IF":    # of these nobody knows which value is white
        image = np.array(on_white(source))
    else:
        image = np.asarray(source)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not 0 < image.size <= 3 * MOST_PIXELS:
        what = source if isinstance(source, (str, Path)) else "the image"
        raise UserError(f"{what}: an array {image.shape} of {image.dtype}; an image has (H, W, 3) values of uint8 RGB "
                        f"and at most {MOST_PIXELS:,} pixels")
    return image


def split_names(texts: Iterable[str]) -> list[str]:
    """Split texts at commas, semicolons, also full-width ones, and line breaks; mends UTF-8 from an ASCII terminal."""
    text = "\n".join(texts).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return [name for name in regex.split(r"[,;，、；\v\f\r\n\x85\u2028\u2029]", text) if name.strip()]


def checked_names(names: str | Iterable[str], others: str | Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Tidy names and rivals. Raises UserError for none, too many, empty, equal ones (CLIP reads no case or blanks)."""
    names, others = ([" ".join(word.split()) for word in ([words] if isinstance(words, str) else words)]
                     for words in (names, others))
    words = [word.lower() for word in names + others]
    if not names or not all(words):
        raise UserError("no names, or an empty one; say what to look for, such as star or traffic light")
    if len(words) > MOST_NAMES:
        raise UserError(f"{len(words)} names and rival words, and {MOST_NAMES} fit into a mask of 8 bits; ask twice")
    if len(words) > len(set(words)):
        raise UserError(f"{max(words, key=words.count)!r} is given twice, and CLIP reads no case; give it once")
    return names, others

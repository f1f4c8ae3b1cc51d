"""Readers and writers of lists, images and masks. Each error is one line that names the file and the remedy."""
import io
import os
import posixpath
import re
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from util.run.atomic import write_bytes_atomically
from util.runtime.errors import UserError
from util.runtime.png import encode_png
from util.runtime.workers import map_in_processes

Image.MAX_IMAGE_PIXELS = 1 << 29    # Pillow refuses twice as many, 2^30, as OpenCV does
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# Markers of a JPEG: 00 and D0 to D7 belong to the pixels' code, and FF only fills
MARKER, END_OF_JPEG, PROGRESSIVE = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]"), b"\xff\xd9", b"\xff\xc2"
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
GREYS = np.array([[128], [64]])     # what an empty code decodes to, the second one as CMYK
GREY, PALETTE = 0, 3                # colour types of a PNG
FORMATS = ("PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")  # beside JPEG: those that Pillow gives as they are meant
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # of the images that a folder is searched for
ORIENTATION, DEPTH, SIGNED = 0x0112, 258, 339   # EXIF's tag, and TIFF's of the bits a channel and of their kind
RAMP = bytes(value for value in range(256) for _ in "RGB")
CHECK = "check data.root and the list that names it"
MAKERS = {"pascal": "data.prepare pascal", "coco": "data.prepare coco", "shapes": "data.shapes.make",
          **{name: f"data.shapes.make config/{name}/data.yaml" for name in ("emoji", "emoji60")}}


def how_to_make(dataset: str) -> str:
    """Name the command that makes ``dataset``, or the lists of the user's own data."""
    return f"python -m {MAKERS.get(dataset, 'data.lists')} makes it (docs/data.md)"


def read_file(path: str | Path, remedy: str, text: bool = False) -> bytes | str:
    """Read bytes, or UTF-8 text. Raises UserError, ending in ``remedy``, for an unreadable file."""
    reason = "not a regular file"   # but a pipe, say, which would be waited for
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            data = Path(path).read_bytes()
            return data.decode("utf-8-sig") if text else data
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "not a text file in UTF-8").lower()
    raise UserError(f"{path}: {reason}; {remedy}")


# Lists

def read_lines(path: str | Path, remedy: str) -> list[tuple[int, str]]:
    """Read the stripped lines that are not blank as (number from 1, line)."""
    lines = enumerate(read_file(path, remedy, True).split("\n"), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_list(path: str | Path, remedy: str = how_to_make("")) -> list[tuple[str, str]]:
    """Read lines "image mask" as pairs of paths below the data root; a tab separates names with spaces.

    Raises UserError, for duplicates too.
    """
    pairs, first = [], ({}, {})
    for number, line in read_lines(path, remedy):
        pair = tuple(part.strip() for part in line.replace("\\", "/").split("\t" if "\t" in line else None))
        before = [lines.setdefault(posixpath.normpath(name), number) for lines, name in zip(first, pair)]
        paired = len(pair) == 2 and "\0" not in line
        if not paired or min(before) < number:
            problem = (f"has an image or a mask of line {min(before)} again; list each once" if paired else
                       "should be an image and a mask, separated by a space, or by a tab where names contain spaces")
            raise UserError(f"{path}:{number}: {line!r:.100} {problem}")
        pairs.append(pair)
    if not pairs:
        raise UserError(f"{path}: the list is empty; {remedy}")
    return pairs


def write_lists(root: Path, parts: dict[str, list[tuple[str, str]]]) -> None:
    """Write ROOT/lists/PART.txt with a line "image mask", paths below ROOT, for each pair of a part."""
    for part, pairs in parts.items():
        lines = ((f"{i}\t{m}\n" if len((i + m).split()) > 1 else f"{i} {m}\n") for i, m in pairs)
        path, text = Path(root) / "lists" / f"{part}.txt", "".join(lines).encode()
        if path.is_file() and path.read_bytes() != text:
            old = next(file for k in count(1) if not os.path.lexists(file := f"{path}.old{k}"))
            print(f"note: {path}: the list that was there is {old} now", file=sys.stderr)
            path.replace(old)
        write_changed(path, text)


def write_changed(path: Path, data: bytes) -> None:
    """Write atomically, unless ``path`` holds ``data`` already: finished work stays untouched."""
    if not path.is_file() or path.read_bytes() != data:
        write_bytes_atomically(path, data)


def write_masks(paint: Callable[[object], np.ndarray], jobs: dict[Path, object], replace: bool = True) -> None:
    """Write ``paint(what)``, (H, W) uint8, as PNG for each {path: what}, on all cores; ``paint`` must be picklable.

    Each file is whole or absent. Raises UserError for a file with other content, unless ``replace``.
    """
    for _ in map_in_processes(partial(_write_mask, paint, replace), jobs.items(), "masks"):
        pass


def _write_mask(paint: Callable, replace: bool, job: tuple[Path, object]) -> None:
    path, data = job[0], encode_png(paint(job[1]))
    if not replace and path.exists() and path.read_bytes() != data:
        raise UserError(f"{path}: is there, and is not what would be made; move it elsewhere, so that it is not lost")
    write_changed(path, data)


# Images and masks

def read_image(path: str | Path, upright: bool = False, alpha: bool = False) -> np.ndarray:
    """Read (H, W, 3) uint8 RGB, from grey and CMYK files too; what is transparent lies on white, as people see it.

    upright: apply EXIF's rotation; off by default because masks are drawn on stored pixels. alpha: (H, W, 4), hidden
    colours as stored. Raises UserError for a missing, unreadable or cut file, and for more than 8 bits a channel.
    """
    data = read_file(path, CHECK)
    image = _decode(path, data)
    if isinstance(image, np.ndarray):   # OpenCV's
        pixels, turn = cv2.cvtColor(image, cv2.COLOR_BGR2RGBA if alpha else cv2.COLOR_BGR2RGB), upright
    else:
        pixels = np.array(image.convert("RGBA") if alpha else on_white(image))
        turn = upright != (image.format == "TIFF")  # which Pillow, like OpenCV, turns unasked
    return turned(pixels, orientation(path), back=not upright) if turn else pixels


def on_white(image: Image.Image) -> Image.Image:
    """Convert to RGB, transparent pixels laid on white. A BMP whose alpha is 0 everywhere does not use it."""
    unused = image.format == "BMP" and image.mode == "RGBA" and not image.getchannel("A").getbbox()
    if image.has_transparency_data and not unused:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def read_mask(path: str | Path, classes: int) -> np.ndarray:
    """Read a mask as ``read_mask_and_palette`` does."""
    return read_mask_and_palette(path, classes)[0]


def read_mask_and_palette(path: str | Path, classes: int) -> tuple[np.ndarray, bytes]:
    """Read (H, W) uint8 of 0, class ids 1..classes and 255, from a grey PNG's values or a palette PNG's indices.

    The palette is RGB after RGB, b"" for a grey mask, also where the palette makes it grey. Raises UserError for a
    missing, unreadable or truncated file, for colours, 16 bits and other formats, which alter values, and for a value
    between ``classes`` and 255.
    """
    data = read_file(path, CHECK)
    bits, kind = data[24:26] if data.startswith(PNG) and len(data) >= 26 else (0, GREY)
    good = bits in (1, 2, 4, 8) and kind in (GREY, PALETTE)
    image = _decode(path, data, "" if good else "not a grey or palette PNG of 8 bits or fewer, which holds a class id "
                                                "a pixel")
    mask = np.array(image if kind == PALETTE else image.convert("L"))
    if kind == GREY and bits < 8:  # Pillow stretches class 1 to 17, 85 or 255
        mask //= 255 // (2 ** bits - 1)
    wrong = mask[(mask > classes) & (mask < 255)]
    if wrong.size:
        raise UserError(f"{path}: class {wrong[0]} is out of range; ids are 0 to {classes}, and 255 for ignored; "
                        f"check data.classes")
    palette = bytes(image.getpalette("RGB")) if kind == PALETTE else b""
    return mask, b"" if RAMP.startswith(palette) else palette


def read_pair(root: str | Path, pair: tuple[str, str], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read image and mask of a list line. Raises UserError, for different sizes too."""
    return read_pair_and_palette(root, pair, classes)[:2]


def read_pair_and_palette(root: str | Path, pair: tuple[str, str], classes: int
                          ) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Read a pair, and the mask's palette."""
    image, (mask, palette) = read_image(Path(root) / pair[0]), read_mask_and_palette(Path(root) / pair[1], classes)
    if image.shape[:2] != mask.shape:
        why = "one of the two files is not the right one"
        if image.shape[1::-1] == mask.shape and orientation(Path(root) / pair[0]) > 4:
            why = "the image has an EXIF rotation, ignored here; turn its pixels (mogrify -auto-orient) or the mask"
        raise UserError(f"{Path(root) / pair[1]}: the mask is {mask.shape[1]}x{mask.shape[0]} but {pair[0]} is "
                        f"{image.shape[1]}x{image.shape[0]}; {why}")
    return image, mask, palette


def orientation(path: str | Path) -> int:
    """Read an image's EXIF orientation, 1..8: from 2 on turned or mirrored, from 5 on by a quarter."""
    with suppress(Exception), Image.open(path) as image:  # Pillow raises many kinds where OpenCV reads a file
        value = image.getexif().get(ORIENTATION)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    return 1


def turned(pixels: np.ndarray, orientation: int, back: bool = False) -> np.ndarray:
    """Turn stored pixels (H, W, ...) upright, or upright ones ``back``, by EXIF's orientation (EXIF 2.3, 4.6.4)."""
    orientation = {6: 8, 8: 6}.get(orientation, orientation) if back else orientation
    pixels = pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
    pixels = pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels
    return np.ascontiguousarray(pixels[::-1] if orientation in (3, 4, 7, 8) else pixels)


def _decode(path: str | Path, data: bytes, problem: str = ""):
    """Decode a JPEG by OpenCV to (H, W, 3) uint8 BGR, others by Pillow to its Image. Raises UserError."""
    pixels, deep, cut = None, False, False
    with suppress(Exception):  # they raise many kinds
        if data.startswith(JPEG):
            pixels, cut = _decode_jpeg(data)
        else:
            png, image = data.startswith(PNG), Image.open(io.BytesIO(essential(data)), formats=FORMATS)
            tags = getattr(image, "tag_v2", {})
            bits = data[24] if png else max(tags.get(DEPTH, [8]))
            deep = bits > 8 or image.mode[0] in "IF" or max(tags.get(SIGNED, [1])) > 1
            image.load()
            if png and bits < 8 and image.mode == "L" and "transparency" in image.info:     # a value that is stretched
                image.info["transparency"] *= 255 // (2 ** bits - 1)
            pixels = image if image.mode != "LAB" else None
    problem = (problem or deep and "has more than 8 bits a channel, or signs (stretch its values to 0..255)"
               or cut and "the JPEG is cut short"
               or pixels is None and "not a whole image of at most 2^30 pixels that can be read"
               + " (HEIC is not; convert it to JPEG)" * (data[4:8] == b"ftyp"))
    if problem:
        raise UserError(f"{path}: {problem}; fetch, unpack or save it again (docs/data.md)")
    return pixels


def essential(data: bytes) -> bytes:
    """Drop what a PNG holds beside its pixels: where that is spoilt or large, Pillow would refuse the picture."""
    if not data.startswith(PNG):
        return data
    kept, at = [PNG], len(PNG)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at:at + 4], "big")
        kept += [data[at:end]] * (data[at + 4:at + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
        at = end
    return b"".join(kept)


def _decode_jpeg(data: bytes) -> tuple[np.ndarray | None, bool]:
    """Decode (H, W, 3) uint8 BGR, and tell whether the code of the pixels ends too early: the rest is grey then.

    A file with an end marker and no such grey in the last corner is whole. Of others the decoder is asked, by more code
    before the end marker, which a whole picture does not read. Behind the marker may lie anything, such as a film.
    """
    at, progressive = len(JPEG), False
    while (marker := MARKER.search(data, at)) and marker[0] != END_OF_JPEG:
        progressive |= marker[0] == PROGRESSIVE
        at = marker.end() + int.from_bytes(data[marker.end():marker.end() + 2], "big")
    decode = partial(cv2.imdecode, flags=cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    end = marker.start() if marker else len(data)
    if marker and not progressive and not data.endswith(bytes(16), 0, end):
        pixels = decode(np.frombuffer(data, np.uint8))
        if np.abs(pixels[-1, -1] - GREYS).max(axis=1).min() > 2:
            return pixels, False
    # Downloads fill what they lack with zeros, of which one may belong to the code, and FF fills before a marker.
    code = re.sub(rb"(\xff\0)?\0{16,}\Z" if marker else rb"(\xff\0)?\0*\Z", rb"\1", data[:end], count=1).rstrip(b"\xff")
    junk, restarts = bytes(range(127, 0, -1)) * 4, RESTART.findall(code)
    more = junk + b"\xff" + bytes([0xd0 + ((restarts[-1][1] + 1) % 8 if restarts else 0)]) + junk
    # By Pillow, as OpenCV's decoder complains of such things on stderr.
    if not np.array_equal(*(np.array(Image.open(io.BytesIO(code + end + END_OF_JPEG))) for end in (b"", more))):
        return None, True
    return decode(np.frombuffer(code + END_OF_JPEG, np.uint8)), False

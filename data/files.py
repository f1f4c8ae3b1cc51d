"""Text files, lists, images and masks from the disk. For a bad one, one line says what is wrong with it."""
import codecs
import io
import os
import posixpath
import re
import stat
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from util.run.atomic import write_bytes_atomically
from util.runtime.errors import UserError, reason_of, shortage

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our own line names the file, OpenCV's do not

MAX_PIXELS = 1 << 30            # of an image; OpenCV's own limit
MAX_TEXT = 1 << 26              # bytes of a list; COCO's longest has 6 MB
MAX_BYTES = 1 << 31             # bytes of an image or a mask
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
IMAGE_SUFFIX = r"\.(?:jpe?g|png|bmp|webp|tiff?)"
JPEG, END_OF_JPEG, SCAN_OF_JPEG = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
PNG, GREY, PALETTE = b"\x89PNG\r\n\x1a\n", 0, 3     # the signature, and two of the colour types
ORIENTATION = 0x0112                                # EXIF's tag
TURNED_BY_A_QUARTER = (5, 6, 7, 8)                  # values of it that swap width and height
AGAIN = "fetch or unpack it again"
HOW_TO_SAVE = "save class ids as a grey or palette PNG of 8 bits or fewer (docs/data.md)"
MAKERS = {"pascal": "python -m data.prepare pascal", "coco": "python -m data.prepare coco",
          "shapes": "python -m data.shapes.make"}


def how_to_make(dataset: str) -> str:
    """The command that makes ``dataset``; for the user's own data the one that makes its lists."""
    return f"{MAKERS.get(dataset, 'python -m data.lists')} makes it (docs/data.md)"


# Bytes and text

def read_bytes(path: str | Path, remedy: str = AGAIN, limit: int = MAX_BYTES) -> bytes:
    """The contents of a regular file. Raises UserError, ending in ``remedy``, for anything else.

    A named pipe or a device would hold the program for ever or fill its memory; so would a file beyond ``limit`` bytes.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}; {remedy}")
        if status.st_size > limit:
            raise UserError(f"{path}: has {status.st_size:,} bytes, more than the {limit:,} that are read; {remedy}")
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {shortage(error) or f'{(error.strerror or str(error)).lower()}; {remedy}'}") from None


def read_text(path: str | Path, remedy: str, limit: int = MAX_TEXT) -> str:
    r"""A text file as any system writes it: UTF-8, UTF-16 with a mark, or Windows' and Latin-1's single bytes.

    Line ends become "\n". Raises UserError for a binary file.
    """
    data = read_bytes(path, remedy, limit)
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    for encoding in [MARKS[mark]] if mark else ["utf-8", "cp1252", "latin-1"]:
        try:
            text = data[len(mark):].decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise UserError(f"{path}: begins as {MARKS[mark].upper()} but is not; {remedy}")
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "").rstrip("\x1a")  # DOS ends a file so
    if re.search(r"[\x00-\x08\x0b\x0e-\x1f]", text):
        raise UserError(f"{path}: a binary file where a text file should be; {remedy}")
    return text


def read_lines(path: str | Path, remedy: str) -> list[tuple[int, str]]:
    """(number, line) of each line that is not blank, counted from 1, without blanks at its ends."""
    lines = ((number, line.strip()) for number, line in enumerate(read_text(path, remedy).split("\n"), start=1))
    return [(number, line) for number, line in lines if line]


def shown(text: str) -> str:
    """``text`` in quotes, shortened for a message."""
    return repr(text if len(text) <= 100 else f"{text[:97]}...")


def write_changed(path: Path, data: bytes, remedy: str = "free some space and start again",
                  durable: bool = True) -> None:
    """``write_bytes_atomically``, unless ``path`` holds ``data`` already: finished work stays untouched."""
    if not path.is_file() or path.read_bytes() != data:
        write_bytes_atomically(path, data, remedy, durable)


# Lists

def read_list(path: str | Path, remedy: str = "") -> list[tuple[str, str]]:
    """Lines "image mask" as pairs of paths below the data root. Raises UserError, for what is listed twice too.

    A tab separates names that contain spaces. Without one, the image ends with its suffix: "my cat.jpg my cat.png".
    """
    remedy = remedy or ("data.prepare makes PASCAL and COCO with their lists, data.shapes.make Shapes-5i, data.lists "
                        "the lists of your own data: docs/data.md")
    pairs, first = [], ({}, {})
    for number, line in read_lines(path, remedy):
        pair = _split_pair(line.replace("\\", "/"))
        if not pair:
            raise UserError(f"{path}:{number}: {shown(line)} should be an image and a mask, separated by a space, or "
                            f"by a tab where names contain spaces")
        for name, lines in zip(pair, first):
            before = lines.setdefault(posixpath.normpath(name), number)
            if before != number:
                raise UserError(f"{path}:{number}: {shown(name)} is in line {before}, too; list each image and each "
                                f"mask once")
        pairs.append(pair)
    if not pairs:
        raise UserError(f"{path}: the list is empty; {remedy}")
    return pairs


def _split_pair(line: str) -> tuple[str, str] | None:
    parts = [part.strip() for part in line.split("\t") if part.strip()] if "\t" in line else line.split()
    if len(parts) > 2 and "\t" not in line and re.search(rf"{IMAGE_SUFFIX}$", line, re.IGNORECASE):
        cuts = list(re.finditer(rf"{IMAGE_SUFFIX}\s+", line, re.IGNORECASE))
        if len(cuts) == 1:
            parts = [line[:cuts[0].end()].rstrip(), line[cuts[0].end():]]
    return tuple(parts) if len(parts) == 2 else None


def write_lists(root: Path, parts: dict[str, list[tuple[str, str]]]) -> None:
    """ROOT/lists/PART.txt with a line "image mask", paths below ROOT, for each pair of a part. Raises UserError."""
    for part, pairs in parts.items():
        lines = ((f"{i}\t{m}\n" if len((i + m).split()) > 1 else f"{i} {m}\n") for i, m in pairs)
        write_changed(Path(root) / "lists" / f"{part}.txt", "".join(lines).encode())


def overlap(train: list[tuple[str, str]], val: list[tuple[str, str]]) -> str:
    """What two lists have in common, in words; "" where there is nothing."""
    for what, place in (("images", 0), ("masks", 1)):
        both = {posixpath.normpath(pair[place]) for pair in train} & {posixpath.normpath(pair[place]) for pair in val}
        if both:
            return f"{len(both)} {what} are in the training and in the validation list, such as {min(both)}"
    return ""


# Images and masks

def read_image(path: str | Path, upright: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB; grey and CMYK files become RGB.

    upright: whether a JPEG is turned as its EXIF rotation says. It is not by default: masks are drawn on stored pixels.
    Raises UserError for a missing, unreadable or truncated file, and for one with other than 8 bits a channel: nobody
    knows which of its values is white.
    """
    data = read_bytes(path, "check data.root and the list that names it")
    jpeg = data.startswith(JPEG)
    # A decoder fills what a cut JPEG lacks with grey and says nothing; a whole one ends its last scan with a marker.
    if jpeg and data.rfind(END_OF_JPEG) < data.rfind(SCAN_OF_JPEG):
        raise UserError(f"{path}: the JPEG is cut short ({len(data)} bytes); {AGAIN}")
    depth = 0 if jpeg else cv2.IMREAD_ANYDEPTH
    turn = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    image = _decode(path, data, cv2.IMREAD_COLOR | turn | depth)
    if image.dtype != np.uint8:
        raise UserError(f"{path}: has {image.dtype} values, where an image has 8 bits a channel; save it with 0..255")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_mask(path: str | Path, classes: int) -> np.ndarray:
    """(H, W) uint8 of 0, class ids 1..classes and 255, from a grey PNG's values or a palette PNG's indices.

    Raises UserError for a missing, unreadable or truncated file, for colours, 16 bits and other formats, and for a
    value between ``classes`` and 255.
    """
    data = read_bytes(path, "check data.root and the list that names it")
    if not data.startswith(PNG) or len(data) < 26:
        raise UserError(f"{path}: not a PNG, and other formats change values or hide them; {HOW_TO_SAVE}")
    width, height, bits, kind = struct.unpack(">IIBB", data[16:26])
    if kind not in (GREY, PALETTE):
        raise UserError(f"{path}: a colour picture, where a mask holds one class id a pixel; if its colours stand for "
                        f"classes, give each its id: {HOW_TO_SAVE}")
    if bits > 8:
        raise UserError(f"{path}: has {bits} bits a pixel; {HOW_TO_SAVE}")
    if kind == PALETTE:
        mask = _palette_indices(path, data, width * height)
    else:
        mask = _decode(path, data, cv2.IMREAD_UNCHANGED)
        if bits < 8:  # decoders stretch class 1 to 17, 85 or 255
            mask //= 255 // (2 ** bits - 1)
    wrong = mask[(mask > classes) & (mask < 255)]
    if wrong.size:
        raise UserError(f"{path}: class {wrong[0]} is out of range; ids are 0 to {classes}, and 255 for ignored; "
                        f"check data.classes")
    return mask


def read_pair(root: str | Path, pair: tuple[str, str], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of a list line. Raises UserError, for different sizes too."""
    image, mask = read_image(Path(root) / pair[0]), read_mask(Path(root) / pair[1], classes)
    if image.shape[:2] != mask.shape:
        why = "one of the two files is not the right one"
        if image.shape[1::-1] == mask.shape and orientation(Path(root) / pair[0]) in TURNED_BY_A_QUARTER:
            why = ("the image has an EXIF rotation, which is ignored here, and the mask was drawn on the turned "
                   "picture; turn the image's pixels (mogrify -auto-orient, exiftran -ai) or turn the mask back")
        raise UserError(f"{Path(root) / pair[1]}: the mask is {mask.shape[1]}x{mask.shape[0]} but {pair[0]} is "
                        f"{image.shape[1]}x{image.shape[0]}; {why}")
    return image, mask


def orientation(path: str | Path) -> int:
    """The EXIF orientation of an image, 1 (upright) to 8; 1 where there is none."""
    try:
        with Image.open(path) as image:
            found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds; a file that cannot be read is named elsewhere
        return 1
    return found if found in range(1, 9) else 1


def _decode(path: str | Path, data: bytes, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # which OpenCV raises before it decodes anything
        raise UserError(f"{path}: not readable, or of more than 2^30 pixels; {AGAIN}, or make it smaller") from None
    if pixels is None:
        raise UserError(f"{path}: {'not a readable image' if data else 'the file is empty'}; {AGAIN}")
    return pixels


def _palette_indices(path: str | Path, data: bytes, pixels: int) -> np.ndarray:
    """By Pillow, for OpenCV would give the palette's colours."""
    if pixels > MAX_PIXELS:
        raise UserError(f"{path}: has {pixels:,} pixels; at most 2^30 are read")
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image, np.uint8)
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise UserError(f"{path}: not a readable mask ({reason_of(error)}); make it again") from None

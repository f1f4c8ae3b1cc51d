"""Reading one image, one mask, one list: every way they can be wrong ends in one clear line."""
from pathlib import Path

import cv2
import numpy as np

from util.runtime.errors import UserError, require_file

IGNORE = 255  # label of pixels that count nowhere, as VOC's void; the one definition for data/ and util/
END_OF_JPEG, SCAN_OF_JPEG = b"\xff\xd9", b"\xff\xda"
PNG, BIT_DEPTH = b"\x89PNG", 24  # how a PNG starts, and where its header says how many bits a sample has


def read_list(path: str | Path) -> list[tuple[str, str]]:
    """Lines "image mask" as pairs of paths relative to the data root. Raises UserError."""
    require_file(path, "data.prepare makes PASCAL and COCO with their lists, data.shapes.make Shapes-5i, data.lists those "
                       "of your own data: docs/data.md")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a list but a binary file; check data.train_list and data.val_list") from None
    pairs = []
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2:
            raise UserError(f"{path}:{number}: {line!r} should be an image and a mask, parted by a space")
        pairs.append((parts[0], parts[1]))
    if not pairs:
        raise UserError(f"{path}: the list is empty; make it again")
    return pairs


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB; grey and CMYK files become RGB. EXIF rotation is ignored: masks are drawn on stored pixels.

    Raises UserError for a missing, unreadable or truncated file.
    """
    path = Path(path)
    data = _read_bytes(path)
    # A decoder fills what a cut JPEG lacks with grey and says nothing; a whole one ends its last scan with a marker.
    if data.startswith(b"\xff\xd8") and data.rfind(END_OF_JPEG) < data.rfind(SCAN_OF_JPEG):
        raise UserError(f"{path}: the JPEG is cut short ({len(data)} bytes); fetch or unpack it again")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise UserError(f"{path}: not a readable image; fetch or unpack it again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_mask(path: str | Path, classes: int) -> np.ndarray:
    """(H, W) uint8 of 0, class ids 1..classes and 255. Raises UserError, for a value between too."""
    data = _read_bytes(Path(path))
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise UserError(f"{path}: not a readable mask; make it again")
    if data.startswith(PNG) and data[BIT_DEPTH] < 8 and mask.ndim == 2:  # decoders stretch class 1 to 17, 85 or 255
        raise UserError(f"{path}: a mask should be a grey 8-bit PNG whose values are class ids; this one has "
                        f"{data[BIT_DEPTH]} bits a pixel; save it with 8")
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise UserError(f"{path}: a mask should be a grey 8-bit PNG whose values are class ids; this one is "
                        f"{'x'.join(map(str, mask.shape))} {mask.dtype} (a palette PNG must be converted)")
    wrong = mask[(mask > classes) & (mask < 255)]
    if wrong.size:
        raise UserError(f"{path}: class {wrong[0]} is out of range; ids are 0 to {classes}, and 255 for ignored; "
                        f"check data.classes")
    return mask


def read_pair(root: str | Path, pair: tuple[str, str], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of a list line. Raises UserError, for different sizes too."""
    image, mask = read_image(Path(root) / pair[0]), read_mask(Path(root) / pair[1], classes)
    if image.shape[:2] != mask.shape:
        raise UserError(f"{Path(root) / pair[1]}: the mask is {mask.shape[1]}x{mask.shape[0]} but {pair[0]} is "
                        f"{image.shape[1]}x{image.shape[0]}; one of the two files is not the right one")
    return image, mask


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; check data.root and the list that names it") from None
    if not data:
        raise UserError(f"{path}: the file is empty; fetch or unpack it again")
    return data

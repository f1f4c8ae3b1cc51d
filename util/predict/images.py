"""Images of any kind that Pillow reads, found by path, folder or glob, as upright 8-bit RGB."""
import glob
import io
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data.files import JPEG, read_bytes, read_image
from util.runtime.errors import UserError, reason_of, require_file

MOST_PIXELS = 1 << 27    # of an image: 134 megapixels, which take some 3 GB on their way
LEAST_SIDE = 8           # px: nothing is to be segmented in less
LEFT_OUT = {"EPS"}       # of what Pillow reads: it would start Ghostscript on a stranger's program
OURS = re.compile(r"\.(overlay|mask(-\d+)?)\.png$")  # what prediction writes, no images to predict


def formats() -> list[str]:
    """The formats that are read, by Pillow's names."""
    Image.init()
    return [name for name in Image.OPEN if name not in LEFT_OUT]


def find_images(arguments: list[str]) -> list[Path]:
    """The images that paths, folders and globs name, in their order, each once.

    A folder stands for the images that lie in it, not in folders below it; a glob may hold ``**``. Results of an
    earlier prediction are left out of both. Raises UserError for an argument that names no image.
    """
    if not arguments:
        raise UserError("no images; give files, folders or globs before --names")
    found: dict[Path, Path] = {}
    for number, argument in enumerate(arguments, start=1):
        if not argument.strip():  # Path("") is the current folder
            raise UserError(f"image {number} is empty; give a file, a folder or a glob")
        try:
            files = _named_by(argument)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise UserError(f"{argument}: cannot be looked at ({getattr(error, 'strerror', None) or error}); give an "
                            f"image, a folder or a glob") from None
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _named_by(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        files = _images_among(path.iterdir())
        missing = (f"a folder without images; give one that holds some, or a glob such as "
                   f"'{argument.rstrip('/')}/**/*.jpg' for folders below it")
    elif path.exists() or not glob.has_magic(argument):
        return [require_file(path, "give an image, a folder or a glob")]
    else:
        files = _images_among(map(Path, glob.glob(argument, recursive=True)))
        missing = "no image matches this glob; give an image, a folder or another glob"
    if not files:
        raise UserError(f"{argument}: {missing}")
    return files


def _images_among(paths) -> list[Path]:
    known = set(formats())
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in known}
    return sorted(path for path in paths if path.suffix.lower() in suffixes and not path.name.startswith(".")
                  and not OURS.search(path.name) and (path.is_file() or path.is_symlink() and not path.exists()))


def as_image(source) -> np.ndarray:
    """A path, an array or a Pillow image as (H, W, 3) uint8 RGB.

    A file is turned as its EXIF orientation says. Of an array, uint8 and (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, and
    of a Pillow image the pixels are taken as they stand, so that masks lie over them. Transparent pixels lie on white;
    16 bits become 8. Raises UserError for anything else, and for a side or an area that is out of bounds.
    """
    if isinstance(source, Image.Image):
        return _rgb(source, "the image")
    if isinstance(source, (str, Path)):
        return read(source)
    array = np.asarray(source)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] not in (3, 4):
        raise UserError(f"an image should be an array (H, W, 3) of uint8 RGB, not {array.shape} of {array.dtype}; give "
                        f"that, a path or a Pillow image")
    return _rgb(Image.fromarray(array), "the image")


def read(path: str | Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, turned upright. Raises UserError in one line that names the file."""
    data = read_bytes(path, "give an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of large images and odd EXIF
            with Image.open(io.BytesIO(data), formats=formats()) as image:
                _require_size(*image.size, path)
                if not data.startswith(JPEG):
                    return _rgb(ImageOps.exif_transpose(image), path)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{path}: more than {MOST_PIXELS:,} pixels are not read; make it smaller") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{path}: {'not an image that Pillow reads' if data else 'the file is empty'}; give a JPEG, a "
                        f"PNG or another image") from None
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise UserError(f"{path}: a damaged image ({reason_of(error):.200}); fetch or save it "
                        f"again") from None
    return read_image(path, upright=True)  # by the decoder of evaluation, for decoders of JPEG differ


def _rgb(image: Image.Image, what) -> np.ndarray:
    _require_size(*image.size, what)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65_535 or image.mode == "I" and values.max() < 256:
            raise UserError(f"{what}: has values of {values.min()} to {values.max()} in {8 * values.itemsize} bits, "
                            f"and nobody knows which is white; save it with 8 bits")
        image = Image.fromarray((values // 257).astype(np.uint8))  # 65535 becomes 255
    elif image.mode == "F":
        raise UserError(f"{what}: has floating-point values, and nobody knows which is white; save it with 8 bits")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _require_size(width: int, height: int, what) -> None:
    if min(width, height) < LEAST_SIDE:
        raise UserError(f"{what}: has {width} x {height} px; sides of {LEAST_SIDE} px or more can be segmented")
    if width * height > MOST_PIXELS:
        raise UserError(f"{what}: has {width} x {height} px, more than the {MOST_PIXELS:,} pixels that are read; make "
                        f"it smaller")

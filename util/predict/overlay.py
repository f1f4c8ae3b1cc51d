"""The picture of a result: outlines with numbers on the image, and a legend below it."""
import colorsys
import unicodedata
from bisect import bisect_right
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# RGB. Those of Okabe and Ito (Color Universal Design, 2008) without black. The colour-blind can tell them apart. After
# these, the numbers on the regions do that.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
SMALLEST, LARGEST = 900, 1800   # px, of the longer side of the picture shown
ROWS = 24                       # of the legend at most
TINT = 0.35                     # how much of a region's colour lies over it
# Fonts of common systems, found by Pillow; its own, the last resort, has little beyond ASCII.
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf",
         "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "PingFang.ttc", "msyh.ttc", "NotoSansArabic-Regular.ttf",
         "NotoSansDevanagari-Regular.ttf")
INK, GREY, PAPER = (20, 20, 20), (120, 120, 120), (255, 255, 255)


def palette(count: int) -> np.ndarray:
    """(count, 3) uint8 RGB: COLOURS, then hues a golden angle apart."""
    more = [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(0.618034 * k % 1, 0.75, (0.95, 0.7)[k % 2]))
            for k in range(max(0, count - len(COLOURS)))]
    return np.array([*COLOURS, *more][:count], np.uint8).reshape(-1, 3)


def overlay(result) -> np.ndarray:
    """(H', W', 3) uint8 RGB of a Result: small images are enlarged, large ones reduced."""
    height, width = result.image.shape[:2]
    scale = min(max(1.0, SMALLEST / max(height, width)), LARGEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = _resized(result.image, size, cv2.INTER_CUBIC)
    colours, letter = palette(len(result.names)), max(20, round(max(SMALLEST, *size) / 40))
    places = {}
    for k in np.flatnonzero(result.found):
        mask = _resized(result.mask(k).astype(np.uint8) * 255, size, cv2.INTER_LINEAR) > 127
        if mask.any():
            places[k] = _outline(picture, mask, colours[k], letter)
    page = Image.new("RGB", (max(size[0], SMALLEST), size[1] + _legend_height(result, letter)), PAPER)
    page.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(page)
    for k, place in places.items():
        _number(draw, place, k, colours[k], letter, size)
    _legend(draw, result, colours, letter, size[1], page.width)
    return np.array(page)


def _resized(image: np.ndarray, size: tuple[int, int], enlarging: int) -> np.ndarray:
    if image.shape[1::-1] == size:
        return image.copy()
    return cv2.resize(image, size, interpolation=enlarging if size[0] > image.shape[1] else cv2.INTER_AREA)


def _outline(picture: np.ndarray, mask: np.ndarray, colour, letter: int) -> tuple[int, int]:
    """Draw a region onto the picture. Returns the place (x, y) deepest inside it.

    A white rim and a dark line outside of it show the outline on any ground.
    """
    tinted = cv2.addWeighted(picture, 1 - TINT, np.full_like(picture, colour), TINT, 0)
    np.copyto(picture, tinted, where=mask[..., None])
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    line = max(2, letter // 8)
    for edge, thickness in ((INK, 3 * line), (PAPER, 2 * line + 1), (colour.tolist(), line)):
        cv2.drawContours(picture, contours, -1, edge, thickness, cv2.LINE_AA)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT),
                                  cv2.DIST_L2, 3)
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return int(x) - 1, int(y) - 1


def _number(draw: ImageDraw.ImageDraw, place: tuple[int, int], k: int, colour, letter: int, size) -> None:
    """The number of a name in a round mark, wholly within the picture of ``size``; none where it has no room."""
    radius = round(0.75 * letter)
    if min(size) < 2 * radius:
        return
    x, y = (min(max(p, radius), side - radius) for p, side in zip(place, size))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), PAPER, tuple(colour.tolist()), max(2, letter // 8))
    draw.text((x, y), str(k + 1), INK, _font(round(0.9 * letter)), anchor="mm")


def _legend_rows(result) -> list[int]:
    """Names in their order; where there are too many, the found ones first, the largest before the others."""
    order = list(range(len(result.names)))
    if len(order) > ROWS:
        order = sorted(order, key=lambda k: (not result.found[k], -result.areas[k], k))[:ROWS]
    return order


def _legend_height(result, letter: int) -> int:
    return round(1.7 * letter * (len(_legend_rows(result)) + (len(result.names) > ROWS)) + letter)


def _legend(draw: ImageDraw.ImageDraw, result, colours, letter: int, top: int, width: int) -> None:
    line, middle, edge = 1.7 * letter, round(0.75 * letter), round(0.5 * letter)
    rows = _legend_rows(result)
    for row, k in enumerate(rows):
        y = round(top + edge + line * (row + 0.5))
        found, x = result.found[k], edge + middle
        draw.ellipse((x - middle, y - middle, x + middle, y + middle), PAPER,
                     tuple(colours[k].tolist()) if found else GREY, max(3, letter // 4) if found else 2)
        draw.text((x, y), str(k + 1), INK if found else GREY, _font(round(0.9 * letter)), anchor="mm")
        fact = (f"score {result.scores[k]:.2f}   {100 * result.shares[k]:.1f} %" if found else result.fact(k))
        right = width - edge
        draw.text((right, y), fact, INK if found else GREY, _font(letter), anchor="rm")
        left = x + 2 * middle
        room = right - _font(letter).getlength(fact) - letter - left
        text, font = _written(result.names[k], k, letter)
        draw.text((left, y), _shortened(text, font, room), INK if found else GREY, font, anchor="lm")
    if len(rows) < len(result.names):
        draw.text((edge, round(top + edge + line * (len(rows) + 0.5))),
                  f"and {len(result.names) - len(rows)} more names: see the JSON", GREY, _font(letter), anchor="lm")


def _shortened(text: str, font, room: float) -> str:
    if font.getlength(text) <= room:
        return text
    kept = bisect_right(range(len(text)), room, key=lambda count: font.getlength(text[:count] + "..."))
    return text[:max(0, kept - 1)] + "..."


@cache
def _font(size: int, name: str = ""):
    """Pillow's own font, or one of the system by the name of its file; None where there is no such font."""
    if not name:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _written(name: str, k: int, letter: int):
    """A name as the legend can write it, and the font: the first that has its letters. If none has, the name loses its
    accents; if that is not enough, it becomes "name 3".
    """
    for font in (_font(letter, file) for file in ("", *FONTS)):
        if font is not None and _has(font, name):
            return name, font
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return (plain if _has(_font(letter), plain) else f"name {k + 1}"), _font(letter)


def _has(font, text: str) -> bool:
    """Whether the font has a picture of its own for each letter, other than the box for what it lacks."""
    box = font.getmask("\uffff")
    return all(c.isspace() or (glyph := font.getmask(c)).size != box.size or bytes(glyph) != bytes(box)
               for c in set(text))

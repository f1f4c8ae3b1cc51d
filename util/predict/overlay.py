"""Overlay of a result: numbered outlines on the image, and a legend below it."""
import colorsys
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# RGB, of Okabe and Ito (Color Universal Design, 2008) without black: safe for the colour-blind
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
SMALLEST, LARGEST = 900, 1800   # px, of the longer side of the picture shown
TINT = 0.35                     # how much of a region's colour lies over it
INK, GREY, PAPER = (20, 20, 20), (120, 120, 120), (255, 255, 255)
_font = cache(ImageFont.load_default)


def palette(count: int) -> np.ndarray:
    """Return (count, 3) uint8 RGB: COLOURS, then hues a golden angle apart."""
    more = [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(0.618034 * k % 1, 0.75, (0.95, 0.7)[k % 2]))
            for k in range(count - len(COLOURS))]
    return np.array([*COLOURS, *more][:count], np.uint8)


def overlay(result) -> np.ndarray:
    """Draw a Result as (H', W', 3) uint8 RGB; small images are enlarged, large ones reduced."""
    height, width = result.image.shape[:2]
    scale = min(max(1.0, SMALLEST / max(height, width)), LARGEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    smooth, linear = (cv2.INTER_CUBIC, cv2.INTER_LINEAR) if scale > 1 else (cv2.INTER_AREA, cv2.INTER_AREA)
    picture = cv2.resize(result.image, size, interpolation=smooth)
    colours, letter = palette(len(result.names)).tolist(), max(20, round(max(SMALLEST, *size) / 40))
    places = {}
    for k in np.flatnonzero(result.found):
        mask = cv2.resize(result.mask(k).astype(np.uint8) * 255, size, interpolation=linear) > 127
        if mask.any():
            places[k] = _outline(picture, mask, colours[k], letter)
    line, edge, radius, font = 1.7 * letter, round(0.5 * letter), round(0.75 * letter), _font(letter)
    page = Image.new("RGB", (max(size[0], SMALLEST), size[1] + round(line * len(result.names) + letter)), PAPER)
    page.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(page)
    for k, place in places.items():
        inside = [min(max(p, radius), side - radius) for p, side in zip(place, size)]
        _mark(draw, k, inside, letter, colours[k], max(2, letter // 8))
    for k, (name, found) in enumerate(zip(result.names, result.found)):     # the legend
        y = round(size[1] + edge + line * (k + 0.5))
        ink, rim, thickness = (INK, colours[k], max(3, letter // 4)) if found else (GREY, GREY, 2)
        _mark(draw, k, (edge + radius, y), letter, rim, thickness, ink)
        fact = f"score {result.scores[k]:.2f}   {100 * result.shares[k]:.1f} %" if found else result.fact(k)
        draw.text((page.width - edge, y), fact, ink, font, anchor="rm")
        draw.text((edge + 3 * radius, y), name, ink, font, anchor="lm")
    return np.array(page)


def _outline(picture: np.ndarray, mask: np.ndarray, colour: list[int], letter: int) -> tuple[int, int]:
    """Draw a region, with rims that show on any ground; returns the place (x, y) deepest inside it."""
    tinted = cv2.addWeighted(picture, 1 - TINT, np.full_like(picture, colour), TINT, 0)
    np.copyto(picture, tinted, where=mask[..., None])
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    line = max(2, letter // 8)
    for edge, thickness in ((INK, 3 * line), (PAPER, 2 * line + 1), (colour, line)):
        cv2.drawContours(picture, contours, -1, edge, thickness, cv2.LINE_AA)
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return int(x) - 1, int(y) - 1


def _mark(draw: ImageDraw.ImageDraw, k: int, place, letter: int, colour, thickness: int, ink=INK) -> None:
    """Draw the number of name ``k`` in a circle round ``place`` (x, y)."""
    (x, y), radius = place, round(0.75 * letter)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), PAPER, tuple(colour), thickness)
    draw.text((x, y), str(k + 1), ink, _font(round(0.9 * letter)), anchor="mm")

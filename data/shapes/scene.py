"""Scenes of the embedded benchmarks: things on a textured ground, with the mask and a caption's facts.

Things are silhouettes, which get a texture (Shapes-5i), or artists' pictures (Emoji). A scene is a pure function of
(seed, index), whatever was painted before it and in which process.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from data.shapes.silhouettes import MASTER, silhouette
from model import IGNORE

COLOURS = {  # RGB
    "red": (214, 40, 40), "orange": (244, 140, 30), "yellow": (246, 218, 60), "green": (56, 160, 62),
    "cyan": (60, 196, 206), "blue": (44, 84, 206), "purple": (138, 58, 178), "pink": (244, 142, 186),
    "brown": (124, 78, 44), "white": (240, 240, 240), "grey": (134, 134, 134), "black": (28, 28, 28),
}
_CONTRAST = 80  # least RGB distance between an object's colour and the ground's: hard to see, never invisible
LIGHT, TINT = (0.75, 1.15), 0.06     # on artists' pictures: factors of all colours, and deviation of each channel's
_TILE = 256  # side of a texture tile; a crop of it fills an object or the ground
_TILES = 96


@dataclass(frozen=True)
class Style:
    """Parameters of a scene; sizes in pixels."""
    side: int = 128                # images are side x side
    objects: tuple = (3, 4)        # fewest and most objects
    diameter: tuple = (44, 68)     # of an object's upright square
    rotation: float = 40.0         # degrees either way
    overlap: float = 0.25          # most of an earlier object's area that a later one may cover
    labelled: float = 0.0          # chance that a thing has an id, one at least; 0: all names are drawn alike


@dataclass(frozen=True)
class Thing:
    """Object of a scene, as a caption may describe it."""
    name: str
    colour: str    # "" where the picture has its own
    diameter: float
    x: float       # centre, 0..1 from the left
    y: float       # centre, 0..1 from the top


@cache
def _textures() -> np.ndarray:
    """Return (_TILES, _TILE, _TILE) uint8 grey patterns: plain, stripes, checks, dots, waves and cloudy noise."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[:_TILE, :_TILE].astype(np.float32)
    tiles = []
    for number in range(_TILES):
        angle, period = rng.uniform(0, np.pi), rng.uniform(5, 16)
        u = (x * np.cos(angle) + y * np.sin(angle)) / period
        v = (y * np.cos(angle) - x * np.sin(angle)) / period
        kind = number % 6
        if kind == 0:
            tile = np.full_like(x, 0.5)
        elif kind == 1:
            tile = (np.sin(2 * np.pi * u) > 0).astype(np.float32)
        elif kind == 2:
            tile = ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)
        elif kind == 3:
            tile = (((u % 1) - 0.5) ** 2 + ((v % 1) - 0.5) ** 2 < rng.uniform(0.06, 0.14)).astype(np.float32)
        elif kind == 4:
            tile = 0.5 + 0.5 * np.sin(2 * np.pi * (u + 0.4 * np.sin(2 * np.pi * v / 2)))
        else:
            coarse = rng.random((int(rng.integers(8, 40)),) * 2, dtype=np.float32)
            tile = cv2.resize(coarse, (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)
        tile = cv2.GaussianBlur(tile, (3, 3), 0) + rng.normal(0, 0.06, tile.shape).astype(np.float32)
        tiles.append(np.clip(tile * 255, 0, 255).astype(np.uint8))
    return np.stack(tiles)


def _surface(rng, height: int, width: int, colour, contrast: float) -> np.ndarray:
    """Paint (height, width, 3) uint8: a texture crop between a darker and a lighter shade of ``colour``."""
    tile = _textures()[rng.integers(_TILES)]
    top, left = rng.integers(_TILE - height + 1), rng.integers(_TILE - width + 1)
    shift = rng.normal(0, contrast, 3)
    ramp = np.linspace(-1, 1, 256)[:, None] * (np.abs(shift).mean() * rng.uniform(0.6, 1.2) + 0.3 * shift)
    table = np.clip(np.asarray(colour) + rng.normal(0, 10, 3) + ramp, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(tile[top:top + height, left:left + width], table[:, None])


def _place(rng, picture: np.ndarray, diameter: float, rotation: float) -> np.ndarray:
    """Rotate, stretch slightly and perhaps flip a picture (MASTER, MASTER, ...): (k, k, ...), k about 1.5 diameters."""
    side = int(diameter * 1.5) | 1
    angle = np.deg2rad(rng.uniform(-rotation, rotation))
    stretch = rng.uniform(0.88, 1.12)
    scale_x, scale_y = diameter / MASTER * stretch, diameter / MASTER / stretch
    if rng.random() < 0.5:
        scale_x = -scale_x
    matrix = np.array([[np.cos(angle) * scale_x, -np.sin(angle) * scale_y, 0],
                       [np.sin(angle) * scale_x, np.cos(angle) * scale_y, 0]])
    matrix[:, 2] = (side - 1) / 2 - matrix[:, :2] @ np.full(2, (MASTER - 1) / 2)
    return cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR)


def _lit(rng, picture: np.ndarray) -> np.ndarray:
    """Change the light on a picture (h, w, 4), and its tint a little: (h, w, 3)."""
    gains = rng.uniform(*LIGHT) + rng.normal(0, TINT, 3)
    return np.minimum(picture[..., :3] * gains, picture[..., 3:]).astype(np.uint8)   # colours hold alpha already


def _choose(rng, ids: Sequence[int], count: int, labelled: float) -> np.ndarray:
    """Draw ``count`` different places in ``ids``; with ``labelled``, each with that chance among those not 0."""
    if not labelled:
        return rng.choice(len(ids), size=min(count, len(ids)), replace=False)
    asked, others = np.flatnonzero(ids), np.flatnonzero(np.equal(ids, 0))
    first = min(max(1, rng.binomial(count, labelled)), len(asked))
    return rng.permutation(np.concatenate([rng.choice(part, size=min(size, len(part)), replace=False)
                                           for part, size in ((asked, first), (others, count - first))]))


def scene(names, ids, seed: int, index: int, style: Style = Style(),
          picture_of: Callable[[str], np.ndarray] = silhouette):
    """Paint scene ``index`` of the series ``seed`` from ``names``, drawn without repetition.

    ids: mask value of each name, 1..254, or 0 for things that have no label. picture_of: a name's (MASTER, MASTER)
    uint8 coverage, which gets a texture, or (MASTER, MASTER, 4) uint8 RGBA with colours multiplied by alpha. Returns
    image (S, S, 3) uint8 RGB, mask (S, S) uint8 of 0, ids and 255, and the ``Thing``s, later ones in front.
    """
    rng = np.random.default_rng((seed, index))
    side = style.side
    count = int(rng.integers(style.objects[0], style.objects[1] + 1))
    chosen = _choose(rng, ids, count, style.labelled)
    ground = rng.uniform(40, 215, 3)
    image = _surface(rng, side, side, ground, contrast=26)
    colours = [name for name, rgb in COLOURS.items() if np.linalg.norm(np.subtract(rgb, ground)) > _CONTRAST]
    owner = np.zeros((side, side), np.uint8)    # the thing at each pixel, from 1 on
    values = np.zeros(256, np.uint8)            # the mask's for each of them
    values[IGNORE] = IGNORE
    things, areas = [], []
    for kind in chosen:
        diameter = rng.uniform(*style.diameter)
        picture = _place(rng, picture_of(names[kind]), diameter, style.rotation)
        spot = _free_spot(rng, picture if picture.ndim == 2 else picture[..., 3], owner, areas, diameter, style)
        if spot is None:
            continue
        rows, columns, inner, x, y = spot
        picture, colour = picture[inner], ""
        if picture.ndim == 2:
            cover, colour = picture, colours[rng.integers(len(colours))]
            paint = _surface(rng, *cover.shape, COLOURS[colour], contrast=34)
            paint = cv2.multiply(paint, cv2.merge([cover] * 3), scale=1 / 255)
        else:
            cover, paint = np.ascontiguousarray(picture[..., 3]), _lit(rng, picture)
        behind = cv2.multiply(image[rows, columns], 255 - cv2.merge([cover] * 3), scale=1 / 255)
        image[rows, columns] = cv2.add(behind, paint)
        things.append(Thing(names[kind], colour, diameter, x, y))
        values[len(things)] = ids[kind]
        _label(owner[rows, columns], cover, len(things), values)
        areas.append(np.count_nonzero(cover > 127))
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (3, 3), 0)
    return image, values[owner], tuple(things)


def _free_spot(rng, cover, owner, areas, diameter, style, tries: int = 12):
    """Find a place where the object hides at most ``style.overlap`` of each earlier one: slices of the scene, the
    matching slices of ``cover``, and the centre as fractions; None after ``tries``."""
    half = cover.shape[0] // 2
    margin = 0.42 * diameter
    for _ in range(tries):
        cx, cy = (int(v) for v in rng.uniform(margin, style.side - margin, 2))
        top, left = max(cy - half, 0), max(cx - half, 0)
        bottom, right = min(cy + half + 1, style.side), min(cx + half + 1, style.side)
        inner = (slice(top - cy + half, bottom - cy + half), slice(left - cx + half, right - cx + half))
        spot = (slice(top, bottom), slice(left, right), inner, cx / style.side, cy / style.side)
        if not areas:
            return spot
        hidden = owner[top:bottom, left:right][cover[inner] > 127]
        taken = np.bincount(hidden, minlength=256)
        taken[0] = taken[IGNORE] = 0
        if taken.max() <= style.overlap * min(areas):
            return spot
    return None


def _label(owner: np.ndarray, cover: np.ndarray, thing: int, values: np.ndarray) -> None:
    """Write ``thing`` into ``owner`` where it covers it, and 255 along its border, 2 px wide, if it or what is there
    has a label in ``values``."""
    inside = (cover > 127).astype(np.uint8)
    border = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    border &= (values[owner] > 0) | (values[thing] > 0)
    owner[inside > 0] = thing
    owner[border] = IGNORE

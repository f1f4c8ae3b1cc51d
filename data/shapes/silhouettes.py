"""Twenty silhouettes of Shapes-5i, painted from a few polygons and ellipses each.

Coordinates run from -1 to 1, x right, y down; a silhouette fills about that square. Forms are solid: what is thinner
than a patch of the image encoder would only measure the patch size.
"""
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

MASTER = 128  # side of a silhouette in pixels, about twice the largest object in a scene
_FINE = 4 * MASTER  # painted at four times that and averaged down, for smooth edges


# Each returns a function that fills a form in (_FINE, _FINE) pixels; ink=0 cuts a hole.

def _polygon(*points, ink=255) -> Callable[[np.ndarray], None]:
    corners = _to_pixels(points)
    return lambda pixels: cv2.fillPoly(pixels, [corners], ink)


def _box(left, top, right, bottom, ink=255) -> Callable[[np.ndarray], None]:
    return _polygon((left, top), (right, top), (right, bottom), (left, bottom), ink=ink)


def _ellipse(x, y, rx, ry=None, ink=255, start=0, end=360) -> Callable[[np.ndarray], None]:
    radii = np.round(np.array([rx, ry or rx]) * 0.94 * _FINE / 2).astype(int)
    centre = _to_pixels([x, y])
    return lambda pixels: cv2.ellipse(pixels, centre.tolist(), radii.tolist(), 0, start, end, ink, -1)


def _to_pixels(points) -> np.ndarray:
    return np.round((np.asarray(points, float) * 0.94 + 1) * _FINE / 2).astype(np.int32)


def _star() -> np.ndarray:
    angle, radius = np.arange(10) * np.pi / 5, np.resize([1.05, 0.5], 10)
    return np.stack([radius * np.sin(angle), 0.05 - radius * np.cos(angle)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 120)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3 / 16.5, -(y + 2) / 15.5], axis=1)


def _flower() -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    radius = 0.72 + 0.27 * np.cos(5 * angle)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


_FORMS = {
    "circle": [_ellipse(0, 0, 0.92)],
    "square": [_box(-0.82, -0.82, 0.82, 0.82)],
    "triangle": [_polygon((0, -0.95), (1, 0.85), (-1, 0.85))],
    "star": [_polygon(*_star())],
    "heart": [_polygon(*_heart())],
    "cross": [_box(-0.36, -0.98, 0.36, 0.98), _box(-0.98, -0.36, 0.98, 0.36)],
    "arrow": [_polygon((0, -1), (0.95, 0.05), (0.38, 0.05), (0.38, 1), (-0.38, 1), (-0.38, 0.05), (-0.95, 0.05))],
    "moon": [_ellipse(0, 0, 1), _ellipse(0.52, -0.1, 0.78, ink=0)],
    "ring": [_ellipse(0, 0, 1), _ellipse(0, 0, 0.48, ink=0)],
    "key": [_ellipse(0, -0.48, 0.54), _ellipse(0, -0.5, 0.2, ink=0), _box(-0.19, 0, 0.19, 1),
            _box(0.1, 0.3, 0.62, 0.54), _box(0.1, 0.72, 0.62, 0.98)],
    "umbrella": [_ellipse(0, 0, 1, 0.95, start=180), *(_ellipse(x, 0.02, 0.33, 0.2, ink=0) for x in (-0.67, 0, 0.67)),
                 _box(-0.13, -0.3, 0.13, 0.8), _ellipse(0.2, 0.72, 0.33, 0.28, end=180)],
    "house": [_polygon((0, -1), (1, -0.1), (-1, -0.1)), _box(-0.76, -0.15, 0.76, 0.95),
              _box(-0.2, 0.3, 0.2, 0.95, ink=0)],
    "tree": [_polygon((0, -1), (0.62, -0.25), (-0.62, -0.25)), _polygon((0, -0.65), (0.8, 0.2), (-0.8, 0.2)),
             _polygon((0, -0.2), (0.98, 0.65), (-0.98, 0.65)), _box(-0.22, 0.6, 0.22, 1)],
    "fish": [_ellipse(-0.22, 0, 0.76, 0.54), _polygon((0.3, 0), (1, -0.62), (0.8, 0), (1, 0.62)),
             _polygon((-0.35, -0.45), (0.2, -0.85), (0.2, -0.3))],
    "flower": [_polygon(*_flower()), _ellipse(0, 0, 0.22, ink=0)],
    "mushroom": [_ellipse(0, 0.05, 1, 0.98, start=180), _box(-0.99, 0, 0.99, 0.14),
                 _polygon((-0.3, 0.1), (0.3, 0.1), (0.44, 0.95), (-0.44, 0.95))],
    "cup": [_ellipse(0.55, 0, 0.45, 0.5), _ellipse(0.55, 0, 0.2, 0.24, ink=0),
            _polygon((-0.95, -0.75), (0.55, -0.75), (0.42, 0.8), (-0.82, 0.8))],
    "bottle": [_box(-0.2, -1, 0.2, -0.3), _ellipse(0, -0.05, 0.52, 0.42), _box(-0.52, -0.05, 0.52, 1)],
    "boat": [_polygon((-1, 0.35), (1, 0.35), (0.62, 0.92), (-0.62, 0.92)),
             _polygon((-0.02, -1), (-0.02, 0.22), (-0.82, 0.22)), _polygon((0.12, -0.8), (0.12, 0.22), (0.75, 0.22)),
             _box(-0.08, -1, 0.14, 0.4)],
    "crown": [_polygon((-1, -0.65), (-0.5, 0.05), (0, -0.9), (0.5, 0.05), (1, -0.65), (0.8, 0.8), (-0.8, 0.8))],
}
NAMES = tuple(_FORMS)


@cache
def silhouette(name: str) -> np.ndarray:
    """Paint the silhouette ``name``: (MASTER, MASTER) uint8, 255 inside and 0 outside with soft edges."""
    pixels = np.zeros((_FINE, _FINE), np.uint8)
    for fill in _FORMS[name]:
        fill(pixels)
    return cv2.resize(pixels, (MASTER, MASTER), interpolation=cv2.INTER_AREA)

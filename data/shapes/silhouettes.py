"""The twenty silhouettes of Shapes-5i, drawn once from a few polygons and ellipses each.

Coordinates run from -1 to 1, x to the right and y down; every silhouette fills about that square. The
forms are solid rather than wiry, because what is thinner than a patch of the image encoder cannot be
segmented by any method on top of it and would only measure the patch size.
"""
from functools import cache

import cv2
import numpy as np

MASTER = 128  # side of a drawn silhouette in pixels, about twice the largest object in a scene
_FINE = 4 * MASTER  # drawn at four times that and averaged down, for smooth edges


class _Canvas:
    """A filled drawing in unit coordinates; ``ink=0`` cuts holes."""

    def __init__(self):
        self.pixels = np.zeros((_FINE, _FINE), np.uint8)

    def _to_pixels(self, points) -> np.ndarray:
        return np.round((np.asarray(points, float) * 0.94 + 1) * _FINE / 2).astype(np.int32)

    def polygon(self, *points, ink=255):
        cv2.fillPoly(self.pixels, [self._to_pixels(points)], ink)

    def ellipse(self, x, y, rx, ry=None, ink=255, start=0, end=360, angle=0):
        radii = np.round(np.array([rx, ry or rx]) * 0.94 * _FINE / 2).astype(int)
        centre = self._to_pixels([x, y])
        cv2.ellipse(self.pixels, tuple(map(int, centre)), tuple(map(int, radii)), angle, start, end, ink, -1)

    def box(self, left, top, right, bottom, ink=255):
        self.polygon((left, top), (right, top), (right, bottom), (left, bottom), ink=ink)


def _radial(radius_of_angle, count=180) -> np.ndarray:
    """Points of a closed curve r(angle), angle 0 pointing up."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = radius_of_angle(angle)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _circle(c):
    c.ellipse(0, 0, 0.92)


def _square(c):
    c.box(-0.82, -0.82, 0.82, 0.82)


def _triangle(c):
    c.polygon((0, -0.95), (1, 0.85), (-1, 0.85))


def _star(c):
    corners = np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2 == 0, 1.05, 0.5)
    c.polygon(*np.stack([radius * np.sin(corners), 0.05 - radius * np.cos(corners)], axis=1))


def _heart(c):
    t = np.linspace(0, 2 * np.pi, 120)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    c.polygon(*np.stack([x / 16.5, -(y + 2) / 15.5], axis=1))


def _cross(c):
    c.box(-0.36, -0.98, 0.36, 0.98)
    c.box(-0.98, -0.36, 0.98, 0.36)


def _arrow(c):
    c.polygon((0, -1), (0.95, 0.05), (0.38, 0.05), (0.38, 1), (-0.38, 1), (-0.38, 0.05), (-0.95, 0.05))


def _moon(c):
    c.ellipse(0, 0, 1)
    c.ellipse(0.52, -0.1, 0.78, ink=0)


def _ring(c):
    c.ellipse(0, 0, 1)
    c.ellipse(0, 0, 0.48, ink=0)


def _key(c):
    c.ellipse(0, -0.48, 0.54)
    c.ellipse(0, -0.5, 0.2, ink=0)
    c.box(-0.19, 0, 0.19, 1)
    c.box(0.1, 0.3, 0.62, 0.54)
    c.box(0.1, 0.72, 0.62, 0.98)


def _umbrella(c):
    c.ellipse(0, 0, 1, 0.95, start=180, end=360)
    for x in (-0.67, 0, 0.67):
        c.ellipse(x, 0.02, 0.33, 0.2, ink=0)
    c.box(-0.13, -0.3, 0.13, 0.8)
    c.ellipse(0.2, 0.72, 0.33, 0.28, start=0, end=180)


def _house(c):
    c.polygon((0, -1), (1, -0.1), (-1, -0.1))
    c.box(-0.76, -0.15, 0.76, 0.95)
    c.box(-0.2, 0.3, 0.2, 0.95, ink=0)


def _tree(c):
    c.polygon((0, -1), (0.62, -0.25), (-0.62, -0.25))
    c.polygon((0, -0.65), (0.8, 0.2), (-0.8, 0.2))
    c.polygon((0, -0.2), (0.98, 0.65), (-0.98, 0.65))
    c.box(-0.22, 0.6, 0.22, 1)


def _fish(c):
    c.ellipse(-0.22, 0, 0.76, 0.54)
    c.polygon((0.3, 0), (1, -0.62), (0.8, 0), (1, 0.62))
    c.polygon((-0.35, -0.45), (0.2, -0.85), (0.2, -0.3))


def _flower(c):
    c.polygon(*_radial(lambda a: 0.72 + 0.27 * np.cos(5 * a)))
    c.ellipse(0, 0, 0.22, ink=0)


def _mushroom(c):
    c.ellipse(0, 0.05, 1, 0.98, start=180, end=360)
    c.box(-0.99, 0, 0.99, 0.14)
    c.polygon((-0.3, 0.1), (0.3, 0.1), (0.44, 0.95), (-0.44, 0.95))


def _cup(c):
    c.ellipse(0.55, 0, 0.45, 0.5)
    c.ellipse(0.55, 0, 0.2, 0.24, ink=0)
    c.polygon((-0.95, -0.75), (0.55, -0.75), (0.42, 0.8), (-0.82, 0.8))


def _bottle(c):
    c.box(-0.2, -1, 0.2, -0.3)
    c.ellipse(0, -0.05, 0.52, 0.42)
    c.box(-0.52, -0.05, 0.52, 1)


def _boat(c):
    c.polygon((-1, 0.35), (1, 0.35), (0.62, 0.92), (-0.62, 0.92))
    c.polygon((-0.02, -1), (-0.02, 0.22), (-0.82, 0.22))
    c.polygon((0.12, -0.8), (0.12, 0.22), (0.75, 0.22))
    c.box(-0.08, -1, 0.14, 0.4)


def _crown(c):
    c.polygon((-1, -0.65), (-0.5, 0.05), (0, -0.9), (0.5, 0.05), (1, -0.65), (0.8, 0.8), (-0.8, 0.8))


_DRAW = dict(circle=_circle, square=_square, triangle=_triangle, star=_star, heart=_heart, cross=_cross,
             arrow=_arrow, moon=_moon, ring=_ring, key=_key, umbrella=_umbrella, house=_house, tree=_tree,
             fish=_fish, flower=_flower, mushroom=_mushroom, cup=_cup, bottle=_bottle, boat=_boat, crown=_crown)


@cache
def silhouette(name: str) -> np.ndarray:
    """The silhouette called ``name``, (MASTER, MASTER) uint8, 255 inside and 0 outside with soft edges.

    Raises KeyError for a name that has no drawing.
    """
    canvas = _Canvas()
    _DRAW[name](canvas)
    return cv2.resize(canvas.pixels, (MASTER, MASTER), interpolation=cv2.INTER_AREA)


NAMES = tuple(_DRAW)

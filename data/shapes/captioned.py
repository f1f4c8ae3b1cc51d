"""Pretraining data of the miniature CLIP: scenes with captions, and mosaics of four single-object scenes."""
from dataclasses import replace
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.shapes.artwork import artwork, pictures
from data.shapes.scene import Style, scene
from model.clip.errors import WeightsError
from model.clip.tokenizer import Tokenizer

TEMPLATES = ("a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}", "{}", "there is {}")
TILES = 4
FEW = 4                # names that fit into any context: of the things in front, which are seen best
LEAST_TILE = 48        # px: a tile's side, which is then 6 patches or more
FILL = (0.62, 0.95)    # diameter of a tile's object, as a share of the tile's shorter side


class Pair(NamedTuple):
    """Picture and its captions, no mask; K classes; a batch of B has a first dimension more.

    image (3, S, S) uint8; tokens (L,) caption ids; named (K,) each named class's share of the picture's names;
    tiles (4, K) the same of each tile's own caption: of the whole picture in row 0 where it is no mosaic, rows of zeros
    where there is no tile; tile_of (n,) int64 which tile each patch lies in.
    """
    image: Tensor
    tokens: Tensor
    named: Tensor
    tiles: Tensor
    tile_of: Tensor


class Captioned(Dataset):
    """Pairs of a stage of config/*/pretrain.yaml; pair i is a pure function of (seed, i).

    patch: side in px; attributes: probabilities that a caption tells colour, size, place; artists: of the pictures, one
    for each; none: silhouettes; other_words: probability that a caption says a synonym (artists' pictures have some).
    """

    def __init__(self, stage, names: list[str], seed: int, context_length: int, patch: int, attributes: list[float],
                 artists: list[str] = (), other_words: float = 0):
        self.stage, self.names, self.seed, self.context_length = stage, names, seed, context_length
        self.artists, self.other_words = artists, other_words
        self.patch, self.attributes, self.tokenize = patch, attributes, Tokenizer()
        self.single, self.several = single_object(stage), Style(stage.side, tuple(stage.objects), tuple(stage.diameter))

    def __len__(self) -> int:
        return self.stage.samples

    def __getitem__(self, i: int) -> Pair:
        rng = np.random.default_rng((self.seed, i, self.stage.side))
        if rng.random() < self.stage.mosaic:
            return self._mosaic(i, rng)
        style = self.single if rng.random() < self.stage.single_share else self.several
        image, things = self._scene(self.stage.side, i, style)
        return self._pair(image, [things], np.zeros((self.stage.side // self.patch,) * 2, np.int64), rng)

    def _scene(self, series: int, i: int, style: Style) -> tuple[np.ndarray, tuple]:
        drawn = {"picture_of": partial(artwork, self.artists[i % len(self.artists)])} if self.artists else {}
        return scene(self.names, np.ones(len(self.names), int), self.seed + series, i, style, **drawn)[::2]

    def _mosaic(self, i: int, rng: np.random.Generator) -> Pair:
        """Tile four single-object pictures, divided at a random corner of patches."""
        side, patch = self.stage.side, self.patch
        down, across = (patch * int(k) for k in rng.integers(LEAST_TILE // patch, (side - LEAST_TILE) // patch + 1, 2))
        image = np.empty((side, side, 3), np.uint8)
        tile_of = np.empty((side // patch,) * 2, np.int64)
        told = []
        for t, (rows, columns) in enumerate(product((slice(0, down), slice(down, side)),
                                                    (slice(0, across), slice(across, side)))):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            longer, shorter = max(height, width), min(height, width)
            tile, things = self._scene(4000 + t, i, Style(longer, (1, 1), tuple(share * shorter for share in FILL)))
            top, left = (longer - height) // 2, (longer - width) // 2
            image[rows, columns] = tile[top:top + height, left:left + width]
            tile_of[rows.start // patch:rows.stop // patch, columns.start // patch:columns.stop // patch] = t
            told.append(things)
        return self._pair(image, told, tile_of, rng)

    def _pair(self, image: np.ndarray, told: list, tile_of: np.ndarray, rng: np.random.Generator) -> Pair:
        things = [thing for tile in told for thing in tile]
        words = said([thing.name for thing in things], self.other_words, rng)
        try:
            text = caption([replace(thing, name=word) for thing, word in zip(things, words)],
                           sum(self.stage.single_diameter) / 2, self.attributes, rng)
            tokens = self.tokenize(text, self.context_length)[0]
        except WeightsError:  # too long with all its things and their attributes
            tokens = self.tokenize(" and ".join(f"a {word}" for word in words[-FEW:]), self.context_length)[0]
        tiles = torch.zeros(TILES, len(self.names))
        for t, tile in enumerate(told):
            tiles[t, [self.names.index(thing.name) for thing in tile]] = 1 / max(1, len(tile))
        named = tiles.any(0).float()
        return Pair(torch.from_numpy(image).permute(2, 0, 1).contiguous(), tokens, named / named.sum(), tiles,
                    torch.from_numpy(tile_of).flatten())


def said(names: list[str], other_words: float, rng: np.random.Generator) -> list[str]:
    """Replace each name, with probability ``other_words``, by one of its synonyms, if it has any."""
    if not other_words:
        return names
    synonyms = [pictures()[name].synonyms for name in names]
    return [str(rng.choice(others)) if others and rng.random() < other_words else name
            for name, others in zip(names, synonyms)]


def single_object(stage) -> Style:
    """Return the style of a stage's single-object pictures."""
    return Style(stage.side, (1, 1), tuple(stage.single_diameter))


def caption(things, middle: float, attributes, rng: np.random.Generator) -> str:
    """Name every ``Thing`` in a sentence. middle: diameter between small and large; attributes: as of Captioned."""
    phrases = [_phrase(rng, things[i], middle, attributes) for i in rng.permutation(len(things))]
    listed = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(listed)


def _phrase(rng, thing, middle: float, attributes) -> str:
    colour, size, place = rng.random(3) < np.asarray(attributes)
    words = ["a", size and ("large" if thing.diameter > middle else "small"), colour and thing.colour, thing.name,
             place and _place(thing)]
    return " ".join(word for word in words if word)


def _place(thing) -> str:
    dx, dy = thing.x - 0.5, thing.y - 0.5
    if max(abs(dx), abs(dy)) < 0.12:
        return "in the middle"
    if abs(dx) > abs(dy):
        return "on the left" if dx < 0 else "on the right"
    return "at the top" if dy < 0 else "at the bottom"

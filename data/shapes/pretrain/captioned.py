"""What the miniature CLIP is pretrained on: scenes with captions, and mosaics of four such pictures."""
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.shapes.pretrain.caption import caption, plain_caption
from data.shapes.scene import Style, Thing, scene
from model.clip.tokenizer import Tokenizer
from util.options import option
from util.runtime.errors import UserError

TILES = 4
LEAST_TILE = 48        # px: a tile's side, which is then 6 patches or more
FILL = (0.62, 0.95)    # diameter of a tile's object, as a share of the tile's shorter side


@dataclass
class Stage:
    """A stretch of training on pictures of one kind; config/shapes/pretrain.yaml says what each field is for."""
    side: int = option(least=16, most=256)
    samples: int = option(least=1, most=10**9)
    keep: float = option(least=0.1, most=1)
    mosaic: float = option(least=0, most=1)
    single_share: float = option(least=0, most=1)
    single_diameter: list[float] = option(least=4, most=256, length=2)
    objects: list[int] = option(least=1, most=20, length=2)
    diameter: list[float] = option(least=4, most=256, length=2)

    def __post_init__(self):
        for name in ("single_diameter", "objects", "diameter"):
            least, most = getattr(self, name)
            if least > most or name != "objects" and most > self.side:
                raise UserError(f"{name}=[{least}, {most}] should be the least and the most, and a diameter at most "
                                f"the side of {self.side}")
        if self.mosaic and self.side < 2 * LEAST_TILE:
            raise UserError(f"side={self.side} is too small for mosaic={self.mosaic}; a tile has {LEAST_TILE} px")

    def style(self, single: bool) -> Style:
        if single:
            return Style(side=self.side, objects=(1, 1), diameter=tuple(self.single_diameter))
        return Style(side=self.side, objects=tuple(self.objects), diameter=tuple(self.diameter))


class Pair(NamedTuple):
    """A picture and what its captions say; no mask. A batch of B has a first dimension more.

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
    """Pair i of a stage, a pure function of (seed, i).

    names: the classes; patch: side of a patch in px; attributes: chances that a caption tells colour, size, place.
    """

    def __init__(self, stage: Stage, names: list[str], seed: int, context_length: int, patch: int,
                 attributes: list[float]):
        self.stage, self.names, self.seed, self.context_length = stage, names, seed, context_length
        self.patch, self.attributes = patch, attributes
        self.tokenize = Tokenizer()
        self.middle = sum(stage.single_diameter) / 2

    def __len__(self) -> int:
        return self.stage.samples

    def __getitem__(self, i: int) -> Pair:
        rng = np.random.default_rng((self.seed, i, self.stage.side))
        if rng.random() < self.stage.mosaic:
            return self._mosaic(i, rng)
        style = self.stage.style(rng.random() < self.stage.single_share)
        image, things = self._scene(self.stage.side, i, style)
        return self._pair(image, [things], np.zeros((self.stage.side // self.patch,) * 2, np.int64), rng)

    def _scene(self, series: int, i: int, style: Style) -> tuple[np.ndarray, tuple[Thing, ...]]:
        image, _, things = scene(self.names, range(1, len(self.names) + 1), self.seed + series, i, style)
        return image, things

    def _mosaic(self, i: int, rng: np.random.Generator) -> Pair:
        """Four pictures of one object each, divided at a random corner of patches."""
        side, patch = self.stage.side, self.patch
        down, across = (patch * int(k) for k in rng.integers(LEAST_TILE // patch, (side - LEAST_TILE) // patch + 1, 2))
        image = np.empty((side, side, 3), np.uint8)
        tile_of = np.empty((side // patch,) * 2, np.int64)
        told = []
        for t in range(TILES):
            rows = slice(0, down) if t < 2 else slice(down, side)
            columns = slice(0, across) if t % 2 == 0 else slice(across, side)
            height, width = rows.stop - rows.start, columns.stop - columns.start
            longer, shorter = max(height, width), min(height, width)
            style = Style(side=longer, objects=(1, 1), diameter=tuple(share * shorter for share in FILL))
            tile, things = self._scene(4000 + t, i, style)
            top, left = (longer - height) // 2, (longer - width) // 2
            image[rows, columns] = tile[top:top + height, left:left + width]
            tile_of[rows.start // patch:rows.stop // patch, columns.start // patch:columns.stop // patch] = t
            told.append(things)
        return self._pair(image, told, tile_of, rng)

    def _pair(self, image: np.ndarray, told: list, tile_of: np.ndarray, rng) -> Pair:
        things = [thing for tile in told for thing in tile]
        try:
            tokens = self.tokenize(caption(things, self.middle, self.attributes, rng), self.context_length)[0]
        except ValueError:  # too long with all its attributes
            tokens = self.tokenize(plain_caption(things), self.context_length)[0]
        tiles = torch.zeros(TILES, len(self.names))
        for t, tile in enumerate(told):
            tiles[t] = self._shares(tile)
        return Pair(torch.from_numpy(image).permute(2, 0, 1).contiguous(), tokens, self._shares(things), tiles,
                    torch.from_numpy(tile_of).flatten())

    def _shares(self, things) -> Tensor:
        named = torch.zeros(len(self.names))
        named[[self.names.index(thing.name) for thing in things]] = 1
        return named / named.sum()

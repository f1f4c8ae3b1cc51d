"""Test-time augmentation: flip, border refinement."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.plus.pamr import refine

# Images (H, W, 3) uint8 RGB and the class id to find in each -> logit margins (H, W) and presence (), fp32, lists
Find = Callable[[list[np.ndarray], list[int]], tuple[list[Tensor], list[Tensor]]]


class Augmentation(NamedTuple):
    """Test-time augmentation as config section ``eval`` sets it; the default changes nothing."""
    flip: bool = False
    refine: int = 0

    def __call__(self, images: list[np.ndarray], names: list[int], find: Find, margins: list[Tensor],
                 presence: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Augment the plain images' ``margins`` and ``presence``; only ``flip`` changes presence (mean of both)."""
        if self.flip:
            margins, presence = _with_mirror_images(images, names, find, margins, presence)
        if self.refine:
            margins = [refine(margin, torch.from_numpy(image).permute(2, 0, 1).to(margin.device), self.refine)
                       for margin, image in zip(margins, images)]
        return margins, presence


def _with_mirror_images(images: list[np.ndarray], names: list[int], find: Find, margins: list[Tensor],
                        presence: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    turned, there = find([np.ascontiguousarray(image[:, ::-1]) for image in images], names)
    return ([torch.stack([margin, other.flip(1)]).mean(dim=0) for margin, other in zip(margins, turned)],
            [(one + other) / 2 for one, other in zip(presence, there)])

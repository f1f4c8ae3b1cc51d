"""Test-time augmentation: flip, zoom into small regions, border refinement."""
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from model.plus.pamr import refine

# Images (H, W, 3) uint8 RGB and the class id to find in each -> logit margins (H, W) and presence (), fp32, lists
Find = Callable[[list[np.ndarray], list[int]], tuple[list[Tensor], list[Tensor]]]

MARGIN = 1 / 4      # of a region's box, added on each side: what is around helps to say what a thing is
LARGEST = 1 / 4     # of the image: a box of this area or more would be enlarged to less than twice its sides
SMALLEST = 1 / 1024     # of the image: a region below is a speck (16 px at 128 x 128)
BOXES = 8           # of an image at most, those of the largest regions
CROP = 1 / 2        # what a crop's margins weigh beside those of the whole image


class Augmentation(NamedTuple):
    """Test-time augmentation as config section ``eval`` sets it; the default changes nothing."""
    flip: bool = False
    zoom: bool = False
    refine: int = 0

    def __call__(self, images: list[np.ndarray], names: list[int], find: Find, margins: list[Tensor],
                 presence: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Augment the plain images' ``margins`` and ``presence``; only ``flip`` changes presence (mean of both)."""
        if self.flip:
            margins, presence = _with_mirror_images(images, names, find, margins, presence)
        if self.zoom:
            margins = self._zoomed(images, names, find, margins)
        if self.refine:
            margins = [refine(margin, torch.from_numpy(image).permute(2, 0, 1).to(margin.device), self.refine)
                       for margin, image in zip(margins, images)]
        return margins, presence

    def _zoomed(self, images: list[np.ndarray], names: list[int], find: Find, margins: list[Tensor]) -> list[Tensor]:
        """Average in margins of enlarged boxes round small regions: a crop weighs CROP, the whole image 1."""
        places = [(k, box) for k, margin in enumerate(margins) for box in boxes_of((margin > 0).cpu().numpy())]
        if not places:
            return margins
        crops = [np.ascontiguousarray(images[k][box]) for k, box in places]
        wanted = [names[k] for k, _ in places]
        closer = find(crops, wanted)
        if self.flip:
            closer = _with_mirror_images(crops, wanted, find, *closer)
        sums, weights = [margin.clone() for margin in margins], [torch.ones_like(margin) for margin in margins]
        for (k, box), crop in zip(places, closer[0]):
            sums[k][box] += CROP * crop
            weights[k][box] += CROP
        return [total / weight for total, weight in zip(sums, weights)]


def _with_mirror_images(images: list[np.ndarray], names: list[int], find: Find, margins: list[Tensor],
                        presence: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    turned, there = find([np.ascontiguousarray(image[:, ::-1]) for image in images], names)
    return ([torch.stack([margin, other.flip(1)]).mean(dim=0) for margin, other in zip(margins, turned)],
            [(one + other) / 2 for one, other in zip(presence, there)])


def boxes_of(mask: np.ndarray) -> list[tuple[slice, slice]]:
    """Box the regions of a mask (H, W) bool with MARGIN, clipped, largest first; see SMALLEST, LARGEST, BOXES."""
    height, width = mask.shape
    _, _, regions, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes = []
    for left, top, across, down, area in sorted(regions[1:].tolist(), key=lambda region: -region[cv2.CC_STAT_AREA]):
        more_down, more_across = round(MARGIN * down), round(MARGIN * across)
        rows = slice(max(0, top - more_down), min(height, top + down + more_down))
        columns = slice(max(0, left - more_across), min(width, left + across + more_across))
        covered = (rows.stop - rows.start) * (columns.stop - columns.start)
        if area >= SMALLEST * mask.size and covered < LARGEST * mask.size:
            boxes.append((rows, columns))
    return boxes[:BOXES]

"""What a test may look at besides an image as it is: its mirror image, other sizes, what was found, enlarged; borders.

All is written over one function, ``find(images, names, scale)``: for each image (H, W, 3) uint8 RGB and the number of
the name to look for in it, the evidence (H, W) fp32 of that name, with the network's input ``scale`` times as large.
"""
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from util.evaluation.refine import refine

Find = Callable[[list[np.ndarray], list[int], float], list[Tensor]]
Box = tuple[slice, slice]   # rows and columns of an image

MARGIN = 1 / 4      # of a region's box, added on each side: what is around helps to say what a thing is
LARGEST = 1 / 4     # of the image: a box of this area or more would be enlarged to less than twice its sides
SMALLEST = 1 / 1024     # of the image: a region below is a speck (16 px at 128 x 128)
BOXES = 8           # of an image at most, those of the largest regions
CROP = 1 / 2        # what a crop's evidence weighs beside that of the whole image; docs/plus.md has other values


class Views(NamedTuple):
    """Config section ``eval``'s flip, scales, zoom and refine. The default is the image as it is, and nothing else."""
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    zoom: bool = False
    refine: int = 0


def look(images: list[np.ndarray], names: list[int], find: Find, views: Views,
         *first: list[Tensor]) -> list[Tensor]:
    """The evidence of all ``views``. Zoom starts from the mask that flip and scales find, and uses both on its crops.
    In the end the borders are refined.

    first: what ``find`` says at scale 1, where that is known: of the images and, with flip, of their mirror images.
    """
    evidence = averaged(images, names, find, views.flip, views.scales, *first)
    if views.zoom:
        evidence = zoomed(images, names, evidence, lambda *crops: averaged(*crops, find, views.flip, views.scales))
    if views.refine:
        evidence = [refine(each, torch.from_numpy(image).permute(2, 0, 1).to(each.device), views.refine)
                    for each, image in zip(evidence, images)]
    return evidence


def averaged(images: list[np.ndarray], names: list[int], find: Find, flip: bool, scales: tuple[float, ...],
             *first: list[Tensor]) -> list[Tensor]:
    """The mean of the evidences at ``scales``, with ``flip`` of the mirror images, too. first: as for ``look``."""
    shown = [images, mirrored(images)] if flip else [images]
    views = []
    for scale in scales:
        plain, *turned = first if first and scale == 1 else [find(each, names, scale) for each in shown]
        views += [plain, *([evidence.flip(1) for evidence in each] for each in turned)]
    return [torch.stack(of_image).mean(dim=0) for of_image in zip(*views)]


def mirrored(images: list[np.ndarray]) -> list[np.ndarray]:
    return [np.ascontiguousarray(image[:, ::-1]) for image in images]


def zoomed(images: list[np.ndarray], names: list[int], evidence: list[Tensor],
           find: Callable[[list[np.ndarray], list[int]], list[Tensor]]) -> list[Tensor]:
    """``evidence`` after a closer look at its small regions: the same name again in the box of each, enlarged.

    Where boxes lie, the evidence becomes the mean of all looks at a pixel, in which each crop weighs CROP and the first
    look 1. A crop shows the thing in more detail. The whole image shows what is around it, and at a size that training
    has met more often, so it counts more.
    """
    boxes = [boxes_of((e > 0).cpu().numpy()) for e in evidence]
    places = [(k, box) for k, of_image in enumerate(boxes) for box in of_image]
    if not places:
        return evidence
    crops = find([np.ascontiguousarray(images[k][box]) for k, box in places], [names[k] for k, _ in places])
    sums, weights = [e.clone() for e in evidence], [torch.ones_like(e) for e in evidence]
    for (k, box), crop in zip(places, crops):
        sums[k][box] += CROP * crop
        weights[k][box] += CROP
    return [total / weight for total, weight in zip(sums, weights)]


def boxes_of(mask: np.ndarray) -> list[Box]:
    """The boxes of a mask's connected regions (H, W) bool, largest region first, with their margin; see BOXES.

    A box that reaches out of the image is cut off at its border.
    """
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

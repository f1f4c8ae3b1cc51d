"""From images of any size to square network inputs, and back: random in training, faithful in evaluation."""
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from util.evaluation.metric import IGNORE


def augment(image: np.ndarray, mask: np.ndarray, class_id: int, size: int, fill, options,
            rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """ESDA's training augmentation: scale, rotate, blur, flip, then a random crop that keeps most of the class.

    Args:
        image: (H, W, 3) uint8; mask: (H, W) uint8 of class ids; size: side of the crop in px.
        fill: three uint8 values that pad the image where label 255 pads the mask.
        options: the fields of config section ``augment``.
    Returns:
        (size, size, 3) and (size, size), of the same types.
    """
    factor = rng.uniform(*options.scale)
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    if rng.random() < options.rotate_p:
        height, width = mask.shape
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-options.rotate, options.rotate), 1)
        image = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderValue=fill)
        mask = cv2.warpAffine(mask, turn, (width, height), flags=cv2.INTER_NEAREST, borderValue=IGNORE)
    if rng.random() < options.blur_p:
        image = cv2.GaussianBlur(image, (options.blur, options.blur), 0)
    if rng.random() < options.flip_p:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return _crop(image, mask, class_id, size, fill, options, rng)


def _crop(image, mask, class_id, size, fill, options, rng):
    height, width = mask.shape
    down, across = max(size - height, 0), max(size - width, 0)
    if down or across:
        sides = (down // 2, down - down // 2, across // 2, across - across // 2)
        image = cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=fill)
        mask = cv2.copyMakeBorder(mask, *sides, cv2.BORDER_CONSTANT, value=IGNORE)
        height, width = mask.shape
    wanted = options.keep * np.count_nonzero(mask == class_id)
    for _ in range(options.crop_tries):
        top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        window = (slice(top, top + size), slice(left, left + size))
        if np.count_nonzero(mask[window] == class_id) >= wanted:
            break
    return image[window], mask[window]


def fit(image: np.ndarray, size: int, fill) -> tuple[np.ndarray, tuple[int, int]]:
    """Resize the longer side to ``size`` and pad on the right and below.

    Returns the (size, size, 3) canvas and the (height, width) of it that the image fills.
    """
    height, width = image.shape[:2]
    factor = size / max(height, width)
    inner = (max(1, round(height * factor)), max(1, round(width * factor)))
    if inner != (height, width):
        way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, inner[::-1], interpolation=way)
    canvas = cv2.copyMakeBorder(image, 0, size - inner[0], 0, size - inner[1], cv2.BORDER_CONSTANT, value=fill)
    return canvas, inner


def unfit(evidence: Tensor, inner: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """The way back: cut the padding off (S, S) and resize bilinearly to ``shape``, the image's (height, width)."""
    evidence = evidence[:inner[0], :inner[1]]
    if evidence.shape == shape:
        return evidence
    return _resize(evidence, shape, align_corners=False)


def _resize(evidence: Tensor, shape: tuple[int, int], align_corners: bool) -> Tensor:
    """(h, w) to ``shape``, bilinearly. F.interpolate itself would, for the sake of a gradient that nobody wants here,
    make some forty small operations of it on a GPU that is to be deterministic.
    """
    return torch.ops.aten.upsample_bilinear2d(evidence[None, None], shape, align_corners)[0, 0]


def fit_released(image: np.ndarray, size: int, fill) -> tuple[np.ndarray, tuple[int, int]]:
    """As :func:`fit`, in the manner of the released code and of PFENet and BAM before it: the longer side becomes
    ``size``, the other int(side * ratio), both are floored to a multiple of 8, and the canvas is black, not ``fill``.
    """
    height, width = image.shape[:2]
    ratio = size / max(height, width)
    # int() can be one pixel short, which the floor makes eight: the longer side, the height of a square, is spared that
    inner = (size, int(width * ratio)) if height >= width else (int(height * ratio), size)
    inner = tuple(max(8, side // 8 * 8) for side in inner)
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[:inner[0], :inner[1]] = cv2.resize(image, inner[::-1], interpolation=cv2.INTER_LINEAR)
    return canvas, inner


def unfit_released(evidence: Tensor, inner: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Its way back: (S, S), padding and all, becomes a square of the image's longer side, scored where the image lies.

    ``inner`` is not looked at, so that where a side was floored the prediction is off by a few pixels.
    """
    longer = max(shape)
    square = _resize(evidence, (longer, longer), align_corners=True)
    return square[:shape[0], :shape[1]]


class Fit(NamedTuple):
    """A test image's way to the network's input and the prediction's way back to the image's own pixels."""
    there: Callable[[np.ndarray, int, tuple], tuple[np.ndarray, tuple[int, int]]]
    back: Callable[[Tensor, tuple[int, int], tuple[int, int]], Tensor]
    cut: bool = False   # whether patches that hold padding alone stay out of the network


FITS = {"described": Fit(fit, unfit), "cut": Fit(fit, unfit, cut=True),  # by eval.fit
        "released": Fit(fit_released, unfit_released)}


def binary_target(mask: np.ndarray, class_id: int) -> np.ndarray:
    """A mask of class ids to the target of one class: 1 there, 255 where ignored, 0 elsewhere; uint8, a new array."""
    return np.where(mask == IGNORE, np.uint8(IGNORE), (mask == class_id).astype(np.uint8))

"""Transforms from images of any size to square network inputs: augmentation, and reversible fits for evaluation."""
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from model import IGNORE

ROTATE_P, BLUR_P, FLIP_P = 0.5, 0.5, 0.5    # chances of each, as published (PFENet, BAM)
KEEP, CROP_TRIES = 0.85, 30                 # a crop keeps this share of the class, or is the last one tried


def augment(image: np.ndarray, mask: np.ndarray, class_id: int, size: int, fill, options,
            rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Augment for training as ESDA does: scale, rotate, blur, flip, then a random crop that keeps most of the class.

    image (H, W, 3) uint8 and mask (H, W) uint8 of class ids become (size, size, 3) and (size, size). fill: uint8 RGB
    padding of the image; the mask is padded with 255. options: config section ``augment``.
    """
    factor = rng.uniform(*options.scale)
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    if rng.random() < ROTATE_P:
        height, width = mask.shape
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-options.rotate, options.rotate), 1)
        image = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderValue=fill)
        mask = cv2.warpAffine(mask, turn, (width, height), flags=cv2.INTER_NEAREST, borderValue=IGNORE)
    if rng.random() < BLUR_P:
        image = cv2.GaussianBlur(image, (options.blur, options.blur), 0)
    if rng.random() < FLIP_P:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return _crop(image, mask, class_id, size, fill, rng)


def _crop(image, mask, class_id, size, fill, rng):
    height, width = mask.shape
    down, across = max(size - height, 0), max(size - width, 0)
    if down or across:
        sides = (down // 2, down - down // 2, across // 2, across - across // 2)
        image = cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=fill)
        mask = cv2.copyMakeBorder(mask, *sides, cv2.BORDER_CONSTANT, value=IGNORE)
        height, width = mask.shape
    wanted = KEEP * np.count_nonzero(mask == class_id)
    for _ in range(CROP_TRIES):
        top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        window = (slice(top, top + size), slice(left, left + size))
        if np.count_nonzero(mask[window] == class_id) >= wanted:
            break
    return image[window], mask[window]


def to_input(image: np.ndarray, size: int, fill) -> tuple[np.ndarray, tuple[int, int]]:
    """Resize (H, W, 3) to a longer side of ``size``, and pad with ``fill`` on the right and below.

    Returns the (size, size, 3) canvas and its valid size: the (height, width) of it that the image fills.
    """
    height, width = image.shape[:2]
    factor = size / max(height, width)
    valid = (max(1, round(height * factor)), max(1, round(width * factor)))
    if valid != (height, width):
        image = cv2.resize(image, valid[::-1], interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    canvas = cv2.copyMakeBorder(image, 0, size - valid[0], 0, size - valid[1], cv2.BORDER_CONSTANT, value=fill)
    return canvas, valid


def to_original(logits: Tensor, valid: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Cut the padding off a map (S, S) and resize the rest bilinearly to ``shape``, the image's own (H, W)."""
    logits = logits[:valid[0], :valid[1]]
    return logits if logits.shape == shape else _resize(logits, shape, align_corners=False)


def _resize(logits: Tensor, shape: tuple[int, int], align_corners: bool) -> Tensor:
    """Resize (h, w) to ``shape``, bilinearly."""
    # F.interpolate becomes some forty small operations on a GPU in deterministic mode, for its gradient's sake.
    return torch.ops.aten.upsample_bilinear2d(logits[None, None], shape, align_corners)[0, 0]


def to_input_released(image: np.ndarray, size: int, fill) -> tuple[np.ndarray, tuple[int, int]]:
    """Fit as the released code, PFENet and BAM do: both sides floored to a multiple of 8, black padding."""
    height, width = image.shape[:2]
    ratio = size / max(height, width)
    # int(side * ratio) may be a pixel short, which the floor makes eight. The longer side (a square's height) is exact.
    valid = (size, int(width * ratio)) if height >= width else (int(height * ratio), size)
    valid = tuple(max(8, side // 8 * 8) for side in valid)
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[:valid[0], :valid[1]] = cv2.resize(image, valid[::-1], interpolation=cv2.INTER_LINEAR)
    return canvas, valid


def to_original_released(logits: Tensor, valid: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Resize all of (S, S), padding included, to a square of the image's longer side, and cut out the image.

    ``valid`` is unused: where a side was floored, the map is off by a few pixels, as in the released code.
    """
    return _resize(logits, (max(shape), max(shape)), align_corners=True)[:shape[0], :shape[1]]


class Fit(NamedTuple):
    """Pair of transforms: test image to network input, and map of that input to the image's own pixels."""
    to_input: Callable
    to_original: Callable
    cut: bool = False   # whether patches that hold nothing but padding are left out of the network's input


FITS = {  # by eval.fit
    "described": Fit(to_input, to_original),
    "cut": Fit(to_input, to_original, cut=True),
    "released": Fit(to_input_released, to_original_released),
}

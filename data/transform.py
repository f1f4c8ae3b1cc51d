"""From images of any size to square network inputs: augmented in training, and reversibly in evaluation."""
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from model import IGNORE


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


def to_input(image: np.ndarray, size: int, fill) -> tuple[np.ndarray, tuple[int, int]]:
    """Resize an image (H, W, 3) so that its longer side is ``size``, and pad it with ``fill`` on the right and below.

    Returns the (size, size, 3) canvas and its valid size: the (height, width) of it that the image fills.
    """
    height, width = image.shape[:2]
    factor = size / max(height, width)
    valid = (max(1, round(height * factor)), max(1, round(width * factor)))
    if valid != (height, width):
        image = cv2.resize(image, valid[::-1], interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    canvas = cv2.copyMakeBorder(image, 0, size - valid[0], 0, size - valid[1], cv2.BORDER_CONSTANT, value=fill)
    return canvas, valid


def to_original(evidence: Tensor, valid: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Cut the padding off a map (S, S) and resize the rest bilinearly to ``shape``, the image's own (H, W)."""
    evidence = evidence[:valid[0], :valid[1]]
    if evidence.shape == shape:
        return evidence
    return _resize(evidence, shape, align_corners=False)


def _resize(evidence: Tensor, shape: tuple[int, int], align_corners: bool) -> Tensor:
    """(h, w) to ``shape``, bilinearly.

    F.interpolate gives the same numbers, but on a GPU in deterministic mode it decomposes into some forty small
    operations, so that its gradient is deterministic too. No gradient is needed here.
    """
    return torch.ops.aten.upsample_bilinear2d(evidence[None, None], shape, align_corners)[0, 0]


def to_input_released(image: np.ndarray, size: int, fill) -> tuple[np.ndarray, tuple[int, int]]:
    """As :func:`to_input`, but the way the released code, PFENet and BAM do it: the longer side becomes ``size``, the
    other int(side * ratio), both are floored to a multiple of 8, and the padding is black instead of ``fill``.
    """
    height, width = image.shape[:2]
    ratio = size / max(height, width)
    # int(side * ratio) may be a pixel short, which the floor makes eight. The longer side (a square's height) is exact.
    valid = (size, int(width * ratio)) if height >= width else (int(height * ratio), size)
    valid = tuple(max(8, side // 8 * 8) for side in valid)
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[:valid[0], :valid[1]] = cv2.resize(image, valid[::-1], interpolation=cv2.INTER_LINEAR)
    return canvas, valid


def to_original_released(evidence: Tensor, valid: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Resize the whole (S, S), padding included, to a square of the image's longer side, and cut out the image.

    ``valid`` is not used: where a side was floored, the prediction is off by a few pixels, as in the released code.
    """
    longer = max(shape)
    square = _resize(evidence, (longer, longer), align_corners=True)
    return square[:shape[0], :shape[1]]


class Fit(NamedTuple):
    """How a test image becomes the network's input, and how a map of that input returns to the image's own pixels."""
    to_input: Callable[[np.ndarray, int, tuple], tuple[np.ndarray, tuple[int, int]]]
    to_original: Callable[[Tensor, tuple[int, int], tuple[int, int]], Tensor]
    cut: bool = False   # whether patches that hold nothing but padding are left out of the network's input


FITS = {  # by eval.fit
    "described": Fit(to_input, to_original),
    "cut": Fit(to_input, to_original, cut=True),
    "released": Fit(to_input_released, to_original_released),
}


def binary_target(mask: np.ndarray, class_id: int) -> np.ndarray:
    """The target of one class from a mask of class ids, a new uint8 array: 1 the class, 255 ignored, 0 the rest."""
    return np.where(mask == IGNORE, np.uint8(IGNORE), (mask == class_id).astype(np.uint8))

"""A mask drawn over its image, with the names of its classes."""
import cv2
import numpy as np

from data.files import IGNORE
from data.folds import Classes


def overlay(image: np.ndarray, mask: np.ndarray, classes: Classes, height: int = 300) -> np.ndarray:
    """(H', W', 3) uint8 RGB: each class of the mask in a colour over the image, with its name; ignored pixels white.

    ``height`` is H' in px. An image more than three times as wide as high is made less high instead.
    """
    scale = min(height / image.shape[0], 3 * height / image.shape[1])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    hues = np.array([[[(67 * c) % 180, 220, 255]] for c in range(256)], np.uint8)  # neighbouring ids get distant hues
    colours = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)[:, 0]
    colours[IGNORE] = 255
    out = np.where((mask > 0)[..., None], (0.45 * image + 0.55 * colours[mask]).astype(np.uint8), image)
    for c in (int(c) for c in np.unique(mask) if c not in (0, IGNORE)):
        y, x = (int(v) for v in np.argwhere(mask == c).mean(axis=0))
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(out, classes.name(c), (max(0, x - 25), y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness,
                        cv2.LINE_AA)
    return out

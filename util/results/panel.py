"""How the pictures of one prediction lie in a panel: put together for a run, and taken apart by util.compare."""
import cv2
import numpy as np

HEADS = ("image", "truth", "prior mask", "prediction")
_LINE, _GAP = 26, 4  # px: height of the line of names, white between two pictures


def joined(pictures: list[np.ndarray], name: str) -> np.ndarray:
    """A picture for each of HEADS, (H, W, 3) uint8 RGB, side by side below their heads; ``name`` is the class's."""
    height, width = pictures[0].shape[:2]
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    row = np.hstack([part for picture in pictures for part in (picture, gap)][:-1])
    head = np.full((_LINE, row.shape[1], 3), 255, np.uint8)
    for k, text in enumerate(HEADS):
        cv2.putText(head, f"{name}: {text}" if k == 0 else text, (k * (width + _GAP) + 3, 18),
                    cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([head, row])


def parted(panel: np.ndarray) -> dict[str, np.ndarray]:
    """{head: picture} of what :func:`joined` made."""
    width = (panel.shape[1] + _GAP) // len(HEADS)
    return {head: panel[_LINE:, k * width:(k + 1) * width - _GAP] for k, head in enumerate(HEADS)}

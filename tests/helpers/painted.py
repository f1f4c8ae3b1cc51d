"""Pictures of several odd sizes whose red channel tells their masks, for tests of evaluation."""
from pathlib import Path

import cv2
import numpy as np

from data.index import Index, read_index


def paint(folder: Path, shapes: list[tuple[int, int]]) -> Index:
    """Write noise with class 1 or 2 in turn on the left, 3 on the right and a row of 255, and read its index.

    Red is 10 times the class id. shapes: (height, width) px of each, at least 25 x 36.
    """
    rng, lines = np.random.default_rng(0), []
    for i, shape in enumerate(shapes):
        mask = np.zeros(shape, np.uint8)
        mask[5:25, 5:20], mask[5:25, 22:36], mask[4] = 1 + i % 2, 3, 255
        blue, green = rng.integers(0, 255, (2, *shape))
        cv2.imwrite(str(folder / f"{i}.png"), np.stack([blue, green, 10 * (mask % 255)], axis=-1).astype(np.uint8))
        cv2.imwrite(str(folder / f"{i}_mask.png"), mask)
        lines.append(f"{i}.png {i}_mask.png\n")
    (folder / "list.txt").write_text("".join(lines))
    return read_index(folder, folder / "list.txt", 3)

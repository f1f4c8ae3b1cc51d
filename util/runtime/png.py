"""PNG files as bytes, and sheets of pictures."""
import cv2
import numpy as np


def encode_png(image: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 RGB, or (H, W) uint8 grey, as the bytes of a PNG file."""
    return cv2.imencode(".png", image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def sheet(pictures: list[np.ndarray], columns: int = 2, gap: int = 6) -> np.ndarray:
    """Arrange pictures (H, W, 3) uint8 in a grid on white, each padded to the largest, ``gap`` px around each."""
    height, width = (max(p.shape[k] for p in pictures) for k in (0, 1))
    cells = [cv2.copyMakeBorder(p, gap, gap + height - p.shape[0], gap, gap + width - p.shape[1], cv2.BORDER_CONSTANT,
                                value=(255, 255, 255)) for p in pictures]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[i:i + columns]) for i in range(0, len(cells), columns)])

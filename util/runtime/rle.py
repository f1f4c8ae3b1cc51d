"""Run-length encoding of masks, in COCO's form."""
import numpy as np
from pycocotools import mask as coco


def encode(mask: np.ndarray) -> dict:
    """Encode (H, W) bool as {"size": [H, W], "counts": text}."""
    code = coco.encode(np.asfortranarray(mask, np.uint8))
    return {**code, "counts": code["counts"].decode()}


def decode(code: dict, shape: tuple[int, int]) -> np.ndarray:
    """Decode to (H, W) bool of ``shape``; ``counts`` may also be a list of the runs themselves. Raises ValueError."""
    lengths = runs(code, shape)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(shape[::-1]).T


def runs(code: dict, shape: tuple[int, int]) -> np.ndarray:
    """Read the lengths of the runs of 0 and 1 in turn, down the columns, (N,) int.

    Raises ValueError for another size, and for runs that do not fill it, where pycocotools shows what memory held.
    """
    lengths, length, shift = [], 0, 0
    for bits in (ord(letter) - 48 for letter in code["counts"] if isinstance(code["counts"], str)):
        length += (bits & 31 if bits & 32 else (bits & 15) - (bits & 16)) << shift
        shift += 5
        if not bits & 32:   # a run's highest bits, with the sign; from the fourth on, it is a difference
            lengths.append(length + (lengths[-2] if len(lengths) > 2 else 0))
            length = shift = 0
    lengths = np.array(lengths if isinstance(code["counts"], str) else code["counts"], float)
    if code["size"] != list(shape) or (lengths < 0).any() or (lengths % 1).any() or lengths.sum() != np.prod(shape):
        raise ValueError(f"its size or its runs do not fill the image of {shape[1]}x{shape[0]}")
    return lengths.astype(int)

"""Masks as COCO's run lengths (pycocotools, common/maskApi.c), the form that COCO's tools exchange."""
import numpy as np


def encode(mask: np.ndarray) -> dict:
    """(H, W) bool to {"size": [H, W], "counts": text}, equal to pycocotools' ``encode``."""
    flat = mask.ravel(order="F")  # down the columns
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0, 0] if flat[0] else [0], edges, [flat.size]]))  # of 0 and 1 in turn, 0 first
    return {"size": list(mask.shape), "counts": _compressed(runs.tolist())}


def decode(code: dict, shape: tuple[int, int]) -> np.ndarray:
    """The inverse: (H, W) bool of ``shape``. ``counts`` may also be a list of the runs themselves.

    Raises ValueError for a code of another size, and unless its runs fill that size. pycocotools would take a code that
    is cut short.
    """
    if code["size"] != list(shape):
        raise ValueError(f"its size is {code['size']!r:.40}")
    runs = _runs(code["counts"]) if isinstance(code["counts"], str) else code["counts"]
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != shape[0] * shape[1]:
        raise ValueError("its runs do not fill the image")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape[::-1]).T


# Compressed, a run is a number of 5 bits a character, from "0" on, the lowest bits first. From the fourth run on it is
# the difference to the last run but one. The highest bit of a run's last character is the sign.

def _compressed(runs: list[int]) -> str:
    out = bytearray()
    for i, run in enumerate(runs):
        rest, more = run - runs[i - 2] if i > 2 else run, True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)  # the sign's bit stands for all that follow
            out.append(48 + bits + 32 * more)
    return out.decode()


def _runs(text: str) -> list[int]:
    runs, value, shift = [], 0, 0
    for bits in (ord(character) - 48 for character in text):
        if not 0 <= bits < 64:
            raise ValueError("its run-length code holds other characters than 0 to o")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            runs.append(value - (bits >> 4 << shift) + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its run-length code is cut short")
    return runs

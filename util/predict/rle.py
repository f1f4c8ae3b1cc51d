"""Masks as COCO's compressed run lengths (pycocotools, common/maskApi.c), the form that COCO's tools exchange."""
import numpy as np


def encode(mask: np.ndarray) -> dict:
    """(H, W) bool to {"size": [H, W], "counts": text}, equal to pycocotools' ``encode``."""
    flat = mask.ravel(order="F")  # down the columns
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0, 0] if flat[0] else [0], edges, [flat.size]]))  # of 0 and 1 in turn, 0 first
    return {"size": list(mask.shape), "counts": _compressed(counts.tolist())}


def _compressed(counts: list[int]) -> str:
    """From the fourth run on its difference to the last but one; 5 bits a character from "0" on, the lowest first."""
    out = bytearray()
    for i, count in enumerate(counts):
        rest, more = count - counts[i - 2] if i > 2 else count, True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)  # the sign's bit stands for all that follow
            out.append(48 + bits + 32 * more)
    return out.decode()

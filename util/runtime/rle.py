"""Run-length encoding of masks, in COCO's form."""
import numpy as np
from pycocotools import mask as coco


def encode(mask: np.ndarray) -> dict:
    """Encode (H, W) bool as {"size": [H, W], "counts": text}."""
    code = coco.encode(np.asfortranarray(mask, np.uint8))
    return {**code, "counts": code["counts"].decode()}


def decode(code: dict, shape: tuple[int, int]) -> np.ndarray:
    """Decode to (H, W) bool of ``shape``; ``counts`` may also be a list of the runs themselves.

    Raises ValueError for another size, and for runs that do not fill it, which pycocotools would take.
    """
    plain = isinstance(code["counts"], list)
    if code["size"] != list(shape) or plain and (min(code["counts"]) < 0 or sum(code["counts"]) != np.prod(shape)):
        raise ValueError("its size or its runs do not fill the image")
    return coco.decode(coco.frPyObjects(code, *shape) if plain else code).astype(bool)

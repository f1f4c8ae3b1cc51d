"""Run lengths are pycocotools' own, there and back, and a code that fits no mask is rejected."""
import json

import numpy as np
import pytest

from util.runtime import rle

MASKS = [np.zeros((5, 7), bool), np.ones((5, 7), bool), np.eye(6, 9, dtype=bool), np.ones((1, 1), bool),
         *(np.random.default_rng(i).random((40 + i, 300)) < p for i, p in enumerate((0.01, 0.5, 0.99))),
         np.pad(np.ones((900, 3), bool), ((50, 50), (700, 2)))]


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: f"{mask.shape}, {mask.mean():.2f}")
def test_encoding_is_that_of_pycocotools_and_decoding_its_inverse(mask):
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed (data/requirements.txt)")
    code, theirs = rle.encode(mask), coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert code == {"size": theirs["size"], "counts": theirs["counts"].decode()} and json.dumps(code)
    assert np.array_equal(coco.decode(code), mask) and np.array_equal(rle.decode(code, mask.shape), mask)


def test_runs_need_not_be_compressed():
    assert rle.decode({"size": [2, 3], "counts": [1, 3, 2]}, (2, 3)).tolist() == [[0, 1, 0], [1, 1, 0]]


@pytest.mark.parametrize("change, said", [
    ({"size": [3, 2]}, "size"), ({"counts": [1, 3, 1]}, "fill"), ({"counts": [7, -1]}, "fill"),
    ({"counts": [1.0, 5]}, "fill"), ({"counts": "13"}, "fill"), ({"counts": "1P"}, "cut short"),
    ({"counts": "1 2"}, "other characters")])
def test_a_code_that_fits_no_mask_is_rejected(change, said):
    good = rle.encode(np.array([[0, 1, 0], [1, 1, 0]], bool))
    with pytest.raises(ValueError, match=said):
        rle.decode({**good, **change}, (2, 3))

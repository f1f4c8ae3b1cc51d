"""Run lengths there and back, and a code that fits no mask is rejected."""
import numpy as np
import pytest

from util.runtime import rle

MASK = np.array([[0, 1, 0], [1, 1, 0]], bool)


def test_decoding_is_the_inverse_of_encoding_and_runs_go_down_the_columns():
    assert np.array_equal(rle.decode(rle.encode(MASK), MASK.shape), MASK)
    assert np.array_equal(rle.decode({"size": [2, 3], "counts": [1, 3, 2]}, (2, 3)), MASK)


@pytest.mark.parametrize("change", [{"size": [3, 2]}, {"counts": [1, 3, 1]}, {"counts": [7, -1]}, {"counts": "1P"}])
def test_a_code_that_fits_no_mask_is_rejected(change):
    with pytest.raises(ValueError):
        rle.decode({**rle.encode(MASK), **change}, (2, 3))

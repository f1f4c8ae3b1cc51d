"""From evidence to masks, and the forms of a result: run lengths, boxes, the indexed PNG, the legend, JSON."""
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from util.predict.overlay import COLOURS, LARGEST, SMALLEST, palette
from util.predict.result import Result


def made(evidence, names, others=(), scores=None, threshold=0.5, separate=False, image=None) -> Result:
    """A result of the evidence (K + R, H, W), by default with all names surely there."""
    evidence = torch.as_tensor(np.array(evidence, np.float32))
    image = np.full((*evidence.shape[1:], 3), 100, np.uint8) if image is None else image
    scores = np.full(len(evidence), 0.9, np.float32) if scores is None else np.array(scores, np.float32)
    return Result(image, list(names), list(others), threshold, separate, {"kind": "made"}, scores, evidence,
                  lambda one: one)


ONE, OTHER = [[3, 3, -1, -1]], [[-1, 4, 2, -2]]     # the second takes the second pixel


def test_names_compete_where_they_overlap_and_rivals_are_not_reported():
    result = made([ONE, OTHER], ["a", "b"])
    assert result.labels.tolist() == [[1, 2, 2, 0]] and result.labels.dtype == np.uint8
    assert result.masks.tolist() == [[[True, False, False, False]], [[False, True, True, False]]]
    assert result.shares.tolist() == [0.25, 0.5]
    separate = made([ONE, OTHER], ["a", "b"], separate=True)
    assert separate.masks.tolist() == [[[True, True, False, False]], [[False, True, True, False]]]
    alone = made([ONE, OTHER], ["a"], ["b"])
    assert alone.labels.tolist() == [[1, 0, 0, 0]] and len(alone.masks) == len(alone.scores) == 1
    surer = made([ONE, OTHER], ["a", "b"], scores=[0.99, 0.6])      # logits of 4.6 and 0.4: 3 + 4.6 against 4 + 0.4
    assert surer.labels.tolist() == [[1, 1, 2, 0]]
    sure = made([ONE, OTHER], ["a", "b"], scores=[1, 1])
    assert sure.labels.tolist() == [[1, 2, 2, 0]], "certain names compete by their margins"
    nowhere = made([ONE, [[-1, -1, -1, -1]], [[1, -2, -2, -2]]], ["a", "b", "c"])
    assert "b not found (0.90, but at no place), c not found (0.90, its places went" in nowhere.summary()
    assert made([ONE, OTHER], ["a"], ["b"], scores=[0.9, 0.1]).labels.tolist() == [[1, 1, 0, 0]], "it is not there"


@pytest.mark.parametrize("separate", [False, True])
def test_a_name_below_the_threshold_is_not_found_and_takes_nothing(separate):
    result = made([ONE, OTHER], ["a", "b"], scores=[0.9, 0.49], separate=separate)
    assert result.found.tolist() == [True, False] and result.masks[0].tolist() == [[True, True, False, False]]
    assert not result.masks[1].any() and "b not found (0.49)" in result.summary()


@pytest.mark.parametrize("mask", [np.zeros((5, 7), bool), np.eye(6, 9, dtype=bool)])
def test_area_box_and_run_lengths_are_those_of_pycocotools(mask):
    result, theirs = made([np.where(mask, 1, -1)], ["a"]), coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert result.areas[0] == coco.area(theirs) and np.array_equal(coco.decode(result.rle()[0]), mask)
    assert result.json()["names"][0]["box"] == (coco.toBbox(theirs).astype(int).tolist() if mask.any() else None)


def test_the_indexed_png_keeps_numbers_and_has_a_palette():
    result = made([ONE, OTHER], ["a", "b"], separate=True)
    for k, expected in ((None, [[1, 2, 2, 0]]), (1, [[0, 2, 2, 0]])):
        with Image.open(io.BytesIO(result.mask_png(k))) as image:
            assert image.mode == "P" and np.asarray(image).tolist() == expected
            assert image.getpalette()[6:9] == list(COLOURS[1])
    assert len(np.unique(palette(254), axis=0)) == 254, "no two names have the same colour"


def test_json_holds_all_but_the_pixels():
    about = made([ONE, OTHER], ["a", "b"], scores=[0.9, 0.2]).json()
    assert json.loads(json.dumps(about)) == about and (about["width"], about["height"]) == (4, 1)
    assert about["names"][0].pop("rle") and about["names"][0] == {
        "name": "a", "found": True, "score": 0.9, "area": 2, "share": 0.5, "box": [0, 0, 2, 1]}


def test_the_picture_shows_outlines_and_a_legend():
    evidence = np.full((2, 90, 160), -1.0)
    evidence[0, 20:60, 20:70] = evidence[1, 30:80, 90:140] = 1
    shown, scale = made(evidence, ["star", "key"]).overlay(), SMALLEST / 160
    assert shown[round(85 * scale), round(5 * scale)].tolist() == [100, 100, 100], "outside"
    assert shown[round(50 * scale), round(30 * scale)] == pytest.approx(0.65 * 100 + 0.35 * np.array(COLOURS[0]), abs=2)
    assert all((shown[round(90 * scale):] == colour).all(axis=2).any() for colour in COLOURS[:2])
    for height, width in ((8, 8), (8, 4000), (4000, 8)):
        shown = made(np.ones((1, height, width)), ["星"]).overlay()
        assert SMALLEST <= shown.shape[1] <= LARGEST and shown.shape[0] < LARGEST + 200

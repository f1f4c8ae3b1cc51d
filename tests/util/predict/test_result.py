"""From evidence to masks, and the forms of a result: run lengths, boxes, the indexed PNG, the legend, JSON."""
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from util.predict import overlay as drawing
from util.predict.overlay import COLOURS, SMALLEST, palette
from util.predict.result import Result

coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed (data/requirements.txt)")


def made(evidence, names, others=(), scores=None, threshold=0.5, separate=False, image=None) -> Result:
    """A result of the evidence (K + R, H, W), by default with all names surely there."""
    evidence = torch.as_tensor(np.array(evidence, np.float32))
    image = np.full((*evidence.shape[1:], 3), 100, np.uint8) if image is None else image
    scores = np.full(len(evidence), 0.9, np.float32) if scores is None else np.array(scores, np.float32)
    return Result(image, list(names), list(others), threshold, separate, {"kind": "made"}, scores, evidence,
                  lambda one: one)


ONE, OTHER = [[3, 3, -1, -1]], [[-1, 4, 2, -2]]     # the second takes the second pixel


def test_names_compete_where_they_overlap():
    result = made([ONE, OTHER], ["a", "b"])
    assert result.labels.tolist() == [[1, 2, 2, 0]] and result.labels.dtype == np.uint8
    assert result.masks.tolist() == [[[True, False, False, False]], [[False, True, True, False]]]
    assert result.areas.tolist() == [1, 2] and result.shares.tolist() == [0.25, 0.5]


def test_rivals_take_pixels_and_are_not_reported():
    result = made([ONE, OTHER], ["a"], ["b"])
    assert result.labels.tolist() == [[1, 0, 0, 0]] and len(result.masks) == len(result.scores) == 1
    assert made([ONE, OTHER], ["a"], ["b"], scores=[0.9, 0.1]).labels.tolist() == [[1, 1, 0, 0]], "it is not there"


def test_separate_masks_may_overlap():
    result = made([ONE, OTHER], ["a", "b"], separate=True)
    assert result.masks.tolist() == [[[True, True, False, False]], [[False, True, True, False]]]


@pytest.mark.parametrize("separate", [False, True])
def test_a_name_below_the_threshold_is_not_found_and_takes_nothing(separate):
    result = made([ONE, OTHER], ["a", "b"], scores=[0.9, 0.49], separate=separate)
    assert result.found.tolist() == [True, False] and result.masks[0].tolist() == [[True, True, False, False]]
    assert not result.masks[1].any() and result.box(1) is None and "b not found (0.49)" in result.summary()
    assert made([ONE, OTHER], ["a", "b"], scores=[0.9, 0.5]).found.tolist() == [True, True], "it reaches it"


def test_a_name_whose_places_went_to_others_is_not_found():
    result = made([ONE, [[9, 9, 9, 9]]], ["a", "b"])
    assert result.found.tolist() == [False, True] and "went to others" in result.fact(0)


def test_probabilities_are_of_each_name_alone():
    result = made([ONE, OTHER], ["a", "b"], scores=[0.1, 0.9])
    assert result.probabilities == pytest.approx(1 / (1 + np.exp(-np.array([ONE, OTHER], float))))


MASKS = {"empty": np.zeros((5, 7), bool), "full": np.ones((5, 7), bool), "diagonal": np.eye(6, 9, dtype=bool),
         "bar": np.pad(np.ones((900, 3), bool), ((50, 50), (700, 2)))}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_area_box_and_run_lengths_are_those_of_pycocotools(mask):
    result, theirs = made([np.where(mask, 1, -1)], ["a"]), coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert result.areas[0] == coco.area(theirs) and np.array_equal(coco.decode(result.rle()[0]), mask)
    assert result.box(0) == (coco.toBbox(theirs).astype(int).tolist() if mask.any() else None)


def test_the_indexed_png_keeps_numbers_and_has_a_palette():
    result = made([ONE, OTHER], ["a", "b"], separate=True)
    for k, expected in ((None, [[1, 2, 2, 0]]), (1, [[0, 2, 2, 0]])):
        with Image.open(io.BytesIO(result.mask_png(k))) as image:
            assert image.mode == "P" and np.asarray(image).tolist() == expected
            assert np.asarray(image.convert("RGB"))[0, [-1, 1]].tolist()[0] == [0, 0, 0]
            assert image.getpalette()[6:9] == list(COLOURS[1])
    assert len(np.unique(palette(254), axis=0)) == 254, "no two names have the same colour"


def test_json_holds_all_but_the_pixels():
    about = made([ONE, OTHER], ["a", "b"], scores=[0.9, 0.2]).json()
    assert json.loads(json.dumps(about)) == about and (about["width"], about["height"]) == (4, 1)
    first, second = about["names"]
    assert first["found"] and first["area"] == 2 and first["box"] == [0, 0, 2, 1] and first["score"] == 0.9
    assert not second["found"] and second["box"] is None and second["area"] == 0
    assert coco.decode(first["rle"]).tolist() == [[1, 1, 0, 0]]


# The picture

def scene(size=(90, 160)) -> np.ndarray:
    evidence = np.full((2, *size), -1.0)
    evidence[0, 20:60, 20:70] = evidence[1, 30:80, 90:140] = 1
    return evidence


def test_the_picture_shows_outlines_and_a_legend():
    result = made(scene(), ["star", "key"])
    shown = result.overlay()
    scale = SMALLEST / 160
    assert shown.shape[1] == SMALLEST and shown.shape[0] > 90 * scale and shown.dtype == np.uint8
    inside, outside = shown[round(50 * scale), round(30 * scale)], shown[round(85 * scale), round(5 * scale)]
    assert outside.tolist() == [100, 100, 100]
    assert inside == pytest.approx(0.65 * 100 + 0.35 * np.array(COLOURS[0]), abs=2)
    legend = shown[round(90 * scale):]
    for colour in COLOURS[:2]:
        assert (legend == colour).all(axis=2).any() and (shown == colour).all(axis=2).sum() > 300


@pytest.mark.parametrize("height, width", [(8, 8), (8, 4000), (4000, 8), (2500, 3000)])
def test_pictures_of_any_shape(height, width):
    shown = made(np.ones((1, height, width)), ["star"]).overlay()
    assert SMALLEST <= shown.shape[1] <= drawing.LARGEST and shown.shape[0] < drawing.LARGEST + 200


def test_many_names_and_none_found():
    names = [f"name {k}" for k in range(200)]
    result = made(np.full((200, 20, 30), -1.0), names)
    assert result.overlay().shape[0] < 2500 and result.summary() == "200 names not found"


def test_names_that_the_font_lacks(monkeypatch):
    monkeypatch.setattr(drawing, "FONTS", ("no such font.ttf",))
    written = [drawing._written(name, k, 24)[0] for k, name in enumerate(["star", "étoile", "星", "звезда", "a b"])]
    assert written == ["star", "etoile", "name 3", "name 4", "a b"]
    made(scene(), ["星", "a" * 400]).overlay()

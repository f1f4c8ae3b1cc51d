"""data.prepare coco on miniature archives: what each kind of annotation paints, and in which order."""
import json
import shutil
from pathlib import Path

import miniature
import numpy as np
import pytest
from miniature import (
    CLASS_OF_2048,
    COCO_TRAIN,
    COCO_VAL,
    COMPRESSED,
    CROWD,
    IDS,
    LARGE_ENOUGH,
    NO_AREA,
    OVERLAP,
    PECULIAR,
    SQUARE,
    TOO_SMALL,
    UNANNOTATED,
    UNANNOTATED_IN_TRAINING,
    coco_name,
    complains,
    contents,
    counts_of,
    mask_of,
    prepared,
    read_png,
    rectangle,
)

from data.files import read_list
from data.index import read_index
from data.prepare.coco import Annotated, draw, read_instances
from data.samples import exhaustive
from util.runtime.errors import UserError

NAME = "coco"  # the set that the fixtures make
OUT_OF_ORDER = [1, 90, 13]


def val_mask(root: Path, picture) -> np.ndarray:
    return read_png(root / "masks" / "val2014" / Path(coco_name(picture, "val2014")).with_suffix(".png"))


def painted(*parts: tuple[int, int, int, int, int]) -> np.ndarray:
    """(class, left, top, right, bottom) painted one over another by hand."""
    mask = np.zeros(SQUARE.size[::-1], np.uint8)
    for label, left, top, right, bottom in parts:
        mask[top:bottom, left:right] = label
    return mask


# Sources, images and lists

def test_archives_and_unpacked_folders_give_the_same(archives, made, tmp_path):
    source = miniature.write_archives(archives, tmp_path / "archives")
    assert contents(prepared("coco", source, tmp_path / "out")) == contents(made)


@pytest.mark.parametrize("places", [
    {"train2014": "images", "val2014": "images", "annotations": ""},
    {"train2014": "a/b", "val2014": "a/c", "annotations": "a/annotations_trainval2014"}], ids=["usual", "deeper"])
def test_unpacked_folders_are_found_in_the_usual_places(unpacked, made, tmp_path, places):
    for folder, below in places.items():
        shutil.copytree(unpacked / folder, tmp_path / "source" / below / folder)
    assert contents(prepared("coco", tmp_path / "source", tmp_path / "out")) == contents(made)


def test_the_set_can_be_made_where_the_unpacked_folders_lie(unpacked, made, tmp_path):
    source = Path(shutil.copytree(unpacked, tmp_path / "coco"))
    prepared("coco", source, source)
    assert contents(made).items() <= contents(source).items()


def test_images_of_an_unpacked_source_are_hard_links_to_it(unpacked, made):
    for split, count in (("train2014", len(COCO_TRAIN) + 1), ("val2014", len(COCO_VAL + PECULIAR))):
        images = list((made / split).iterdir())
        assert len(images) == count and not any(image.is_symlink() for image in images)
        assert all(image.samefile(unpacked / split / image.name) for image in images)


def test_lists_hold_every_image_of_a_split_by_name(made):
    for part, split, pictures in (("train", "train2014", [*COCO_TRAIN, UNANNOTATED_IN_TRAINING]),
                                  ("val", "val2014", COCO_VAL + PECULIAR)):
        names = sorted(Path(coco_name(p, split)).stem for p in pictures)
        assert read_list(made / "lists" / f"{part}.txt") == [(f"{split}/{name}.jpg", f"masks/{split}/{name}.png")
                                                             for name in names]


# Masks

def test_a_class_is_the_rank_of_its_category(made):
    assert len(IDS) == 80 and IDS[79] == 90
    for picture in COCO_VAL:
        assert np.array_equal(val_mask(made, picture), mask_of(picture)), picture.name


def test_a_class_is_the_rank_of_its_category_in_whatever_order_the_file_has_them(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({
        "categories": [{"id": i} for i in OUT_OF_ORDER],
        "images": [{"file_name": "a.jpg", "height": 2, "width": 3, "id": 7}],
        "annotations": [{"image_id": 7, "category_id": i, "segmentation": []} for i in OUT_OF_ORDER]}))
    image = read_instances(tmp_path / "a.json")["a.jpg"]
    assert [class_id for class_id, *_ in image.instances] == [1, 3, 2]


def test_a_square_polygon_covers_the_pixels_within_its_corners(made):
    assert np.array_equal(val_mask(made, SQUARE), painted((1, 10, 20, 50, 60)))


def test_a_compressed_rle_is_decoded(made):
    assert np.array_equal(val_mask(made, COMPRESSED), painted((80, 5, 5, 30, 80), (80, 5, 60, 100, 80)))


@pytest.mark.parametrize("picture", [UNANNOTATED, UNANNOTATED_IN_TRAINING])
def test_an_image_without_annotations_is_background(made, picture):
    split = "val2014" if picture is UNANNOTATED else "train2014"
    mask = read_png(made / "masks" / split / Path(coco_name(picture, split)).with_suffix(".png"))
    assert mask.shape == picture.size[::-1] and not mask.any()


def test_an_annotation_without_area_paints_nothing(made):
    assert np.array_equal(val_mask(made, NO_AREA), painted((13, 0, 0, 30, 20)))


SMALLER, LARGER = (3, 40, 30, 60, 50), (80, 20, 10, 100, 80)
INSTANCE, CROWDED = (17, 40, 10, 110, 80), (20, 10, 60, 40)


@pytest.mark.parametrize("options, overlap, crowd", [
    ((), (LARGER, SMALLER), ((255, *CROWDED), INSTANCE)),
    (("--overlap", "larger_first", "--crowd", "ignore"), (LARGER, SMALLER), ((255, *CROWDED), INSTANCE)),
    (("--overlap", "file_order"), (SMALLER, LARGER), ((255, *CROWDED), INSTANCE)),
    (("--crowd", "class"), (LARGER, SMALLER), (INSTANCE, (1, *CROWDED))),
    (("--crowd", "class", "--overlap", "file_order"), (SMALLER, LARGER), (INSTANCE, (1, *CROWDED)))])
def test_what_lies_over_what(unpacked, made, tmp_path, options, overlap, crowd):
    root = prepared("coco", unpacked, tmp_path / "out", *options) if options else made
    assert np.array_equal(val_mask(root, OVERLAP), painted(*overlap))
    assert np.array_equal(val_mask(root, CROWD), painted(*crowd))


def test_of_two_instances_of_one_size_the_later_is_visible():
    squares = [[rectangle(10, 10, 40, 40)], [rectangle(25, 10, 55, 40)]]
    image = Annotated("a.jpg", 90, 120, [(number, False, square) for number, square in enumerate(squares, start=1)])
    assert np.array_equal(draw(image, "larger_first", "ignore"), painted((1, 10, 10, 40, 40), (2, 25, 10, 55, 40)))


def test_a_polygon_of_several_parts_is_one_instance():
    parts = [rectangle(0, 0, 40, 40), rectangle(60, 0, 100, 40)]  # smaller than what overlaps both, but not together
    image = Annotated("a.jpg", 90, 120, [(2, False, [rectangle(10, 10, 90, 35)]), (1, False, parts)])
    assert np.array_equal(draw(image, "larger_first", "ignore"),
                          painted((1, 0, 0, 40, 40), (1, 60, 0, 100, 40), (2, 10, 10, 90, 35)))


def test_a_class_is_present_from_2048_pixels_on(made, tmp_path):
    root = Path(shutil.copytree(made, tmp_path / "set"))  # which gets an index
    index = read_index(root, root / "lists" / "val.txt", 80)
    rows = {mask: index.pixels[row, CLASS_OF_2048] for row, (_, mask) in enumerate(index.pairs)}
    of = {p: f"masks/val2014/{Path(coco_name(p, 'val2014')).stem}.png" for p in (LARGE_ENOUGH, TOO_SMALL)}
    assert rows[of[LARGE_ENOUGH]] == 2048 and rows[of[TOO_SMALL]] == 2047
    assert [index.pairs[sample.row][1] for sample in exhaustive(index, (CLASS_OF_2048,), 2048)] == [of[LARGE_ENOUGH]]


# Sources with a fault

def test_an_image_that_is_annotated_but_not_there_is_named(spoilt, prepare, tmp_path):
    name = coco_name(COCO_VAL[0], "val2014")
    (spoilt / "val2014" / name).unlink()
    complains(prepare(spoilt), name, "1 of 12 images")
    assert not (tmp_path / "out" / "lists" / "val.txt").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"images": []}', b"\xff\xfe", b'{"categories": [3]}'])
def test_what_are_no_instance_annotations_is_named(tmp_path, content):
    (tmp_path / "odd.json").write_bytes(content)
    with pytest.raises(UserError, match="odd.json: not the instance annotations of COCO"):
        read_instances(tmp_path / "odd.json")


@pytest.mark.parametrize("segmentation", [
    {"counts": counts_of(painted((1, 0, 0, 9, 9))), "size": [120, 90]}, {"counts": "oddity", "size": [90, 120]},
    {"size": [90, 120]}, [["a", "b", "c", "d", "e", "f"]]], ids=["turned", "no RLE", "no counts", "words"])
def test_an_annotation_that_fits_no_image_is_named(segmentation):
    with pytest.raises(UserError, match="a.jpg: .*annotation.*again"):
        draw(Annotated("a.jpg", 90, 120, [(1, False, segmentation)]), "larger_first", "ignore")

"""data.prepare coco on miniature archives: what each kind of annotation paints, and in which order."""
import builtins
import copy
import gzip
import hashlib
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
    outline,
    prepared,
    read_png,
    rectangle,
)

from data.files import read_list
from data.index import read_index
from data.prepare.coco import Annotated, draw, read_instances
from data.prepare.published import coco_val_order, hash_of, image_id
from data.samples import exhaustive
from util.config import ROOT
from util.runtime.errors import UserError

NAME = "coco"  # the set that the fixtures make
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself
LARGER_FIRST = ("pycocotools", "larger_first", "ignore")


def val_mask(root: Path, picture) -> np.ndarray:
    return read_png(root / "masks" / "val2014" / Path(coco_name(picture, "val2014")).with_suffix(".png"))


def painted(*parts: tuple[int, int, int, int, int]) -> np.ndarray:
    """(class, left, top, right, bottom) painted one over another by hand."""
    mask = np.zeros(SQUARE.size[::-1], np.uint8)
    for label, left, top, right, bottom in parts:
        mask[top:bottom, left:right] = label
    return mask


# Sources, images and lists

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


def listed(root: Path, part: str, split: str) -> list[int]:
    """The ids of a list, each line of which names the image's own mask."""
    pairs = read_list(root / "lists" / f"{part}.txt")
    names = [Path(image).stem for image, _ in pairs]
    assert pairs == [(f"{split}/{name}.jpg", f"masks/{split}/{name}.png") for name in names]
    return [image_id(name) for name in names]


def test_the_training_list_holds_every_image_by_name(made):
    assert listed(made, "train", "train2014") == sorted(int(p.name) for p in [*COCO_TRAIN, UNANNOTATED_IN_TRAINING])


def test_the_validation_list_has_the_published_order_and_then_the_files(made):
    """Lines 2613, 12803, 16317, 20657 and 39869 of the published list; the other images are in none."""
    rest = [int(p.name) for p in reversed(COCO_VAL + PECULIAR) if p.name not in ("73", "74", "42", "208", "133")]
    assert listed(made, "val", "val2014") == [73, 74, 42, 208, 133, *rest]


def test_the_published_order_is_that_of_bams_family():
    order = coco_val_order()
    assert len(order) == len(set(order)) == 40_137 and order[:3] == [553141, 20925, 470885]
    text = gzip.decompress((ROOT / "lists/coco/val_order.txt.gz").read_bytes())
    assert hashlib.sha256(text).hexdigest() == hash_of(order) == (
        "057b644793d808943300aa6e58bc93a81a5087942399c17d68cacc84bd5af227")


# Masks

def test_a_class_is_the_rank_of_its_category(made):
    assert len(IDS) == 80 and IDS[79] == 90
    for picture in COCO_VAL:
        assert np.array_equal(val_mask(made, picture), mask_of(picture)), picture.name


def annotations(**changes) -> dict:
    """A file of one image with three instances, with the 80 categories in another order than usual."""
    return {"categories": [{"id": i, "name": name} for i, name in zip(IDS, miniature.NAMES)][::-1],
            "images": [{"file_name": "a.jpg", "height": 2, "width": 3, "id": 7}],
            "annotations": [{"image_id": 7, "category_id": i, "segmentation": []} for i in (1, 90, 13)]} | changes


def instances_of(tmp_path: Path, content: dict) -> dict[str, Annotated]:
    (tmp_path / "a.json").write_text(json.dumps(content))
    return read_instances(tmp_path / "a.json")


def test_a_class_is_the_rank_of_its_category_in_whatever_order_the_file_has_them(tmp_path):
    assert [class_id for class_id, *_ in instances_of(tmp_path, annotations())["a.jpg"].instances] == [1, 80, 12]


def test_a_square_polygon_covers_the_pixels_within_its_corners(made):
    assert np.array_equal(val_mask(made, SQUARE), painted((1, 10, 20, 50, 60)))


def test_a_compressed_rle_is_decoded(made):
    assert np.array_equal(val_mask(made, COMPRESSED), painted((80, 5, 5, 30, 80), (80, 5, 60, 100, 80)))


def test_compressed_runs_are_those_of_pycocotools_and_are_refused_where_cut(tmp_path):
    from pycocotools import mask as rle
    noise = np.random.default_rng(0).random((90, 120)) < 0.2
    noise[:, 40:80] = False
    code = rle.encode(np.asfortranarray(noise, np.uint8))["counts"].decode()

    def drawn(counts: str) -> np.ndarray:
        return draw(Annotated("a.jpg", 90, 120, [(1, False, {"counts": counts, "size": [90, 120]})]), "published")

    assert np.array_equal(drawn(code), noise)
    for length in (0, 1, len(code) // 2, len(code) - 1):
        with pytest.raises(UserError, match="a.jpg: an annotation"):
            drawn(code[:length])


@pytest.mark.parametrize("picture", [UNANNOTATED, UNANNOTATED_IN_TRAINING])
def test_an_image_without_annotations_is_background(made, picture):
    split = "val2014" if picture is UNANNOTATED else "train2014"
    mask = read_png(made / "masks" / split / Path(coco_name(picture, split)).with_suffix(".png"))
    assert mask.shape == picture.size[::-1] and not mask.any()


def test_an_annotation_without_area_paints_nothing(made):
    assert np.array_equal(val_mask(made, NO_AREA), painted((13, 0, 0, 30, 20)))


SMALLER, LARGER = (3, 40, 30, 60, 50), (80, 20, 10, 100, 80)
INSTANCE, CROWDED = (17, 40, 10, 110, 80), (20, 10, 60, 40)


def less(label: int, left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int, int]:
    """What pycocotools fills of a rectangle that OpenCV fills to the end."""
    return label, left, top, right - 1, bottom - 1


def test_published_masks_are_painted_in_the_files_order_without_crowds(made):
    """Though the later instance is the larger and hides the other."""
    assert np.array_equal(val_mask(made, OVERLAP), painted(SMALLER, LARGER))
    assert np.array_equal(val_mask(made, CROWD), painted(INSTANCE))


@pytest.mark.parametrize("options, overlap, crowd", [
    (("--masks", "pycocotools"), (LARGER, SMALLER), ((255, *CROWDED), less(*INSTANCE))),
    (("--overlap", "file_order"), (SMALLER, LARGER), ((255, *CROWDED), less(*INSTANCE))),
    (("--crowd", "class"), (LARGER, SMALLER), (less(*INSTANCE), (1, *CROWDED))),
    (("--masks", "pycocotools", "--crowd", "class", "--overlap", "file_order"), (SMALLER, LARGER),
     (less(*INSTANCE), (1, *CROWDED)))])
def test_what_lies_over_what_in_pycocotools_masks(unpacked, tmp_path, options, overlap, crowd):
    root = prepared("coco", unpacked, tmp_path / "out", *options)
    assert np.array_equal(val_mask(root, OVERLAP), painted(*(less(*part) for part in overlap)))
    assert np.array_equal(val_mask(root, CROWD), painted(*crowd))


def test_the_published_masks_leave_no_choice(unpacked, prepare):
    complains(prepare(unpacked, "--masks", "published", "--crowd", "class"), "--crowd", "pycocotools")


def test_polygons_are_filled_on_rounded_corners_with_their_edges(tmp_path):
    image = Annotated("a.jpg", 90, 120, [(1, False, [[9.6, 20.4, 49.4, 19.6, 48.6, 59.4, 10.4, 58.6]])])
    assert np.array_equal(draw(image, "published"), painted((1, 10, 20, 50, 60)))


def test_parts_of_one_instance_that_overlap_leave_no_hole():
    parts = [rectangle(0, 0, 40, 40), rectangle(20, 20, 60, 60)]
    image = Annotated("a.jpg", 90, 120, [(1, False, parts)])
    assert np.array_equal(draw(image, "published"), painted((1, 0, 0, 40, 40), (1, 20, 20, 60, 60)))


def test_the_published_masks_need_no_pycocotools(unpacked, made, tmp_path, monkeypatch, prepare):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    runs = counts_of(painted((1, 5, 5, 9, 9)))
    square = Annotated("a.jpg", 90, 120, [(1, False, {"counts": runs, "size": [90, 120]})])
    assert np.array_equal(draw(square, "published"), painted((1, 5, 5, 9, 9)))
    complains(prepare(unpacked, "--masks", "pycocotools"), "pip install 'pycocotools")


def test_of_two_instances_of_one_size_the_later_is_visible():
    squares = [[outline(10, 10, 40, 40)], [outline(25, 10, 55, 40)]]
    image = Annotated("a.jpg", 90, 120, [(number, False, square) for number, square in enumerate(squares, start=1)])
    assert np.array_equal(draw(image, *LARGER_FIRST), painted((1, 10, 10, 40, 40), (2, 25, 10, 55, 40)))


def test_a_polygon_of_several_parts_is_one_instance():
    parts = [outline(0, 0, 40, 40), outline(60, 0, 100, 40)]  # smaller than what overlaps both, but not together
    image = Annotated("a.jpg", 90, 120, [(2, False, [outline(10, 10, 90, 35)]), (1, False, parts)])
    assert np.array_equal(draw(image, *LARGER_FIRST),
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


def twice(key: str, **changes) -> dict:
    """The file with one entry of a list doubled, the second time with ``changes``."""
    content = annotations()
    content[key].append(copy.copy(content[key][0]) | changes)
    return content


@pytest.mark.parametrize("content, named", [
    (annotations(categories=annotations()["categories"][1:]), "79 categories"), (twice("categories"), "81 categories"),
    (twice("categories", id=99), "81 categories"),
    (annotations(categories=[c | {"name": "thing"} for c in annotations()["categories"]]), "80 categories are not"),
    (twice("images"), "twice"), (twice("images", id=8), "twice"), (twice("images", file_name="b.jpg"), "two images"),
    (twice("images", file_name="a.png", id=8), "twice"), (twice("annotations", image_id=8), "8 has annotations"),
    (twice("annotations", category_id=12), "the category_id 12"), (twice("annotations", iscrowd="0"), "iscrowd"),
    (twice("images", file_name="b.jpg", id="8"), "'8' is not"), (annotations(annotations=[]), "its annotations"),
    (annotations(annotations=""), "its annotations"), (annotations(images={}), "its images"),
    *((annotations(images=[{"file_name": "a.jpg", "height": height, "width": 3, "id": 7}]), "3x")
      for height in (0, -2, 2.5, "2", True, None, 1 << 29)),
    *((annotations(images=[{"file_name": name, "height": 2, "width": 3, "id": 7}]), "a.json")
      for name in ("../a.jpg", "/a.jpg", "C:a.jpg", "x\\a.jpg", "sub/a.jpg", "..", "", "a\n.jpg", None, 5))])
def test_annotations_that_cannot_be_are_named(tmp_path, content, named):
    with pytest.raises(UserError, match=named):
        instances_of(tmp_path, content)


SIZE = {"size": [90, 120]}
FULL = counts_of(painted((1, 0, 0, 9, 9)))


@pytest.mark.parametrize("how", [("published",), LARGER_FIRST], ids=["published", "pycocotools"])
@pytest.mark.parametrize("segmentation", [
    {"counts": FULL, "size": [120, 90]}, {"counts": "oddity", **SIZE}, SIZE, {"counts": FULL[:-1], **SIZE},
    {"counts": [-1, 90 * 120 + 1], **SIZE}, {"counts": [0.5, 90 * 120 - 0.5], **SIZE}, [["a", "b", "c", "d", "e", "f"]],
    [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, float("nan")]], [[1, 2, 3, 4, 5, 1e300]], [rectangle(0, 0, 160, 90)],
    [rectangle(-40, 0, 10, 10)], 5, None, [5], "", [["1", "2", "3", "4", "5", "6"]], {"counts": "", **SIZE},
    {"counts": None, **SIZE}])
def test_a_segmentation_that_does_not_fit_its_image_is_named(segmentation, how):
    with pytest.raises(UserError, match="a.jpg: .*annotation.*again"):
        draw(Annotated("a.jpg", 90, 120, [(1, False, segmentation)]), *how)


def test_a_corner_just_outside_its_image_is_cut_off():
    image = Annotated("a.jpg", 90, 120, [(1, False, [rectangle(-2, -2, 123, 93)])])
    assert (draw(image, "published") == 1).all()


def test_masks_are_made_again_exactly_where_their_annotations_change(unpacked, made, tmp_path, capfd):
    """Half of the annotations first, then the right file."""
    source = Path(shutil.copytree(unpacked, tmp_path / "source"))
    file = source / "annotations/instances_val2014.json"
    whole = file.read_bytes()
    half = json.loads(whole)
    half["annotations"] = [a for a in half["annotations"] if a["image_id"] not in (42, 202)]
    file.write_text(json.dumps(half))
    root = prepared("coco", source, tmp_path / "out")
    assert not val_mask(root, OVERLAP).any()
    before = miniature.times(root)
    file.unlink()  # which may be a link
    file.write_bytes(whole)
    prepared("coco", source, root)
    after = miniature.times(root)
    assert contents(root) == contents(made)
    assert {name for name in after if name.endswith(".png") and after[name] != before[name]} == {
        f"masks/val2014/COCO_val2014_{number:012}.png" for number in (42, 202)}

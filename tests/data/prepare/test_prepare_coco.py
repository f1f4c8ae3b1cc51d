"""data.prepare coco on miniature archives: what each kind of annotation paints, and in which order."""
import json
import shutil
from pathlib import Path

import miniature as mini
import numpy as np
import pytest
from miniature import contents
from PIL import Image
from runs import complains, in_process

from data.prepare.coco import Annotated, paint, read_instances, read_outline, val_order
from data.prepare.published import hash_of, image_id
from util.runtime import rle
from util.runtime.errors import UserError

NAME = "coco"  # the set that the fixtures make


# Sources, images and lists

def test_packed_or_not_the_set_is_the_same_also_where_the_unpacked_folders_lie(archives, unpacked, made, tmp_path):
    packed = mini.write_archives(archives, tmp_path / "packed")
    for _ in range(2):  # masks of an earlier version, such as those of rounded corners, are made again
        assert contents(mini.prepared("coco", packed, tmp_path / "out")) == contents(made)
        for file in (tmp_path / "out/masks/val2014").iterdir():
            Image.fromarray(np.roll(mini.read_png(file), 1)).save(file)
    source = Path(shutil.copytree(unpacked, tmp_path / "coco"))
    assert contents(made).items() <= contents(mini.prepared("coco", source, source)).items()


def test_training_goes_by_name_and_validation_in_the_published_order(made):
    """Lines 2613, 12803, 16317, 20657 and 39869 of the published list; the other images are in none."""
    train, val = ([image_id(name) for name in mini.listed(made, part, f"{part}2014", f"masks/{part}2014")]
                  for part in ("train", "val"))
    assert train == sorted(int(p.name) for p in [*mini.COCO_TRAIN, mini.UNANNOTATED_IN_TRAINING])
    first, every = [73, 74, 42, 208, 133], [int(p.name) for p in reversed(mini.COCO_VAL)]
    assert val == first + [number for number in every if number not in first]
    order = val_order()
    assert len(order) == len(set(order)) == 40_137 and order[:3] == [553141, 20925, 470885]
    assert hash_of(order) == "057b644793d808943300aa6e58bc93a81a5087942399c17d68cacc84bd5af227"


# Masks

@pytest.fixture
def content() -> dict:
    """A file of two images and three instances, its categories in another order than that of their ids."""
    return {"categories": [{"id": 90, "name": "owl"}, {"id": 13, "name": "cat"}],
            "images": [{"file_name": "a.jpg", "height": 2, "width": 3, "id": 7},
                       {"file_name": "sub\\folder/b.jpg", "height": 4, "width": 5, "id": 5}],
            "annotations": [{"image_id": 7, "category_id": i, "segmentation": [[0, 0, 2, 0, 2, 1]], "id": 60 + i}
                            for i in (13, 90, 13)]}


@pytest.mark.parametrize("spoil, named", [
    (lambda c: c["categories"].append({"id": 13, "name": "dog"}), r"\b13\b"),
    (lambda c: c["categories"][0].update(id="9"), "'9'"),
    (lambda c: c["categories"][0].update(name=" Cat"), "13: cat.*90: Cat"),
    (lambda c: c["images"][1].update(id=7), "'7'"), (lambda c: c["images"][1].update(file_name="other/a.png"), "'a'"),
    (lambda c: c["images"][1].pop("height"), "image 5 .*b.jpg.*'height'"),
    (lambda c: c["images"][1].update(width=5.5), "b.jpg.*5.5"), (lambda c: c["images"][1].update(width=-1), "b.jpg"),
    (lambda c: c["annotations"][1].update(category_id=8), r"annotation 150: .*\b8\b"),
    (lambda c: c["annotations"][1].pop("image_id"), "annotation 150: .*'image_id'"),
    (lambda c: c.pop("images"), "'images'"), (lambda c: c.update(images=5), "not iterable")])
def test_annotations_are_read_and_those_that_cannot_be_are_named(content, tmp_path, spoil, named):
    def read(*names):
        (tmp_path / "a.json").write_text(json.dumps(content))
        return read_instances(tmp_path / "a.json", *names)

    categories, images = read()
    assert list(categories.items()) == [(13, "cat"), (90, "owl")]
    assert [image[:4] for image in images] == [(7, "a.jpg", 2, 3), (5, "b.jpg", 4, 5)], "folders passed over"
    assert [[i[:2] for i in image.instances] for image in images] == [[(13, 0), (90, 0), (13, 0)], []], "file's order"
    content["annotations"][0]["segmentation"] = [[0, 0, 1, 0, 1, 1]]
    assert [len(read(*names)[1][0].instances) for names in ([], [["cat", "owl"]])] == [2, 3], "a pixel of COCO's own"
    spoil(content)
    with pytest.raises(UserError, match=f"a.json: .*{named}"):
        read()


def test_a_class_is_the_rank_of_its_category_and_without_annotations_there_is_none(made):
    for picture in mini.COCO_VAL:
        file = made / "masks/val2014" / Path(mini.coco_name(picture, "val2014")).with_suffix(".png")
        assert np.array_equal(mini.read_png(file), mini.mask_of(picture)), picture.name


def painted(*parts: tuple[int, int, int, int, int]) -> np.ndarray:
    """(class, left, top, right, bottom) painted one over another by hand."""
    mask = np.zeros((90, 120), np.uint8)
    for label, left, top, right, bottom in parts:
        mask[top:bottom, left:right] = label
    return mask


def drawn(*instances, crowd: int | None = None) -> np.ndarray:
    """Of an image of 120 x 90 px; each instance as (category id, iscrowd, segmentation)."""
    image = Annotated(1, "a.jpg", 90, 120, [])
    image.instances.extend((number, crowd, read_outline(outline, image)[0]) for number, crowd, outline in instances)
    return paint({1: 1, 13: 2}, crowd, image)


SMALL, LARGE, RUNS = (40, 30, 60, 50), (20, 10, 100, 80), painted((1, 0, 0, 60, 60), (1, 70, 3, 80, 90))


@pytest.mark.parametrize("instances, expected", [
    ([(13, 0, [mini.rectangle(*SMALL)]), (1, 0, [mini.rectangle(*LARGE)])], [(2, *SMALL), (1, *LARGE)]),  # file's order
    ([(1, 0, [[10.9, 20.4, 49.4, 20.6, 49.9, 59.4, 10.1, 59.6]])], [(1, 10, 20, 50, 60)]),  # corners cut, not rounded
    ([(1, 0, [[-0.9, -0.6, -0.1, 9.9, -0.5, 9.7]])], [(1, 0, 0, 1, 10)]),                   # toward zero
    ([(1, 0, mini.rectangle(*SMALL)), (13, 0, [rle.encode(painted((1, *LARGE)))])], [(2, *LARGE)]),  # no list, and one
    ([(1, 0, [mini.rectangle(0, 0, 40, 40), mini.rectangle(20, 20, 60, 60)])],              # no hole where two overlap
     [(1, 0, 0, 40, 40), (1, 20, 20, 60, 60)]),
    ([(1, 0, [mini.rectangle(-2, -2, 123, 93)])], [(1, 0, 0, 120, 90)]),                    # just outside the image
    ([(13, 0, []), (13, 0, [[10, 10, 90, 80]]), (1, 0, [mini.rectangle(*SMALL)])], [(1, *SMALL)]),  # without area
    ([(1, 0, rle.encode(RUNS))], [(1, 0, 0, 60, 60), (1, 70, 3, 80, 90)])])
def test_what_is_painted_is_what_is_annotated(instances, expected):
    assert np.array_equal(drawn(*instances), painted(*expected))


def test_crowds_lie_below_all_instances_where_they_are_asked_for():
    runs = {"counts": mini.counts_of(RUNS), "size": [90, 120]}
    instances = (1, 0, [mini.rectangle(*SMALL)]), (13, 1, runs)
    assert np.array_equal(drawn(*instances), painted((1, *SMALL)))
    assert np.array_equal(drawn(*instances, crowd=255), painted((255, 0, 0, 60, 60), (255, 70, 3, 80, 90), (1, *SMALL)))


SIZE, FULL = {"size": [90, 120]}, mini.counts_of(painted((1, 0, 0, 9, 9)))


@pytest.mark.parametrize("segmentation", [
    {"counts": FULL, "size": [120, 90]}, {"counts": "oddity", **SIZE}, SIZE, {"counts": FULL[:-1], **SIZE},
    {"counts": [0.5, 10799.5], **SIZE}, {"counts": "", **SIZE}, {"counts": rle.encode(RUNS)["counts"][:-1], **SIZE},
    [["a", "b", "c", "d", "e", "f"]], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, float("nan")]],
    [mini.rectangle(0, 0, 160, 90)], [mini.rectangle(-40, 0, 10, 10)], [[10, 10], [30, 10], [30, 30], [10, 30]], 5])
def test_a_segmentation_that_does_not_fit_its_image_is_named(segmentation, content, tmp_path):
    content["images"][0].update(height=90, width=120)
    content["annotations"][1]["segmentation"] = segmentation
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="a.json: .*annotation 150: "):
        read_instances(tmp_path / "a.json")


# Sources with a fault

def test_a_missing_image_and_other_categories_are_named(spoilt, prepare, tmp_path):
    file, name = spoilt / "annotations/instances_train2014.json", mini.coco_name(mini.COCO_VAL[0], "val2014")
    (spoilt / "val2014" / name).unlink()
    complains(prepare(spoilt), name, "1 of 7 val2014 images")
    assert not (tmp_path / "out" / "lists" / "val.txt").exists()
    file.write_bytes(file.read_bytes().replace(b'"toothbrush"', b'"brush"'))
    complains(prepare(spoilt), "instances_train2014.json", "categories are not COCO's 80")


@pytest.mark.slow
def test_grey_cmyk_and_turned_jpegs_are_trained_and_tested_on(options_for, sets, tmp_path):
    """Each training image of PASCAL's fold 0 once, in two steps, then the final test, at the published threshold."""
    root = Path(shutil.copytree(sets("pascal")[1], tmp_path / "set"))
    kinds = {(image.mode, image.getexif().get(0x0112)) for image in map(Image.open, root.rglob("*.jpg"))}
    assert kinds == {("RGB", None), ("L", None), ("CMYK", None), ("RGB", mini.TURNED)}
    done = in_process("train.py", "--config", "config/pascal/esda.yaml", *options_for(root, tmp_path / "exp"),
                      "data.min_pixels=2048", "model.replace_indices=[1,2,3]", "train.epochs=1",
                      "train.epoch_samples=0", "train.batch_size=4", "eval.samples=16", "run=mini")
    assert done.returncode == 0, done.stderr
    assert "8 training images" in done.stdout and "2 iterations an epoch" in done.stdout
    results = json.loads((tmp_path / "exp/pascal/esda/fold0/mini/results.json").read_text())
    assert (results["dataset"], results["protocol"], results["samples"]) == ("pascal", "episodic", 16)

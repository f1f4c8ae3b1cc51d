"""Masks of one's own data from COCO's JSON and from colours: by hand, and every mistake in one line."""
import json
import os

import cv2
import numpy as np
import pytest
from miniature import complains, counts_of, read_png, run_prepare
from runs import in_process

from data.files import read_list
from data.folds import Classes

WIDTH, HEIGHT = 40, 30


def image(path, width=WIDTH, height=HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


@pytest.fixture
def run(tmp_path, capfd):
    """run("--coco", FILE, ...) makes the masks of tmp_path/own."""
    return lambda *options: run_prepare("masks", tmp_path / "own", *options, capfd=capfd)


@pytest.fixture
def content(tmp_path) -> dict:
    """Annotations of two images: a crowd that comes last, a polygon over a run-length code; ids with gaps."""
    for name in ("a.jpg", "b.png"):
        image(tmp_path / "own/images" / name)
    region, crowd = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    region[5:20, 5:20] = crowd[:, 15:] = 1

    def annotation(number, image_id, category, segmentation, crowd=0):
        return {"id": number, "image_id": image_id, "category_id": category, "iscrowd": crowd,
                "segmentation": segmentation}

    return {"categories": [{"id": 9, "name": "owl"}, {"id": 2, "name": "cat"}],
            "images": [{"id": 7, "file_name": "some/folder/a.jpg", "width": WIDTH, "height": HEIGHT},
                       {"id": 3, "file_name": "b.png", "width": WIDTH, "height": HEIGHT}],
            "annotations": [annotation(1, 7, 9, {"size": [HEIGHT, WIDTH], "counts": counts_of(region)}),
                            annotation(2, 7, 2, [[10, 10, 29, 10, 29, 24, 10, 24]]),
                            annotation(3, 7, 2, {"size": [HEIGHT, WIDTH], "counts": counts_of(crowd)}, 1)]}


@pytest.fixture
def written(content, tmp_path):
    def write():
        (tmp_path / "a.json").write_text(json.dumps(content))
        return tmp_path / "a.json"
    return write


def test_polygons_run_length_codes_and_crowds(content, written, run, tmp_path):
    done = run("--coco", written(), "--list", "val")
    assert done.returncode == 0, done.stderr
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:, 15:] = 255                   # the crowd, below all
    expected[5:20, 5:20] = 2                 # owl: categories go by their ids
    expected[10:25, 10:30] = 1               # cat, later in the file
    assert (read_png(tmp_path / "own/masks/a.png") == expected).all()
    assert not read_png(tmp_path / "own/masks/b.png").any(), "an image without annotations shows none of the classes"
    classes = Classes.read(tmp_path / "own/classes.yaml")
    assert classes.names == ["cat", "owl"] and classes.unseen(0) == (1, 2)
    assert read_list(tmp_path / "own/lists/val.txt") == [
        ("images/a.jpg", "masks/a.png"), ("images/b.png", "masks/b.png")]
    (tmp_path / "own/classes.yaml").write_text("classes: [dog, owl, cat]\nfolds: [[owl]]\n")
    assert run("--coco", written()).returncode == 0
    assert set(np.unique(read_png(tmp_path / "own/masks/a.png"))) == {0, 2, 3, 255}, "ids are those of classes.yaml"


def first(content) -> dict:
    return content["annotations"][0]


@pytest.mark.parametrize("spoil, said", [  # the content, and the folder that the images are in
    (lambda c, own: first(c).update(category_id=5),
     "annotation 1 has the category_id 5, which is none of the categories"),
    (lambda c, own: first(c).update(image_id=5), "image 5 has annotations but is not among the images"),
    (lambda c, own: first(c).pop("image_id"), "annotation 1 has no image_id"),
    (lambda c, own: first(c).pop("segmentation"), "annotation 1 has no segmentation"),  # a box alone
    (lambda c, own: c["images"][1].update(height=31), "b.png: is 40x30, but 40x31 in "),
    (lambda c, own: (own / "images/b.png").unlink(), "b.png: no such file"),
    (lambda c, own: c["images"][1].update(file_name="other/a.jpg"), "listed twice"),
    (lambda c, own: c["categories"][1].update(id=9), "two categories have one id"),
    (lambda c, own: c["annotations"][1].update(segmentation=[[10, 10, 290, 10, 29, 24]]),
     "a.jpg: an annotation is not readable or does not fit the image of 40x30 (a corner lies outside)"),
    (lambda c, own: first(c)["segmentation"]["counts"].pop(), "runs do not fill the image"),
    (lambda c, own: (own / "classes.yaml").write_text("classes: [cat]\nfolds: [[cat]]\n"), "classes.yaml: lacks 'owl'"),
    (lambda c, own: image(own / "masks/a.png"), "masks/a.png: is there, and data.prepare did not make it")])
def test_mistakes_in_the_json_are_one_line(spoil, said, content, written, run, tmp_path):
    own = tmp_path / "own"
    spoil(content, own)
    before = {path: path.read_bytes() for path in own.glob("masks/*")}
    complains(run("--coco", written(), "--list", "val"), said)
    assert not (own / "lists").exists()
    assert all(path.read_bytes() == data for path, data in before.items())


@pytest.mark.parametrize("text, said", [("{", "not COCO's instance annotations"), ("[]", "it holds a list"),
                                        ('{"images": []}', "lacks 'categories'"), ("\x00", "mend the file")])
def test_files_that_are_no_annotations(text, said, content, run, tmp_path):
    (tmp_path / "a.json").write_text(text)
    complains(run("--coco", tmp_path / "a.json"), tmp_path / "a.json", said)
    complains(run("--coco", tmp_path / "none.json"), "none.json: no such file")
    complains(run("--colours", tmp_path / "none.yaml"), "none.yaml: no such file")
    complains(run(), "--coco", "--colours")


COLOURS = '"#000000": Background\n"#ff0000": owl\n"0, 128, 255": cat\n"#c80000": owl\n"#ffffff": ignored\n'


@pytest.fixture
def coloured(tmp_path):
    """A picture of five stripes of eight columns, one for each of COLOURS, and what it should become."""
    image(tmp_path / "own/images/a.jpg")
    stripes = np.array([(0, 0, 0), (255, 0, 0), (0, 128, 255), (200, 0, 0), (255, 255, 255)], np.uint8)
    picture = np.tile(np.repeat(stripes, 8, axis=0), (HEIGHT, 1, 1))
    path = tmp_path / "own/colour_masks/a.png"
    path.parent.mkdir()
    (tmp_path / "colours.yaml").write_text(COLOURS)

    def write(picture=picture):
        cv2.imwrite(str(path), picture[..., ::-1])
        return picture.copy()
    write()
    return write, np.tile(np.repeat(np.array([0, 1, 2, 1, 255], np.uint8), 8), (HEIGHT, 1))


def test_colours_become_ids(coloured, run, tmp_path):
    done = run("--colours", tmp_path / "colours.yaml")
    assert done.returncode == 0 and "data.lists" in done.stdout, done.stderr
    assert (read_png(tmp_path / "own/masks/a.png") == coloured[1]).all()
    assert Classes.read(tmp_path / "own/classes.yaml").names == ["owl", "cat"], "in the order of the file"


def test_an_unknown_colour_is_named_with_its_pixels_and_its_file(coloured, run, tmp_path):
    write, _ = coloured
    picture = write()
    picture[0, :3], picture[1, 0] = (10, 11, 12), (1, 1, 1)
    write(picture)
    complains(run("--colours", tmp_path / "colours.yaml"), tmp_path / "own/colour_masks/a.png",
              "3 pixels have the colour #0a0b0c (10, 11, 12), which", "colours.yaml does not name",
              "(nor 1 further colours of 1 pixels)")
    assert not (tmp_path / "own/masks/a.png").exists()


def test_other_mistakes_with_colours(coloured, run, tmp_path):
    colours = tmp_path / "colours.yaml"
    for text, said in (("7", "not a mapping of colours to names"), ("[[", "not a mapping"), ('"#ff": cat', "no colour"),
                       ('"256, 0, 0": cat', "no colour"), ('"#000000": background', "names no class"),
                       ('"#ff0000": cat\n"255,0,0": dog', "#ff0000 (255, 0, 0) is 'cat' and 'dog'"),
                       ('"#ff0000": cat\n"#00ff00": CAT', "listed twice")):
        colours.write_text(text)
        complains(run("--colours", colours), "colours.yaml", said)
    colours.write_text(COLOURS)
    complains(run("--colours", colours, "--from", "masks"), "rename the folder")
    image(tmp_path / "own/images/a.jpg", WIDTH + 1)
    complains(run("--colours", colours), "images/a.jpg: is 41x30, but 40x30 in", "colour_masks/a.png")


@pytest.mark.slow
def test_a_set_to_test_on_alone_needs_no_training_list(tiny_options, tiny_shapes, tmp_path):
    """data.lists --val 1, data.verify and test.py; train.py says in a line that there is nothing to train on."""
    root = tmp_path / "own"
    root.mkdir()
    for old, new in (("JPEGImages", "images"), ("SegmentationClassAug", "masks")):
        os.symlink(tiny_shapes / old, root / new)
    done = in_process("data.lists", root, "--val", "1")
    assert done.returncode == 0 and len(read_list(root / "lists/val.txt")) == 100, done.stderr
    assert not (root / "lists/train.txt").exists()
    options = [*tiny_options, f"data.root={root}", f"data.val_list={root}/lists/val.txt", "data.train_list="]
    done = in_process("data.verify", "shapes", *options)
    assert "no problems" in done.stdout and "0 training and 100 validation pairs" in done.stdout, done.stderr
    done = in_process("test.py", "--config", "config/shapes/everything.yaml", *options, "eval.protocol=episodic",
                      "eval.samples=8")
    assert done.returncode == 0 and "results.json" in done.stdout, done.stderr
    done = in_process("train.py", "--config", "config/shapes/esda.yaml", *options)
    assert done.returncode == 2 and "error: data.train_list is empty: this data set is for testing alone" in done.stderr

"""Masks of one's own data from COCO's JSON and from colours: by hand, and every mistake in one line."""
import json

import cv2
import numpy as np
import pytest
from miniature import contents, counts_of, read_png
from PIL import Image
from runs import complains, in_process

from data.files import read_list
from data.folds import Classes
from data.prepare.own import read_colours
from util.runtime import rle
from util.runtime.errors import UserError

WIDTH, HEIGHT = 40, 30


def image(path, width=WIDTH, height=HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


@pytest.fixture
def run(tmp_path):
    """run("--coco", FILE, ...) makes the masks of tmp_path/own; in the place of FILE, its content will do."""
    def run(*options):
        if dict in map(type, options):
            (tmp_path / "a.json").write_text(json.dumps(options[1]))
        options = [tmp_path / "a.json" if isinstance(option, dict) else option for option in options]
        return in_process("data.prepare", "masks", tmp_path / "own", *options)
    return run


@pytest.fixture
def content(tmp_path) -> dict:
    """Annotations of two images: a crowd that comes last, a polygon over a run-length code; ids with gaps."""
    for name in ("a.jpg", "b.png"):
        image(tmp_path / "own/images" / name)
    region, crowd = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    region[5:20, 5:20] = crowd[:, 15:] = 1

    def annotation(category, segmentation, crowd=0):
        return {"id": 60 + category, "image_id": 7, "category_id": category, "iscrowd": crowd,
                "segmentation": segmentation}

    return {"categories": [{"id": 9, "name": "owl"}, {"id": 2, "name": "cat"}],
            "images": [{"id": 7, "file_name": "some/folder/a.jpg", "width": WIDTH, "height": HEIGHT},
                       {"id": 3, "file_name": "b.png", "width": WIDTH, "height": HEIGHT}],
            "annotations": [annotation(9, {"size": [HEIGHT, WIDTH], "counts": counts_of(region)}),
                            annotation(2, [[10, 10, 29, 10, 29, 24, 10, 24]]),
                            annotation(2, {"size": [HEIGHT, WIDTH], "counts": counts_of(crowd)}, 1)]}


def test_polygons_run_length_codes_and_crowds(content, run, tmp_path):
    done = run("--coco", content, "--list", "val")
    assert done.returncode == 0 and "1 of 3" in done.stderr, done.stderr
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
    complains(run("--coco", content), tmp_path / "own/masks/a.png", "not lost")
    (tmp_path / "own/masks/a.png").unlink()
    assert not run("--coco", content, "--crowds", "objects").stderr
    mask = read_png(tmp_path / "own/masks/a.png")
    assert (mask[:, 15:] == 3).all() and mask[5, 5] == 2, "ids of classes.yaml; crowds in their turn, as objects"


def test_what_other_tools_write_is_read_as_it_is_meant(content, run, tmp_path):
    """pandas' numbers and texts, a flat polygon, a code in a list, headings among the categories."""
    assert run("--coco", content).returncode == 0
    before = contents((tmp_path / "own").rename(tmp_path / "before"))
    code, polygon, crowd = content["annotations"]
    code.update(iscrowd="0", segmentation=[{**code["segmentation"], "counts": [
        float(n) for n in code["segmentation"]["counts"]]}])
    polygon.update(iscrowd=None, segmentation=polygon["segmentation"][0], category_id=2.0)
    crowd.update(iscrowd=True, segmentation=rle.encode(rle.decode(crowd["segmentation"], (HEIGHT, WIDTH))))
    content["images"][0].update(id="7", width=40.0, height="30")
    content["categories"][1]["supercategory"] = "owl"
    content["categories"] += [{"id": 3, "name": "bird", "supercategory": "life"}, {"id": 4, "name": "life"}]
    content["categories"][0]["supercategory"] = "bird"
    content["categories"] += [{"id": 0, "name": "owl", "supercategory": "none"}, {"id": 1, "name": "_background_"}]
    assert "category 0, owl" in run("--coco", content).stderr
    assert contents(tmp_path / "own").items() <= before.items() and (tmp_path / "own/masks/a.png").is_file()


@pytest.mark.parametrize("change", [*({"segmentation": outline} for outline in (
    [], None, float("nan"), [[]], [[10, 10, 20, 20]], [[20, 20]], [[1, 1], [9, 9]], [[.2, .2, .5, .2, .5, .6]],
    [[-.001, .2, 1.001, .2, .5, .6]], [[41, 5, 43, 5, 43, 9]],
    {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, rle.encode(np.zeros((HEIGHT, WIDTH))))), {"image_id": 8}])
def test_what_is_not_drawn_is_counted_and_refused_if_it_is_all(change, content, run, tmp_path):
    content["annotations"][1].update(change)
    assert "1 of 3" in (said := run("--coco", content).stderr) and " 62\n" in said
    assert set(np.unique(read_png(tmp_path / "own/masks/a.png"))) == {0, 2, 255}
    (tmp_path / "own").rename(tmp_path / "before")
    complains(run("--coco", {**content, "annotations": content["annotations"][1:2]}), "1 of 1", "62")
    assert not (tmp_path / "own").exists()


def test_a_mask_with_other_content_is_not_overwritten(content, run, tmp_path):
    """Of somebody else, or mended by hand; what a run that broke off left stays."""
    masks = tmp_path / "own/masks"
    assert run("--coco", content).returncode == 0
    before = contents(masks)
    (masks / "b.png").unlink()
    assert run("--coco", content).returncode == 0 and contents(masks) == before
    image(masks / "b.png")
    mended = contents(masks)
    complains(run("--coco", content, "--list", "val"), masks / "b.png", "not lost")
    assert contents(masks) == mended != before and not (tmp_path / "own/lists").exists()


@pytest.mark.parametrize("spoil, said", [
    (lambda c, own: c["annotations"][0]["segmentation"]["counts"].pop(), "annotation 69"),
    (lambda c, own: c["annotations"][1].update(segmentation=[
        2 * c["annotations"][1]["segmentation"]]), "annotation 62"),
    (lambda c, own: c["categories"][0].update(name="CAT"), "9: CAT"),
    (lambda c, own: c["categories"][0].update(name="?"), "'?'"),
    (lambda c, own: (own / "classes.yaml").write_text("classes: [cat]\nfolds: [[cat]]\n"), "lacks owl")])
def test_mistakes_in_the_json_are_one_line(spoil, said, content, run, tmp_path):
    spoil(content, tmp_path / "own")
    complains(run("--coco", content, "--list", "val"), said)
    assert not (tmp_path / "own/lists").exists() and (tmp_path / "own/classes.yaml").exists() == (said == "lacks owl")
    complains(run("--coco", tmp_path / "none.json"), "none.json: no such file")
    complains(run(), "--coco", "--colours")


COLOURS = '"#000000": Background\n"#ff0000": owl\n"0, 128, 255": cat\n"#c80000": owl\n"#ffffff": ignored\n'


def test_colours_become_ids_and_an_unknown_one_is_named_with_its_pixels_and_its_file(run, tmp_path):
    """A picture of five stripes of eight columns, one for each of COLOURS."""
    file = tmp_path / "own/colour_masks/a.png"
    image(tmp_path / "own/images/a.jpg")
    stripes = np.array([(0, 0, 0), (255, 0, 0), (0, 128, 255), (200, 0, 0), (255, 255, 255)], np.uint8)
    picture = np.tile(np.repeat(stripes, 8, axis=0), (HEIGHT, 1, 1))
    spoilt = picture.copy()
    spoilt[0, :3], spoilt[1, 0] = (10, 11, 12), (1, 1, 1)
    file.parent.mkdir()
    (tmp_path / "colours.yaml").write_text(COLOURS)
    cv2.imwrite(str(file), spoilt[..., ::-1])
    complains(run("--colours", tmp_path / "colours.yaml"), file, "3 pixels have the colour #0a0b0c",
              "2 colours in all are not named")
    assert not (tmp_path / "own/masks/a.png").exists()
    cv2.imwrite(str(file), picture[..., ::-1])
    done = run("--colours", tmp_path / "colours.yaml")
    assert done.returncode == 0 and "data.lists" in done.stdout, done.stderr
    expected = np.tile(np.repeat(np.array([0, 1, 2, 1, 255], np.uint8), 8), (HEIGHT, 1))
    assert (read_png(tmp_path / "own/masks/a.png") == expected).all()
    assert Classes.read(tmp_path / "own/classes.yaml").names == ["owl", "cat"], "in the order of the file"


def test_what_is_transparent_is_background_and_a_smooth_edge_is_refused(run, tmp_path):
    (tmp_path / "colours.yaml").write_text(COLOURS)
    (tmp_path / "own/colour_masks").mkdir(parents=True)
    image(tmp_path / "own/images/a.jpg")
    picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    picture[..., 0], picture[5:9, :, 3], picture[9, :, 3] = 255, 255, 128
    Image.fromarray(picture).save(tmp_path / "own/colour_masks/a.png")
    complains(run("--colours", tmp_path / "colours.yaml"), f"{WIDTH} pixels", "#ff0000")
    picture[9, :, 3] = 0
    Image.fromarray(picture).save(tmp_path / "own/colour_masks/a.png")
    assert run("--colours", tmp_path / "colours.yaml").returncode == 0
    assert (read_png(tmp_path / "own/masks/a.png") == (picture[..., 3] > 0)).all()


def test_the_label_map_of_cvat_is_read(tmp_path):
    (tmp_path / "a").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\n\"1's #\U0001f408:250,50,83::x")
    assert read_colours(tmp_path / "a") == {0: "background", 0xfa3253: "\"1's #\U0001f408"}


@pytest.mark.parametrize("text, named", [
    ("cat:250,50::", "cat:250,50:"), ("a:1,2,3::\nb:1,2,3::", "the file"),
    ("7", "the file"), ('"#ff": cat', "#ff"), ('"256, 0, 0": cat', "256, 0, 0")])
def test_an_entry_that_is_no_colour_is_named(tmp_path, text, named):
    (tmp_path / "colours.yaml").write_text(text)
    with pytest.raises(UserError, match=f"colours.yaml: {named} should be a colour and its one name"):
        read_colours(tmp_path / "colours.yaml")

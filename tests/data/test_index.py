"""The pixel index: where it is kept, when it is made again, and what a list that points nowhere is told."""
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from runs import complains, in_process

from data.index import Index, overlap, read_index
from util.runtime.errors import UserError


@pytest.fixture
def root(tmp_path):
    """Two pairs; images are not read by the index."""
    root = tmp_path / "set"
    root.mkdir()
    for name in "ab":
        (root / f"{name}.jpg").write_bytes(b"an image")
        Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8)).save(root / f"{name}.png")
    (root / "list.txt").write_text("a.jpg a.png\n\n\nb.jpg b.png\n")
    return root


def pixels(root) -> list[list[int]]:
    return read_index(root, root / "list.txt", 3).pixels.tolist()


def test_an_index_is_counted_once_and_again_after_any_change(root, capsys):
    assert pixels(root) == [[1, 1, 1, 0]] * 2
    version = read_index(root, root / "list.txt", 3).version
    assert pixels(root) == [[1, 1, 1, 0]] * 2 and len(list((root / "index").iterdir())) == 1
    assert capsys.readouterr().err.count("indexed") == 1
    status = (root / "b.png").stat()
    Image.fromarray(np.array([[0, 1, 3, 255]], np.uint8)).save(root / "new.png")
    shutil.copyfile(root / "new.png", root / "b.png")
    os.utime(root / "b.png", ns=(status.st_atime_ns, status.st_mtime_ns))  # a copy that keeps size and time
    assert (root / "b.png").stat().st_size == status.st_size
    assert pixels(root) == [[1, 1, 1, 0], [1, 1, 0, 1]]
    assert read_index(root, root / "list.txt", 3).version != version == "cf212ff5aff9"
    Image.fromarray(np.array([[3, 1, 0, 255]], np.uint8)).save(root / "b.png")
    mirrored = read_index(root, root / "list.txt", 3)
    assert mirrored.pixels.tolist() == [[1, 1, 1, 0], [1, 1, 0, 1]] and mirrored.version != version


def test_a_read_only_folder_is_counted_each_time(root, capsys):
    (root / "index").write_text("a file stands for a folder that cannot be written to")
    assert pixels(root) == pixels(root) == [[1, 1, 1, 0]] * 2
    assert capsys.readouterr().err.count("indexed") == 2


@pytest.mark.parametrize("missing, dataset, command", [
    ("b.jpg", "pascal", "python -m data.prepare pascal"), ("b.png", "shapes", "python -m data.shapes.make"),
    ("list.txt", "mine", "python -m data.lists")])
def test_what_is_missing_is_told_with_the_command_that_makes_it(root, dataset, command, missing):
    (root / missing).unlink()
    with pytest.raises(UserError, match=f"{root / missing}.*{command}"):
        read_index(root, root / "list.txt", 3, dataset)


def test_masks_that_hold_0_and_255_alone_are_told_what_255_means(root):
    for name in "ab":
        Image.fromarray(np.array([[0, 0, 255, 255]], np.uint8)).save(root / f"{name}.png")
    with pytest.raises(UserError, match="255"):
        pixels(root)


def test_an_image_that_is_listed_under_two_paths_is_one(root):
    """In one list, and in two; masks go by their names, as empty ones may be one file."""
    (root / "link.jpg").symlink_to(root / "a.jpg")
    os.link(root / "a.png", root / "c.png")
    index = read_index(root, root / "list.txt", 3)
    for name, shared in (("link.jpg", "1 images"), (root / "a.jpg", "1 images"), ("c.jpg", "")):
        (root / "c.jpg").write_bytes(b"another image")
        (root / "other.txt").write_text(f"{name} c.png\n")
        assert overlap(index, read_index(root, root / "other.txt", 3))[:8] == shared
    assert "1 masks" in overlap(index, Index("", [("x.jpg", "./a.png")], index.pixels, ["x.jpg"]))
    (root / "list.txt").write_text("a.jpg a.png\nlink.jpg c.png\n")
    with pytest.raises(UserError, match="a.jpg and link.jpg"):
        read_index(root, root / "list.txt", 3)


@pytest.mark.parametrize("colours, named", [
    ({"a": [0, 10, 20], "b": [0, 10, 20]}, ""), ({"a": [0, 10, 20], "b": [0, 20, 10]}, "value 1 "),
    ({"a": [0, 10, 20, 77], "b": [0, 10, 20, 88]}, "")], ids=["alike", "renumbered", "beyond what is shown"])
def test_masks_of_a_list_whose_palettes_give_a_value_two_colours_are_refused(root, colours, named):
    for name, palette in colours.items():
        mask = Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8))
        mask.putpalette([part for grey in palette for part in (grey, grey, 200)] + [9] * 756)
        mask.save(root / f"{name}.png")
    options = [f"data.{key}={value}" for key, value in {
        "root": root, "train_list": "", "val_list": root / "list.txt", "classes": "lists/shapes/classes.yaml"}.items()]
    if named:
        with pytest.raises(UserError, match=f"{named}.*#0a0ac8 in a.png and #1414c8 in b.png"):
            pixels(root)
    else:
        assert pixels(root) == [[1, 1, 1, 0]] * 2
    for name in "ab":
        Image.new("RGB", (4, 1)).save(root / f"{name}.jpg")
    assert ("#1414c8" in in_process("data.verify", "shapes", *options, f"exp={root}").stderr) == bool(named)


def test_lists_that_share_an_image_are_refused_before_training(tiny_shapes, tiny_options, tmp_path):
    train, val = ((tiny_shapes / f"lists/{part}.txt").read_text() for part in ("train", "val"))
    (tmp_path / "train.txt").write_text(train + val.splitlines()[0])
    complains(in_process("train.py", "--config", "config/shapes/esda.yaml", *tiny_options,
                         f"data.train_list={tmp_path / 'train.txt'}"),
              "1 images are in the training and in the validation list, such as")

"""The pixel index: where it is kept, when it is made again, and what a list that points nowhere is told."""
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from data.files import how_to_make
from data.fold import FoldData
from data.index import read_index
from util.config import ROOT, Config, load
from util.runtime.errors import UserError


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two pairs; images are not read by the index."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "set"
    root.mkdir()
    for name in "ab":
        (root / f"{name}.jpg").write_bytes(b"an image")
        Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8)).save(root / f"{name}.png")
    (root / "list.txt").write_text("a.jpg a.png\n\n\nb.jpg b.png\n")
    return root


def pixels(root) -> list[list[int]]:
    return read_index(root, root / "list.txt", 3).pixels.tolist()


def complaint(*arguments) -> str:
    with pytest.raises(UserError) as caught:
        read_index(*arguments)
    return str(caught.value)


def test_an_index_is_counted_once_and_again_after_any_change(root, capsys):
    assert pixels(root) == [[1, 1, 1, 0]] * 2
    kept = list((root / "index").iterdir())
    assert pixels(root) == [[1, 1, 1, 0]] * 2 and len(kept) == 1
    assert capsys.readouterr().err.count("indexed") == 1
    status = (root / "b.png").stat()
    Image.fromarray(np.array([[0, 1, 3, 255]], np.uint8)).save(root / "new.png")
    shutil.copyfile(root / "new.png", root / "b.png")
    os.utime(root / "b.png", ns=(status.st_atime_ns, status.st_mtime_ns))  # a copy that keeps size and time
    assert (root / "b.png").stat().st_size == status.st_size
    assert pixels(root) == [[1, 1, 1, 0], [1, 1, 0, 1]]


def test_the_index_of_a_read_only_folder_lies_in_the_cache(root, tmp_path, capsys):
    (root / "index").write_text("a file stands for a folder that cannot be written to")
    for _ in range(2):
        assert pixels(root) == [[1, 1, 1, 0]] * 2
    assert capsys.readouterr().err.count("indexed") == 1
    assert len(list((tmp_path / "cache/esda/index").iterdir())) == 1


def test_without_any_place_the_index_is_counted_each_time(root, tmp_path, capsys):
    (root / "index").write_text("")
    (tmp_path / "cache").write_text("")
    for _ in range(2):
        assert pixels(root) == [[1, 1, 1, 0]] * 2
    said = capsys.readouterr().err
    assert said.count("indexed") == 2 and "the index is not kept" in said


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array", "other shape", "other type"])
def test_a_broken_index_is_made_again(root, content):
    pixels(root)
    kept = next((root / "index").iterdir())
    if isinstance(content, bytes):
        kept.write_bytes(content)
    else:
        np.save(kept, np.zeros((2, 3), np.int64) if content == "other shape" else np.zeros((2, 4)))
    assert pixels(root) == [[1, 1, 1, 0]] * 2


@pytest.mark.parametrize("dataset, command", [
    ("pascal", "python -m data.prepare pascal"), ("coco", "python -m data.prepare coco"),
    ("shapes", "python -m data.shapes.make"), ("mine", "python -m data.lists")])
def test_what_is_missing_is_told_with_the_command_that_makes_it(root, dataset, command):
    assert command in how_to_make(dataset)
    assert command in complaint(root / "nowhere", root / "list.txt", 3, dataset)
    assert command in complaint(root, root / "nowhere.txt", 3, dataset)
    for name in ("b.jpg", "b.png"):
        (root / name).rename(root / "aside")
        message = complaint(root, root / "list.txt", 3, dataset)
        assert command in message and f"list.txt:4: {root / name} is not there" in message
        (root / "aside").rename(root / name)


def test_lists_that_share_an_image_are_refused_before_training(tiny_shapes, tmp_path):
    lists = {part: (tiny_shapes / f"lists/{part}.txt").read_text() for part in ("train", "val")}
    (tmp_path / "train.txt").write_text(lists["train"] + lists["val"].splitlines()[0])
    cfg = load(Config, ROOT / "config/shapes/esda.yaml", [
        f"data.root={tiny_shapes}", f"data.train_list={tmp_path / 'train.txt'}", "data.min_pixels=32", "data.workers=0",
        f"data.val_list={tiny_shapes / 'lists/val.txt'}"])
    with pytest.raises(UserError, match="1 images are in the training and in the validation list, such as JPEG"):
        FoldData(cfg).training()
    cfg.data.train_list = str(tiny_shapes / "lists/train.txt")
    assert FoldData(cfg).training()[2] > 0


def test_masks_that_hold_0_and_255_alone_are_told_what_255_means(root):
    for name in "ab":
        Image.fromarray(np.array([[0, 0, 255, 255]], np.uint8)).save(root / f"{name}.png")
    message = complaint(root, root / "list.txt", 3)
    assert "255" in message and "write 1" in message

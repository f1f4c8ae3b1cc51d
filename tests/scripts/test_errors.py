"""What a user can get wrong ends in one line that says what, where and what to do. Scripts run in this process."""
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from runs import complains, in_process, largest_file

from data.index import read_index
from util.config import ROOT
from util.run import checkpoint
from util.run.folder import Run
from util.runtime.device import set_tf32
from util.runtime.errors import UserError

CONFIG = ("--config", "config/shapes/esda.yaml")
URL = ("https://openaipublic.azureedge.net/clip/models/"
       "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt")


@pytest.fixture
def spoilt(tiny_shapes, tmp_path) -> Path:
    """A copy of the tiny data set for a test to spoil."""
    return Path(shutil.copytree(tiny_shapes, tmp_path / "set"))


@pytest.fixture
def train(options_for, tiny_shapes, tmp_path):
    """train("key=value", ..., root=...) runs train.py on the tiny set, or on another root."""
    def run(*overrides, root=tiny_shapes):
        return in_process("train.py", *CONFIG, *options_for(root, tmp_path / "exp"), *overrides)
    return run


@pytest.fixture
def final_test(tiny_options):
    """final_test("key=value", ...) runs test.py on the tiny set."""
    def run(*overrides):
        return in_process("test.py", *CONFIG, *tiny_options, *overrides)
    return run


def every_image(root: Path, part: str) -> list[Path]:
    return sorted((root / "JPEGImages").glob(f"{part}_*.jpg"))


# Data

@pytest.mark.parametrize("override, named", [
    ("data.root=TMP/nowhere", ["TMP/nowhere", "data.root"]),
    ("data.train_list=TMP/nowhere.txt", ["TMP/nowhere.txt", "docs/data.md"]),
    ("data.min_pixels=1000000", ["lists/train.txt", "fold 0 is empty", "1000000", "data.min_pixels"]),
    ("fold=7", ["fold=7", "0 to 3"]), ("model.clip=TMP/ViT-B-16.pt", ["TMP/ViT-B-16.pt", URL]),
    pytest.param("device=cuda", ["device=cuda", "device=cpu"],
                 marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"))])
def test_an_option_that_names_what_is_not_there(override, named, train, tmp_path):
    complains(train(override.replace("TMP", str(tmp_path))), *(text.replace("TMP", str(tmp_path)) for text in named))


def test_list_line_with_three_fields(train, spoilt):
    path = spoilt / "lists" / "val.txt"
    path.write_text(path.read_text() + "JPEGImages/a.jpg SegmentationClassAug/a.png extra\n")
    complains(train(root=spoilt), f"{path}:41:", "extra", "an image and a mask")


def test_image_and_mask_of_different_sizes_found_by_a_loader_process(train, spoilt):
    for image in every_image(spoilt, "train"):
        cv2.imwrite(str(image), np.zeros((50, 40, 3), np.uint8))
    complains(train("data.workers=1", root=spoilt), f"{spoilt}/SegmentationClassAug/train_", "64x64", "40x50",
              "not the right one")


def test_truncated_jpeg_in_training(train, spoilt):
    for image in every_image(spoilt, "train"):
        image.write_bytes(image.read_bytes()[:-200])
    complains(train(root=spoilt), f"{spoilt}/JPEGImages/train_", "cut short", "again")


def test_mask_class_out_of_range(train, spoilt):
    path = spoilt / "SegmentationClassAug" / "train_000007.png"
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    mask[0, :3] = 21
    cv2.imwrite(str(path), mask)
    complains(train(root=spoilt), path, "class 21", "0 to 20", "data.classes")


# Weights and checkpoints

def test_checkpoint_of_another_architecture(final_test, finished_run):
    best = finished_run[0] / "checkpoints" / "best.pt"
    complains(final_test(f"weights={best}", "model.interactor_layers=1"), best, "another architecture", "interactor",
              "config.yaml")


def test_no_checkpoint(final_test, tiny_clip, tmp_path):
    complains(final_test(f"weights={tmp_path}/nowhere.pt"), f"{tmp_path}/nowhere.pt", "weights=")
    complains(final_test(), "weights=", "checkpoint")
    complains(final_test(f"weights={tiny_clip}"), tiny_clip, "not a checkpoint", "best.pt")


@pytest.mark.parametrize("data", [b"", b"best.pt was the good one", b"PK\x03\x04 half an archive"])
def test_a_file_that_is_no_checkpoint(tmp_path, data):
    (tmp_path / "odd.pt").write_bytes(data)
    with pytest.raises(UserError, match="odd.pt: not a checkpoint.*try another"):
        checkpoint.read(tmp_path / "odd.pt", "try another")


def test_a_checkpoint_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").touch, ())
    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(UserError, match="trap.pt.*it holds a .*getattr.*could run code"):
        checkpoint.read(tmp_path / "trap.pt", "try another")
    assert not (tmp_path / "sprung").exists()


def test_clip_weights_are_missed_before_anything_long_begins(train, final_test, finished_run, tmp_path):
    """Counting the masks' pixels takes minutes; here even the data set is missing."""
    wrong = (f"model.clip={tmp_path}/none.pt", f"data.root={tmp_path}/nowhere", f"data.val_list={tmp_path}/nowhere.txt")
    complains(train(*wrong), f"{tmp_path}/none.pt", "data.prepare clip")
    complains(final_test(*wrong, f"weights={finished_run[0]}/checkpoints/best.pt"), f"{tmp_path}/none.pt")
    complains(train(*wrong, f"weights={tmp_path}/start.pt"), f"{tmp_path}/start.pt", "to start from")


# Options and runs

@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_a_mistake_on_the_command_line_is_told_at_once(script, run_script):
    start = time.monotonic()
    complains(run_script(script, *CONFIG, "train.Ir=1e-3"), "'train.Ir'", "'train.lr'")
    assert time.monotonic() - start < 3
    loaded = subprocess.run([sys.executable, "-X", "importtime", script, *CONFIG, "train.Ir=1"], cwd=ROOT,
                            capture_output=True, text=True).stderr
    assert "yaml" in loaded and not any(line.split("|")[-1].strip() == "torch" for line in loaded.splitlines())


def test_run_name_that_is_taken(finished_run):
    folder, options = finished_run
    complains(in_process("train.py", *CONFIG, *options), folder, f"resume={folder}", "run=")


def test_tf32_is_for_cuda_and_off_unless_asked_for(train):
    complains(train("precision=tf32"), "precision=tf32", "precision=fp32", "CUDA")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        for precision, allowed in (("tf32", True), ("fp32", False), ("bf16", False)):
            set_tf32(torch.device("cuda"), precision)
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


# Disks

def test_full_disk_while_a_checkpoint_is_written(finished_run, tmp_path):
    """A limit on the size of files stands for the disk: logs fit, last.pt does not."""
    folder = Path(shutil.copytree(finished_run[0], tmp_path / "run"))  # elsewhere, but that does not matter to resume=
    last = folder / "checkpoints" / "last.pt"
    before, files = last.read_bytes(), sorted(path.name for path in last.parent.iterdir())
    with largest_file(len(before) // 4):
        result = in_process("train.py", *CONFIG, *finished_run[1], f"resume={folder}")
    complains(result, last, "could not be written", "intact", "free some space", "resume=")
    assert last.read_bytes() == before
    assert sorted(path.name for path in last.parent.iterdir()) == files, "no half-written file is left"
    assert {"model", "optimizer", "at"} <= checkpoint.read(last, "").keys()


def test_full_disk_that_takes_not_even_a_log_line(finished_run, tmp_path):
    folder = Path(shutil.copytree(finished_run[0], tmp_path / "run"))
    with largest_file((folder / "log.txt").stat().st_size):
        result = in_process("train.py", *CONFIG, *finished_run[1], f"resume={folder}")
    complains(result, folder, "free some space")


def test_full_disk_while_curves_are_written(tmp_path):
    """A writer that fails in a thread of its own would leave the run waiting for it for ever."""
    run = Run(tmp_path / "run", fresh=True)
    run.open_events(0)
    with largest_file(20_000), pytest.raises(UserError, match="free some space"):
        for step in range(1000):
            run.scalars({"train/loss": 1.0}, step)
    run.close()


def test_a_folder_for_runs_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="exp="):
        Run(tmp_path / "file" / "shapes" / "run", fresh=True)


# What has no script of its own

@pytest.mark.parametrize("part", ["JPEGImages/b.jpg", "SegmentationClassAug/b.png"])
def test_a_list_names_the_missing_file_and_the_line(tmp_path, part):
    for folder in ("JPEGImages", "SegmentationClassAug"):
        (tmp_path / folder).mkdir()
    for name in ("JPEGImages/a.jpg", "JPEGImages/b.jpg", "SegmentationClassAug/a.png", "SegmentationClassAug/b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4), np.uint8))
    (tmp_path / part).unlink()
    (tmp_path / "list.txt").write_text("JPEGImages/a.jpg SegmentationClassAug/a.png\n\n"
                                       "JPEGImages/b.jpg SegmentationClassAug/b.png\n")
    with pytest.raises(UserError) as caught:
        read_index(tmp_path, tmp_path / "list.txt", 20)
    assert f"{tmp_path}/list.txt:3:" in str(caught.value), "the line's number in the file, blank lines included"
    assert f"{tmp_path}/{part}" in str(caught.value) and "data.root" in str(caught.value)

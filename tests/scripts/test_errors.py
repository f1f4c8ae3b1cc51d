"""What a user can get wrong ends in one line that says what, where and what to do. Scripts run in this process."""
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from runs import complains, in_process

CONFIG = ("--config", "config/shapes/esda.yaml")
@pytest.fixture
def spoilt(tiny_shapes, tmp_path) -> Path:
    """A copy of the tiny data set for a test to spoil."""
    return Path(shutil.copytree(tiny_shapes, tmp_path / "set"))


@pytest.fixture
def train(options_for, tiny_shapes, tmp_path):
    """train("key=value", ..., root=..., script=...) runs train.py on the tiny set, or another script or root."""
    def run(*overrides, root=tiny_shapes, script="train.py"):
        return in_process(script, *CONFIG, *options_for(root, tmp_path / "exp"), *overrides)
    return run


@pytest.fixture
def final_test(train):
    return partial(train, script="test.py")


# Data

@pytest.mark.parametrize("override, named", [
    ("data.root=TMP/nowhere", ["TMP/nowhere", "data.root"]),
    ("data.train_list=TMP/nowhere.txt", ["TMP/nowhere.txt", "docs/data.md"]),
    ("data.min_pixels=1000000", ["lists/train.txt", "fold is empty", "1000000", "data.min_pixels"]),
    ("fold=7", ["fold=7", "0 to 3"]), ("model.clip=TMP/ViT-B-16.pt", ["TMP/ViT-B-16.pt", "data.prepare clip"]),
    pytest.param("device=cuda", ["device=cuda", "device=cpu"],
                 marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"))])
def test_an_option_that_names_what_is_not_there(override, named, train, tmp_path):
    complains(train(override.replace("TMP", str(tmp_path))), *(text.replace("TMP", str(tmp_path)) for text in named))


def test_image_and_mask_of_different_sizes_found_by_a_loader_process(train, spoilt):
    for image in (spoilt / "JPEGImages").glob("train_*.jpg"):
        cv2.imwrite(str(image), np.zeros((50, 40, 3), np.uint8))
    complains(train("data.workers=1", root=spoilt), f"{spoilt}/SegmentationClassAug/train_", "64x64", "40x50")


def test_truncated_jpeg_in_training(train, spoilt):
    for image in (spoilt / "JPEGImages").glob("train_*.jpg"):
        image.write_bytes(image.read_bytes()[:-200])
    complains(train(root=spoilt), f"{spoilt}/JPEGImages/train_", "cut short")


def test_mask_class_out_of_range(train, spoilt):
    path = spoilt / "SegmentationClassAug" / "train_000007.png"
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    mask[0, :3] = 21
    cv2.imwrite(str(path), mask)
    complains(train(root=spoilt), path, "21", "0 to 20", "data.classes")


# Weights and checkpoints

def test_checkpoint_of_another_architecture(final_test, finished_run):
    best = finished_run[0] / "checkpoints" / "best.pt"
    complains(final_test(f"weights={best}", "model.interactor_layers=1"), best, "another architecture", "interactor",
              "config.yaml")


def test_no_checkpoint(final_test, tiny_clip, tmp_path):
    complains(final_test(f"weights={tmp_path}/nowhere.pt"), f"{tmp_path}/nowhere.pt", "best.pt")
    complains(final_test(), "weights=", "checkpoint")
    complains(final_test(f"weights={tiny_clip}"), tiny_clip, "not a checkpoint", "best.pt")


def test_clip_weights_are_missed_before_anything_long_begins(train, final_test, finished_run, tmp_path):
    """Counting the masks' pixels takes minutes; here even the data set is missing."""
    wrong = (f"model.clip={tmp_path}/none.pt", f"data.root={tmp_path}/nowhere", f"data.val_list={tmp_path}/nowhere.txt")
    complains(train(*wrong), f"{tmp_path}/none.pt", "data.prepare clip")
    complains(final_test(*wrong, f"weights={finished_run[0]}/checkpoints/best.pt"), f"{tmp_path}/none.pt")
    complains(train(*wrong, f"weights={tmp_path}/start.pt"), f"{tmp_path}/start.pt", "best.pt")


# Options and runs

@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_an_unknown_option_is_refused_with_its_nearest_name(script):
    complains(in_process(script, *CONFIG, "train.Ir=1e-3"), "'train.Ir'", "'train.lr'")


def test_run_name_that_is_taken(finished_run):
    folder, options = finished_run
    complains(in_process("train.py", *CONFIG, *options), folder, f"resume={folder}", "run=")

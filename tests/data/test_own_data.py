"""A data set of one's own: lists from two folders, data.verify, training; the example of docs/data.md word for word."""
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from runs import ENVIRONMENT, complains, in_process

from data.files import read_list
from data.lists import held_out, pairs
from util.config import ROOT
from util.runtime.errors import UserError


@pytest.fixture
def own(tiny_shapes, tmp_path) -> Path:
    """images/ and masks/ out of the tiny Shapes-5i, as a user would bring them."""
    root = tmp_path / "own"
    for old, new in (("JPEGImages", "images"), ("SegmentationClassAug", "masks")):
        shutil.copytree(tiny_shapes / old, root / new)
    return root


def made(root, *options):
    done = in_process("data.lists", root, *options)
    assert done.returncode == 0, done.stderr
    return read_list(root / "lists/train.txt"), read_list(root / "lists/val.txt")


def test_every_pair_is_in_one_list_and_stays_there_when_images_come(own):
    for share in (0.1, 0.5):
        assert np.mean([held_out(f"images/{i}.jpg", share) for i in range(4000)]) == pytest.approx(share, abs=0.03)
    train, val = made(own)
    assert not set(train) & set(val) and len(train + val) == 100 and 5 < len(val) < 35
    assert all(Path(i).stem == Path(m).stem and i.startswith("images/") and m.startswith("masks/") for i, m in train)
    for folder, kind in (("images", "jpg"), ("masks", "png")):
        shutil.copy(own / folder / f"val_000000.{kind}", own / folder / f"aaa_new.{kind}")
    more_train, more_val = made(own)
    assert set(train) <= set(more_train) and set(val) <= set(more_val) and len(more_train + more_val) == 101


@pytest.mark.parametrize("spoil", [
    lambda image, mask: mask.unlink(), lambda image, mask: image.unlink(),
    lambda image, mask: shutil.copy(image, image.with_suffix(".jpeg"))])
def test_what_has_no_partner_is_named(own, spoil):
    spoil(own / "images/train_000001.jpg", own / "masks/train_000001.png")
    with pytest.raises(UserError, match="without a partner, or there twice: train_000001$"):
        pairs(own, "images", "masks")


def test_files_of_other_kinds_are_named(own, capsys):
    for name in ("images/.hidden.heic", "images/new.heic"):
        (own / name).touch()
    assert len(pairs(own, "images", "masks")) == 100 and capsys.readouterr().err.count("heic") == 1
    (own / "masks/train_000001.png").rename(own / "masks/train_000001.tif")
    with pytest.raises(UserError, match=r"train_000001; .*new.heic.*train_000001.tif"):
        pairs(own, "images", "masks")


@pytest.mark.parametrize("options", [["--val", "0"], ["--val", "1.5"], ["--images", "nosuch"]])
def test_impossible_options_end_in_a_line(own, options):
    complains(in_process("data.lists", own, *options), "val" if "--val" in options else "nosuch")
    assert not (own / "lists").exists()


@pytest.mark.slow
def test_the_documented_example_runs_as_it_stands(own, options_for, tmp_path):
    """The lines of docs/data.md, in a copy of the project, with images put where they say."""
    text = (ROOT / "docs/data.md").read_text()
    block = re.search(r"## Your own data.*?```bash\n(.*?)```", text, re.S)[1]
    assert block.count("\n") <= 20
    project = tmp_path / "project"
    for name in ("config", "data", "model", "util", "lists"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("sets", "__pycache__"))
    for name in ("train.py", "train.sh", "requirements.txt"):
        shutil.copy(ROOT / name, project / name)
    keep = {i: label for label, i in enumerate((1, 2, 3), start=1)}  # three of the classes become cat, dog and owl
    lookup = np.array([keep.get(v, 255 if v == 255 else 0) for v in range(256)], np.uint8)
    for file in (own / "masks").iterdir():
        cv2.imwrite(str(file), lookup[cv2.imread(str(file), cv2.IMREAD_UNCHANGED)])
    (project / "data/sets").mkdir(parents=True)
    shutil.move(own, project / "data/sets/mine")
    extra = [o for o in options_for(Path("x"), tmp_path / "exp") if not o.startswith("data.")] + ["data.min_pixels=32",
             "data.workers=0", "train.optimizer=adamw", "model.replace_indices=[1,2,3]", "run=r", "train.epochs=1"]
    block = block.replace("train.sh mine 0", f"train.sh mine 0 {shlex.join(extra)}")
    block = block.replace("verify mine", "verify mine data.min_pixels=32")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=project, env=ENVIRONMENT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "owl" in done.stdout and "no problems" in done.stdout
    results = json.loads((tmp_path / "exp/mine/esda/fold0/r/results.json").read_text())
    assert results["protocol"] == "exhaustive" and list(results["per_class"]) == ["owl"]
    assert results["dataset"] == "mine" and results["trained_on"]["train_classes"] == "seen"


@pytest.mark.slow
def test_a_set_to_test_on_alone_needs_no_training_list(own, tiny_options):
    """data.lists --val 1, data.verify and test.py; train.py says in a line that there is nothing to train on."""
    done = in_process("data.lists", own, "--val", "1")
    assert done.returncode == 0 and len(read_list(own / "lists/val.txt")) == 100, done.stderr
    assert not (own / "lists/train.txt").exists()
    options = [*tiny_options, f"data.root={own}", f"data.val_list={own}/lists/val.txt", "data.train_list="]
    done = in_process("data.verify", "shapes", *options)
    assert "no problems" in done.stdout and "0 training and 100 validation pairs" in done.stdout, done.stderr
    done = in_process("test.py", "--config", "config/shapes/everything.yaml", *options, "eval.protocol=episodic",
                      "eval.samples=8")
    assert done.returncode == 0 and "results.json" in done.stdout, done.stderr
    complains(in_process("train.py", "--config", "config/shapes/esda.yaml", *options), "data.train_list is empty")

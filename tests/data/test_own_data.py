"""A data set of one's own: lists from two folders, data.verify, training; the example of docs/data.md word for word."""
import json
import os
import re
import shlex
import shutil
import subprocess
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from runs import ENVIRONMENT, in_process

from data.files import read_list, write_lists
from data.prepare.own import held_out, pairs
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
    train, val = made(own)
    assert not set(train) & set(val) and len(train + val) == 100 and 5 < len(val) < 35
    assert all(Path(i).stem == Path(m).stem and i.startswith("images/") and m.startswith("masks/") for i, m in train)
    for folder, kind in (("images", "jpg"), ("masks", "png")):
        shutil.copy(own / folder / f"val_000000.{kind}", own / folder / f"aaa_new.{kind}")
    more_train, more_val = made(own)
    assert set(train) <= set(more_train) and set(val) <= set(more_val) and len(more_train + more_val) == 101


def test_the_share_held_out_is_that_asked_for():
    for share in (0.1, 0.5):
        assert np.mean([held_out(f"images/{i}.jpg", share) for i in range(4000)]) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("spoil, named", [
    (lambda image, mask: mask.unlink(), "train_000001.jpg: no mask"),
    (lambda image, mask: image.unlink(), "train_000001.png: no image"),
    (lambda image, mask: (image.unlink(), image.mkdir()), "train_000001.png: no image"),
    (lambda image, mask: shutil.copy(image, image.with_suffix(".jpeg")), "same name"),
    (lambda image, mask: image.rename(image.with_name("a\tb.jpg")), "rename it"),
    (lambda image, mask: image.rename(image.with_name("a\\b.jpg")), "rename it"),
    (lambda image, mask: image.rename(os.fsdecode(os.fsencode(image.parent) + b"/caf\xe9.jpg")), "rename it"),
    (lambda image, mask: shutil.rmtree(mask.parent), "--masks")])
def test_what_has_no_partner_is_named(own, spoil, named):
    spoil(own / "images/train_000001.jpg", own / "masks/train_000001.png")
    with pytest.raises(UserError, match=named):
        pairs(own, "images", "masks")


def test_names_with_spaces_and_accents_find_their_partners(own):
    """Also where one of the two was named on macOS, which writes an accent as a letter of its own."""
    (own / "images/train_000001.jpg").rename(own / "images" / unicodedata.normalize("NFC", "une \u00e9t\u00e9.jpg"))
    (own / "masks/train_000001.png").rename(own / "masks" / unicodedata.normalize("NFD", "une \u00e9t\u00e9.png"))
    found = pairs(own, "images", "masks")
    write_lists(own, {"all": found})
    assert len(found) == 100 and read_list(own / "lists/all.txt") == found
    assert all((own / name).is_file() for pair in found for name in pair)


@pytest.mark.parametrize("options", [["--val", "0"], ["--val", "1.5"], ["--images", "nosuch"]])
def test_impossible_options_end_in_a_line(own, options):
    done = in_process("data.lists", own, *options)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
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
    train = "bash train.sh mine 0"
    fine_tuning = re.search(r"^bash train.sh mine 0 weights=.*$", text, re.M)[0].replace(
        "exp/pascal/esda/fold0/TIME", str(tmp_path / "exp/mine/esda/fold0/r"))  # of the run before, at hand
    extra = shlex.join(extra)
    block = block.replace(train, f"{train} {extra}").replace("verify mine", "verify mine data.min_pixels=32")
    block += f"{fine_tuning} {extra} run=tuned\n"
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=project, env=ENVIRONMENT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "owl" in done.stdout and "no problems" in done.stdout
    results, tuned = (json.loads((tmp_path / f"exp/mine/esda/fold0/{run}/results.json").read_text())
                      for run in ("r", "tuned"))
    assert results["protocol"] == "exhaustive" and results["config"]["train"]["lr"] == 5e-4
    start = tuned["trained_on"]["start"]
    assert start["file"].endswith("r/checkpoints/best.pt") and start["trained_on"]["classes"] == ["cat", "dog"]
    assert tuned["config"]["train"]["lr"] == 1e-4 and "starts from" in done.stdout
    assert list(results["per_class"]) == ["owl"] and results["dataset"] == "mine"
    assert results["trained_on"]["train_classes"] == "seen" and "images without any unseen class" in done.stdout

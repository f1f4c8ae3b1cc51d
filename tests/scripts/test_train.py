"""train.py and test.py as a user runs them: whole runs, stopped runs, and what must not change a number."""
import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
import yaml
from PIL import Image
from runs import CONFIG, ENVIRONMENT, complains, in_process, run_folder, same, start, train, wait_for

from data.folds import Classes
from util.config import ROOT

pytestmark = pytest.mark.slow


def test_a_run_leaves_everything_a_reader_needs(whole):
    results = runs.results(whole)
    assert results["dataset"] == "shapes" and results["fold"] == 0 and results["protocol"] == "exhaustive"
    assert set(results["per_class"]) <= {"circle", "star", "key", "umbrella", "house"}
    assert results["miou"] == pytest.approx(sum(results["per_class"].values()) / len(results["per_class"]))
    assert Path(results["checkpoint"]).samefile(whole / "checkpoints/best.pt")
    assert results["config"] == yaml.safe_load((whole / "config.yaml").read_text())
    assert results["selection"] and results["last_epoch"]["epoch"] == 2 and results["code"]
    assert all((whole / "pictures" / name).stat().st_size > 1000 for name in ("unseen.png", "extremes.png"))
    assert (whole / "code.txt").read_text() and "unseen mIoU" in (whole / "log.txt").read_text()
    tags = b"".join(p.read_bytes() for p in whole.glob("events/*"))
    for tag in (b"train/loss", b"train/loss_last_block", b"train/loss_other_blocks", b"train/lr", b"train/images_per_s",
                b"unseen/FB-IoU", b"seen/mIoU", b"unseen/00_"):
        assert tag in tags
    assert not list(whole.rglob("*.part"))
    best = torch.load(whole / "checkpoints/best.pt", weights_only=True)
    assert all(k.startswith(("interactor.", "decoder.", "image_encoder.text_proj.", "image_encoder.branches."))
               for k in best["model"]), "no frozen weights"
    assert isinstance(best["presence_threshold"], float)


def test_the_checkpoint_tests_to_the_same_score(whole, checked_options, tmp_path):
    done = in_process("test.py", "--config", CONFIG, *checked_options, f"exp={tmp_path}",
                      f"weights={whole / 'checkpoints/best.pt'}", "eval.batch_size=3", "data.workers=1")
    assert done.returncode == 0, done.stderr
    again, first = runs.results(run_folder(tmp_path)), runs.results(whole)
    for key in ("miou", "fb_iou", "samples", "name_auc", "absent_name_miou", "presence_auroc", "absent_empty",
                "presence_threshold"):  # other batches and workers, same score
        assert again[key] == pytest.approx(first[key], abs=1e-3)


def test_a_run_stopped_again_and_again_goes_on_to_the_same_result(whole, checked_options, tmp_path):
    """Killed inside an epoch, ended, and interrupted; with loader processes, which change no number. The signals go to
    the whole process group, as terminals and clusters send them.
    """
    more = ["data.workers=2"]
    for number, status, place in ((signal.SIGKILL, -9, (0, 1)), (signal.SIGTERM, 143, (0, 2)),
                                  (signal.SIGINT, 130, (1, 1))):
        process = start(checked_options, tmp_path, *more)
        wait_for(tmp_path, *place, process)
        os.killpg(process.pid, number)
        said = process.communicate()[1]
        assert process.returncode == status, said
        folder = run_folder(tmp_path)
        assert status < 0 or (f"resume={folder}" in said and "Traceback" not in said)
        assert not (folder / "results.json").exists()
        more = [more[0], f"resume={folder}"]
    same(train(checked_options, tmp_path, *more), whole)


def test_a_plain_zero_shot_split_trains_without_a_seen_score_and_data_changed_later_is_told(tiny_options, tmp_path):
    """Two seen classes to train on, two unseen ones to test on; then a pixel of two masks changes."""
    for n, (part, ids) in enumerate([("train", [1, 2]), ("train", [2]), ("val", [3, 4]), ("val", [4])]):
        mask = np.zeros((96, 128), np.uint8)
        for c in ids:
            mask[10:60, 30 * c - 20:30 * c] = c
        Image.fromarray(60 * mask).convert("RGB").save(tmp_path / f"{n}.jpg")
        Image.fromarray(mask).save(tmp_path / f"{n}.png")
        with open(tmp_path / f"{part}.txt", "a") as file:
            file.write(f"{n}.jpg {n}.png\n")
    (tmp_path / "classes.yaml").write_text("classes: [cat, dog, owl, cow]\nfolds: [[owl, cow]]\n")
    options = [*tiny_options, f"data.root={tmp_path}", f"data.classes={tmp_path}/classes.yaml", "train.epochs=1",
               *(f"data.{part}_list={tmp_path}/{part}.txt" for part in ("train", "val")), "model.replace_indices=[1]"]
    for option, named in ("train.select=seen", "train.select=seen"), ("eval.protocol=generalised", "cat, dog"):
        complains(in_process("train.py", "--config", CONFIG, *options, option), named)
    assert not (tmp_path / "exp").exists()
    run = train(options, tmp_path / "exp")
    before = runs.results(run)
    assert before["last_epoch"]["seen_miou"] is None and set(before["per_class"]) == {"owl", "cow"}
    assert "changed_data" not in before["trained_on"]
    for name in ("1.png", "3.png"):
        mask = np.array(Image.open(tmp_path / name))
        mask[0, 0] = mask.max()
        Image.fromarray(mask).save(tmp_path / name)
    done = in_process("train.py", f"resume={run}", "train.epochs=2")
    assert done.returncode == 0, done.stderr
    assert all(part in runs.results(run)["trained_on"]["changed_data"] for part in ("training", "validation"))
    done = in_process("test.py", "--config", CONFIG, *options, f"exp={tmp_path}/test",
                      f"weights={run / 'checkpoints/last.pt'}")
    assert "validation" in runs.results(run_folder(tmp_path / "test"))["changed_data"] in done.stderr


def test_early_stopping_and_sgd(checked_options, tmp_path):
    folder = train(checked_options, tmp_path, "train.optimizer=sgd", "train.lr=0", "train.epochs=5",
                   "train.patience=1", "train.epoch_samples=8", "eval.name_check=false")
    results = runs.results(folder)
    assert results["best_epoch"] == 1 and results["last_epoch"]["epoch"] == 2  # a rate of 0 never gets better


def test_the_name_floor_gives_every_class_the_same_word(checked_options, tmp_path):
    folder = train(checked_options, tmp_path, "train.epochs=1", "train.epoch_samples=8",
                   config="config/shapes/notext.yaml")
    assert runs.results(folder)["presence_auroc"] == pytest.approx(0.5)  # an absent name is answered as a present one


@pytest.mark.parametrize("baseline", ["everything", "clip_prior", "maskclip", "naclip", "clearclip", "decomposed"])
def test_baselines_need_no_training(baseline, tiny_options, tmp_path):
    script = ["--config", f"config/shapes/{baseline}.yaml", *tiny_options]
    done = in_process("test.py", *script)
    assert done.returncode == 0, done.stderr
    results = runs.results(run_folder(tmp_path / "exp", baseline))
    if baseline == "everything":
        assert 0 < results["miou"] < 40 and results["fb_iou"] < 20  # the background is missed altogether
    complains(in_process("train.py", *script), "nothing to train")


def test_all_folds_end_in_a_table(tiny_options, tmp_path):
    """Two folds, of ten classes each. The name of another data set keeps train.sh from making Shapes-5i."""
    names = Classes.read(ROOT / "lists/shapes/classes.yaml").names
    (tmp_path / "classes.yaml").write_text(json.dumps({"classes": names, "folds": [names[:10], names[10:]]}))
    options = [*tiny_options, "train.epochs=1", f"data.classes={tmp_path}/classes.yaml", "eval.protocol=exhaustive",
               "model.replace_indices=[1, 2, 3]"]
    done = subprocess.run(["bash", "train.sh", "pascal", "all", *options], cwd=ROOT, env=ENVIRONMENT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row.split()[1] for row in rows] == ["fold", "0", "1", "mean"]
    values = [float(row.split("|")[2]) for row in rows[1:]]
    assert values[-1] == pytest.approx(sum(values[:-1]) / 2, abs=0.06)
    assert "exhaustive" in done.stdout

"""train.py and test.py as a user runs them: whole runs, stopped runs, and what must not change a number."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from runs import CONFIG, in_epoch, in_process, run_folder, same, start, train, wait_for

from util.config import ROOT

pytestmark = pytest.mark.slow


def test_a_run_leaves_everything_a_reader_needs(whole):
    results = json.loads((whole / "results.json").read_text())
    assert results["dataset"] == "shapes" and results["fold"] == 0 and results["protocol"] == "exhaustive"
    assert set(results["per_class"]) <= {"circle", "star", "key", "umbrella", "house"}
    assert results["miou"] == pytest.approx(sum(results["per_class"].values()) / len(results["per_class"]))
    assert Path(results["checkpoint"]).samefile(whole / "checkpoints/best.pt")
    assert results["config"] == yaml.safe_load((whole / "config.yaml").read_text())
    assert results["selection"] and results["last_epoch"]["epoch"] == 2 and results["code"]
    assert (whole / "pictures/unseen.png").stat().st_size > 1000
    assert (whole / "code.txt").read_text() and "unseen mIoU" in (whole / "log.txt").read_text()
    tags = b"".join(p.read_bytes() for p in whole.glob("events.out.*"))
    for tag in (b"train/loss", b"train/loss_last_block", b"train/loss_other_blocks", b"train/lr", b"train/images_per_s",
                b"unseen/FB-IoU", b"seen/mIoU", b"unseen/00_"):
        assert tag in tags
    assert not list(whole.rglob("*.part"))


def test_checkpoints_hold_only_tensors_and_plain_values_and_no_frozen_weights(whole):
    best = torch.load(whole / "checkpoints/best.pt", weights_only=True)
    assert all(k.startswith(("interactor.", "decoder.", "image_encoder.text_proj.", "image_encoder.branches."))
               for k in best["model"])
    assert isinstance(best["presence_threshold"], float)


def test_the_checkpoint_tests_to_the_same_score(whole, checked_options, tmp_path):
    done = in_process("test.py", "--config", CONFIG, *checked_options, f"exp={tmp_path}",
                      f"weights={whole / 'checkpoints/best.pt'}", "eval.batch_size=3", "data.workers=1")
    assert done.returncode == 0, done.stderr
    again, first = (json.loads((f / "results.json").read_text()) for f in (run_folder(tmp_path), whole))
    for key in ("miou", "fb_iou", "samples", "name_auc", "absent_name_miou", "presence_auroc", "absent_empty",
                "presence_threshold"):  # other batches and workers, same score
        assert again[key] == pytest.approx(first[key], abs=1e-3)


def test_workers_change_no_number(whole, run_script, checked_options, tmp_path):
    same(train(run_script, checked_options, tmp_path, "data.workers=2"), whole)


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_run_goes_on_to_the_same_result(number, status, whole, run_script, checked_options, tmp_path):
    """The signal goes to the whole process group, loader processes included, as terminals and clusters send it."""
    every_step = "train.checkpoint_minutes=0"  # so that kill -9 finds a checkpoint inside an epoch
    process = start(checked_options, tmp_path, every_step, "data.workers=1")
    wait_for(lambda: in_epoch(tmp_path, 0, 1), process)
    os.killpg(process.pid, number)
    said = process.communicate()[1]
    assert process.returncode == status, said
    if number != signal.SIGKILL:
        assert "resume=" in said and "Traceback" not in said
    folder = run_folder(tmp_path)
    assert not (folder / "results.json").exists()
    done = run_script("train.py", "--config", CONFIG, *checked_options, f"exp={tmp_path}", f"resume={folder}")
    assert done.returncode == 0, done.stderr
    same(folder, whole)


def test_a_stop_during_evaluation_loses_nothing(whole, run_script, checked_options, tmp_path):
    process = start(checked_options, tmp_path)
    wait_for(lambda: in_epoch(tmp_path, 0, 2), process)  # the whole first epoch is trained: evaluation is next
    process.send_signal(signal.SIGTERM)
    process.communicate()
    folder = run_folder(tmp_path)
    done = run_script("train.py", "--config", CONFIG, *checked_options, f"exp={tmp_path}", f"resume={folder}")
    assert done.returncode == 0, done.stderr
    same(folder, whole)


def test_early_stopping_and_sgd(run_script, checked_options, tmp_path):
    folder = train(run_script, checked_options, tmp_path, "train.optimizer=sgd", "train.lr=0", "train.epochs=5",
                   "train.patience=1")
    results = json.loads((folder / "results.json").read_text())
    assert results["best_epoch"] == 1 and results["last_epoch"]["epoch"] == 2  # a rate of 0 never gets better


def test_the_name_floor_gives_every_class_the_same_word(checked_options, tmp_path):
    done = in_process("train.py", "--config", "config/shapes/notext.yaml", *checked_options, f"exp={tmp_path}",
                      "train.epochs=1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("baseline", ["everything", "clip_prior", "maskclip", "naclip", "clearclip"])
def test_baselines_need_no_training(baseline, checked_options, tmp_path):
    done = in_process("test.py", "--config", f"config/shapes/{baseline}.yaml", *checked_options, f"exp={tmp_path}")
    assert done.returncode == 0, done.stderr
    results = json.loads(next(tmp_path.rglob("results.json")).read_text())
    if baseline == "everything":
        assert 0 < results["miou"] < 40 and results["fb_iou"] < 20  # the background is missed altogether
    again = in_process("train.py", "--config", f"config/shapes/{baseline}.yaml", *checked_options, f"exp={tmp_path}")
    assert again.returncode == 2 and "nothing to train" in again.stderr


def test_four_folds_end_in_a_table(checked_options, tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "VIRTUAL_ENV": sys.prefix,
           "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    options = [o for o in checked_options if not o.startswith("train.epochs")]
    done = subprocess.run(["bash", "train.sh", "shapes", "all", *options, "train.epochs=1", f"exp={tmp_path}"],
                          cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row.split()[1] for row in rows] == ["fold", "0", "1", "2", "3", "mean"]
    values = [float(row.split("|")[2]) for row in rows[1:]]
    assert values[-1] == pytest.approx(sum(values[:-1]) / 4, abs=0.06)
    assert "exhaustive" in done.stdout

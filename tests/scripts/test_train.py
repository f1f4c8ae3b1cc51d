"""train.py and test.py as a user runs them: whole runs, stopped runs, and what must not change a number."""
import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from runs import CONFIG, ENVIRONMENT, complains, in_epoch, in_process, run_folder, same, start, train, wait_for

from data.folds import Classes
from util.config import ROOT
from util.run.folder import Run

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


def test_a_run_stopped_again_and_again_goes_on_to_the_same_result(whole, checked_options, tmp_path):
    """Killed inside an epoch, ended in its evaluation, interrupted; with loader processes, which change no number. The
    signals go to the whole process group, as terminals and clusters send them.
    """
    more = ["train.checkpoint_minutes=0", "data.workers=2"]  # the first so that kill -9 finds a checkpoint in an epoch
    for number, status, place in ((signal.SIGKILL, -9, (0, 1)), (signal.SIGTERM, 143, (0, 2)),
                                  (signal.SIGINT, 130, (1, 1))):
        process = start(checked_options, tmp_path, *more)
        wait_for(partial(in_epoch, tmp_path, *place), process)
        os.killpg(process.pid, number)
        said = process.communicate()[1]
        assert process.returncode == status, said
        folder = run_folder(tmp_path)
        assert status < 0 or (f"resume={folder}" in said and "Traceback" not in said)
        assert not (folder / "results.json").exists()
        more = [*more[:2], f"resume={folder}"]
    same(train(checked_options, tmp_path, *more), whole)


def test_a_signal_after_the_last_step_is_not_forgotten(whole, checked_options, tmp_path, monkeypatch):
    write = Run.write_checkpoint

    def interrupted(self, name, content):
        write(self, name, content)
        if "at" in content and content["at"]["epoch"] == 1 and content["at"]["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "write_checkpoint", interrupted)
        done = in_process("train.py", "--config", CONFIG, *checked_options, f"exp={tmp_path}",
                          "train.checkpoint_minutes=0")
    folder = run_folder(tmp_path)
    assert done.returncode == 130 and f"resume={folder}" in done.stderr
    same(train(checked_options, tmp_path, f"resume={folder}"), whole)


def test_early_stopping_and_sgd(checked_options, tmp_path):
    folder = train(checked_options, tmp_path, "train.optimizer=sgd", "train.lr=0", "train.epochs=5",
                   "train.patience=1", "train.epoch_samples=8", "eval.name_check=false")
    results = json.loads((folder / "results.json").read_text())
    assert results["best_epoch"] == 1 and results["last_epoch"]["epoch"] == 2  # a rate of 0 never gets better


def test_the_name_floor_gives_every_class_the_same_word(checked_options, tmp_path):
    folder = train(checked_options, tmp_path, "train.epochs=1", "train.epoch_samples=8",
                   config="config/shapes/notext.yaml")
    results = json.loads((folder / "results.json").read_text())
    assert results["presence_auroc"] == pytest.approx(0.5)  # an absent name is answered as one that is there


@pytest.mark.parametrize("baseline", ["everything", "clip_prior", "maskclip", "naclip", "clearclip"])
def test_baselines_need_no_training(baseline, tiny_options, tmp_path):
    script = ["--config", f"config/shapes/{baseline}.yaml", *tiny_options]
    done = in_process("test.py", *script)
    assert done.returncode == 0, done.stderr
    results = json.loads(next(tmp_path.rglob("results.json")).read_text())
    if baseline == "everything":
        assert 0 < results["miou"] < 40 and results["fb_iou"] < 20  # the background is missed altogether
    complains(in_process("train.py", *script), "nothing to train")


def test_all_folds_end_in_a_table(tiny_options, tmp_path):
    """Two folds, of ten classes each."""
    names = Classes.read(ROOT / "lists/shapes/classes.yaml").names
    (tmp_path / "classes.yaml").write_text(json.dumps({"classes": names, "folds": [names[:10], names[10:]]}))
    options = [*tiny_options, "train.epochs=1", f"data.classes={tmp_path}/classes.yaml"]
    done = subprocess.run(["bash", "train.sh", "shapes", "all", *options], cwd=ROOT, env=ENVIRONMENT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row.split()[1] for row in rows] == ["fold", "0", "1", "mean"]
    values = [float(row.split("|")[2]) for row in rows[1:]]
    assert values[-1] == pytest.approx(sum(values[:-1]) / 2, abs=0.06)
    assert "exhaustive" in done.stdout

"""dry_run=true: what is counted and checked, and that nothing is written."""
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from runs import CONFIG, complains, in_process

from util.training import plan


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(plan, "TRAINING", 0.0)
    monkeypatch.setattr(plan, "TESTING", 0.0)


def seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


def test_a_plan_counts_predicts_and_writes_nothing(tiny_options, tmp_path):
    done = in_process("train.py", "--config", CONFIG, *tiny_options, "dry_run=true", "train.epochs=10")
    assert done.returncode == 0, done.stderr
    said = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert list(said) == ["plan", "device", "weights", "data", "steps", "operations", "memory", "time", "disk"]
    assert not (tmp_path / "exp").exists() and str(tmp_path / "exp") in said["plan"]
    assert "2 an epoch, of 8 images; 20 in the 10 epochs" in said["steps"]
    images, draw, distinct, seen = map(int, re.findall(r"(\d+) (?:training|test|of them|of seen)", said["data"]))
    assert 0 < images <= 60 and draw == distinct > 8 and seen == 8, "the exhaustive protocol has each sample once"
    training, testing, step = map(float, re.findall(r"([\d.]+) GFLOP(?! ?/s)(?!/)", said["operations"])[:3])
    assert testing < training and step == pytest.approx(8 * training, rel=0.01)
    each, sample = map(float, re.findall(r"([\d.e-]+) s a (?:step|test)", said["time"]))
    epoch, scores, everything = map(seconds, re.findall(r"(?:epoch|scores|at most) ([\d.]+ \w+)", said["time"]))
    assert epoch == pytest.approx(2 * each, rel=0.02) and scores == pytest.approx((draw + seen) * sample, rel=0.02)
    assert everything == pytest.approx(10 * (epoch + scores) + draw * sample, rel=0.02)
    assert 0.1 < float(re.search(r"([\d.]+) GiB", said["memory"])[1]) < 20


def test_what_is_left_of_a_run(finished_run, tmp_path):
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = in_process("train.py", f"resume={run}", "train.epochs=3", "dry_run=true")
    assert done.returncode == 0 and "4 in the 3 epochs at most that are left from epoch 2 on" in done.stdout
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_missing_data_name_the_command_that_makes_them(tiny_clip, tmp_path):
    done = in_process("train.py", "--config", "config/pascal/esda.yaml", f"model.clip={tiny_clip}", "model.size=64",
                      f"data.root={tmp_path}/none", "model.replace_indices=[1]", "device=cpu", "dry_run=true")
    complains(done, f"{tmp_path}/none", "python -m data.prepare pascal makes it")


def test_a_disk_that_is_too_small_and_a_place_that_is_none(tiny_options, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_lines", lambda trainer: [("steps", "")])  # which take their time
    (tmp_path / "file").write_text("")
    complains(in_process("train.py", "--config", CONFIG, *tiny_options, "dry_run=true", f"exp={tmp_path}/file/exp"),
              f"{tmp_path}/file", "exp=")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    complains(in_process("train.py", "--config", CONFIG, *tiny_options, "dry_run=true"), tmp_path, "GiB", "free")


def test_memory_that_runs_out(tiny_options, monkeypatch):
    def exhausted(trainer):
        raise torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(plan, "_measure_training", exhausted)
    complains(in_process("train.py", "--config", CONFIG, *tiny_options, "dry_run=true"), "memory ran out",
              "train.micro_batch=4")


def test_test_py_plans_nothing(tiny_options):
    complains(in_process("test.py", "--config", CONFIG, *tiny_options, "dry_run=true"), "dry_run=true", "train.py")


@pytest.mark.parametrize("given, said", [(999.4e9, "999 GFLOP"), (999.6e9, "1 TFLOP"), (4.85e17, "485 PFLOP"),
                                         (2e18, "2 EFLOP")])
def test_operations_in_words(given, said):
    assert plan._flop(given) == said

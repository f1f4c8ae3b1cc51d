"""All folds of a data set. Their processes are a stand-in for train.py, which tells how it was started."""
import os
import signal
import sys
import threading
import time

import pytest
from runs import CONFIG, signals_kept

from util.runtime.errors import UserError, run_main
from util.training import folds

STAND_IN = """
import os, shutil, signal, sys, time
from pathlib import Path
options = dict(a.split("=", 1) for a in sys.argv if "=" in a)
fold, exp, stopped = options["fold"], Path(options["exp"]), []
signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
print(fold, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS"), time.monotonic(), flush=True)
(exp / f"started{fold}").touch()
while os.environ.get("WAITS") and not stopped:
    time.sleep(0.01)
if stopped or fold == os.environ.get("FAILS"):
    sys.exit(3)
time.sleep(0.3)
folder = exp / "shapes" / "esda" / f"fold{fold}" / options["run"]
folder.mkdir(parents=True)
shutil.copy(exp / "pascal" / "esda" / f"fold{fold}" / "seed1" / "results.json", folder)
print(time.monotonic())
"""


@pytest.fixture
def run(tmp_path, made, monkeypatch, capfd):
    """run(KEY=VALUE) runs four folds; gives the status, stdout, stderr and the folds that were started."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    made.folds("esda", [50, 51, 52, 53])
    monkeypatch.setattr(sys, "argv", ["folds", str(tmp_path / "stand_in.py"), "--config", CONFIG, f"exp={tmp_path}/exp",
                                      "run=r"])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def run(**environment) -> tuple[int, str, str, list[int]]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with signals_kept(), pytest.raises(SystemExit) as left:
            run_main(folds.main)
        return (left.value.code or 0, *capfd.readouterr(),
                [k for k in range(4) if (tmp_path / f"exp/started{k}").exists()])
    return run


def test_one_after_another_and_their_table(run):
    status, said, error, _ = run()
    assert status == 0 and "| mean" in said, error
    assert [line.split()[:3] for line in said.splitlines() if " None " in line] == [[k, "None", "None"] for k in "0123"]


def test_four_folds_on_two_gpus_end_in_a_table(run, tmp_path):
    status, said, error, _ = run(GPUS="4,cpu")
    assert status == 0 and "| mean" in said, error
    printed = [(tmp_path / f"exp/shapes/esda/fold{k}/r.txt").read_text().split() for k in range(4)]
    assert sorted(words[1] for words in printed if len(words) == 5) == ["4", "4"], "a CPU hides all GPUs"
    times = sorted((float(words[-2]), float(words[-1])) for words in printed)
    assert times[1][0] < times[0][1] and times[2][0] >= min(times[0][1], times[1][1]), "two at once, never three"


@pytest.mark.parametrize("gpus, started", [("", [0, 1]), ("0,1", [0, 1, 2, 3])])
def test_a_fold_that_fails_stops_no_other_gpu(gpus, started, run):
    status, _, error, ran = run(GPUS=gpus, FAILS="1")
    assert status == 2 and error.splitlines()[-1].startswith("error: fold 1 failed") and ran == started


def test_sigterm_reaches_the_folds_under_way_and_starts_no_other(run, tmp_path):
    def end():
        while not all((tmp_path / f"exp/started{k}").exists() for k in (0, 1)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end).start()
    status, _, error, ran = run(GPUS="0,1", WAITS="1")
    assert status == 143 and error.splitlines()[-1].startswith("stopped") and ran == [0, 1]


def test_gpus_of(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(folds.torch.cuda, "device_count", lambda: 0)
    for wrong in "0;1", "auto":
        with pytest.raises(UserError, match="GPUS="):
            folds.gpus_of(wrong)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,MIG-1b/2-c")
    assert folds.gpus_of("auto") == ["5", "MIG-1b/2-c"]

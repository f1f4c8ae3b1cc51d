"""Folds side by side. Their processes are a stand-in for train.py, which tells how it was started."""
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import pytest
from runs import CONFIG, complains, signals_kept

from util.runtime.errors import run_main
from util.training import folds

STAND_IN = """
import os, shutil, signal, sys, time
from pathlib import Path
options = dict(a.split("=", 1) for a in sys.argv if "=" in a)
fold, exp = options["fold"], Path(options["exp"])
folder = exp / "shapes" / "esda" / f"fold{fold}" / options["run"]
folder.mkdir(parents=True)
(folder / "log.txt").write_text(f"12:00:00 run\\n12:00:01 epoch 1/1: loss {fold}\\n  best epoch\\n")
print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"], time.monotonic(), flush=True)
if os.environ.get("WAITS"):
    stopped = []
    signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
    (folder / "ready").touch()
    for _ in range(2000):
        if not stopped: time.sleep(0.01)
    if not stopped: sys.exit("no signal came")
    print("saved", file=sys.stderr)
    sys.exit(130)
if fold == os.environ.get("FAILS"):
    print("error: it went wrong", file=sys.stderr)
    sys.exit(3)
time.sleep(1.0)
shutil.copy(exp / "pascal" / "esda" / f"fold{fold}" / "seed1" / "results.json", folder)
print(time.monotonic())
"""


@pytest.fixture
def side_by_side(tmp_path, made, tiny_options, capfd, monkeypatch):
    """side_by_side("0,1", KEY=VALUE) runs four folds; gives how it ended and [what fold k printed]."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    made.folds("esda", [50, 51, 52, 53])
    for variable in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)

    def run(gpus: str, **environment):
        arguments = ["--gpus", gpus, "--folds", "0 1 2 3", str(tmp_path / "stand_in.py"), "--config", CONFIG,
                     *tiny_options, "run=r"]
        with mock.patch.object(sys, "argv", ["folds", *arguments]), mock.patch.dict(os.environ, environment), \
                signals_kept(), pytest.raises(SystemExit) as left:
            run_main(folds.main)
        said = capfd.readouterr()
        files = [tmp_path / "exp" / "shapes" / "esda" / f"fold{k}" / "r.txt" for k in range(4)]
        return (subprocess.CompletedProcess(arguments, left.value.code or 0, *said),
                [file.read_text().split() if file.is_file() else None for file in files])
    return run


def test_four_folds_on_two_gpus_end_in_a_table(side_by_side):
    done, printed = side_by_side("4,cpu")
    assert done.returncode == 0, done.stderr
    threads = str(max(1, folds.cores() // 2))
    assert sorted(p[0] if len(p) == 4 else "cpu" for p in printed) == ["4", "4", "cpu", "cpu"]
    assert all(p[-3] == threads for p in printed)
    times = sorted((float(p[-2]), float(p[-1])) for p in printed)
    assert times[1][0] < times[0][1] and times[2][0] >= min(times[0][1], times[1][1]), "two at once, never three"
    assert "best epoch" not in done.stdout
    for k in range(4):
        assert f": epoch 1/1: loss {k}\n" in done.stdout and f"fold{k}/r.txt" in done.stdout
    assert [line.split("|")[1:3] for line in done.stdout.splitlines() if line.startswith("| mean")] == [
        [" mean ", " 51.5 "]]


def test_a_fold_that_fails_stops_no_other(side_by_side):
    done, printed = side_by_side("0,1", FAILS="1")
    assert done.returncode == 2 and all(printed)
    assert "fold 1 on GPU 1: ended with status 3 after" in done.stdout and " min: error: it went wrong (" in done.stdout
    assert "| mean of 3 folds of 4 | 51.7" in done.stdout
    assert done.stderr.endswith("error: fold 1 failed, see above; when that is mended, start again\n")


def test_a_fold_that_cannot_start_stops_no_other(side_by_side, tmp_path):
    (tmp_path / "exp" / "shapes" / "esda").mkdir(parents=True)
    (tmp_path / "exp" / "shapes" / "esda" / "fold1").write_text("a file in the way")
    done, printed = side_by_side("0,1")
    assert done.returncode == 2 and "fold 1: " in done.stderr and "cannot be written" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: fold 1 failed") and "mean of 3 folds of 4" in done.stdout
    assert [bool(p) for p in printed] == [True, False, True, True]


def test_ctrl_c_reaches_all_folds_and_starts_no_other(side_by_side, tmp_path):
    def interrupt():
        folders = [tmp_path / "exp" / "shapes" / "esda" / f"fold{k}" / "r" / "ready" for k in (0, 1)]
        while not all(map(Path.is_file, folders)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    done, printed = side_by_side("0,1", WAITS="1")
    assert done.returncode == 130 and done.stderr.endswith("stopped; start again\n")
    assert [p and p[-1] for p in printed] == ["saved", "saved", None, None]


@pytest.mark.parametrize("gpus, named", [("0;1", "GPUS=0;1"), ("", "GPUS="), ("auto", "GPUS=auto: there is no GPU")])
def test_gpus_that_are_none(gpus, named, side_by_side):
    done, printed = side_by_side(gpus, CUDA_VISIBLE_DEVICES="")
    complains(done, named)
    assert printed == [None] * 4


def test_auto_takes_what_cuda_may_see(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,MIG-1b/2-c")
    assert folds.gpus_of("auto") == ["5", "MIG-1b/2-c"]


def test_missing_data_are_told_once(side_by_side, tiny_options):
    tiny_options.append("data.root=/nowhere")
    done, printed = side_by_side("0,1")
    complains(done, "/nowhere: no such folder", "data.shapes.make")
    assert printed == [None] * 4

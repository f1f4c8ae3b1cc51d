"""Runs of the real scripts: started, waited for, and compared."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from util.config import ROOT
from util.run import checkpoint

CONFIG = "config/shapes/esda.yaml"


def run_folder(exp: Path) -> Path:
    return next((exp / "shapes" / "esda" / "fold0").iterdir())


def train(run_script, options, exp, *more) -> Path:
    done = run_script("train.py", "--config", CONFIG, *options, f"exp={exp}", *more)
    assert done.returncode == 0, done.stderr
    return run_folder(exp)


def scores(folder: Path) -> dict:
    results = json.loads((folder / "results.json").read_text())
    return {key: results[key] for key in ("miou", "fb_iou", "per_class", "best_epoch", "last_epoch", "samples",
                                          "name_auc", "absent_name_miou")}


def trained(folder: Path) -> dict:
    return checkpoint.read(folder / "checkpoints/last.pt", "")["model"]


def losses(folder: Path) -> list[str]:
    return [line.split(" ", 1)[1] for line in (folder / "log.txt").read_text().splitlines() if " epoch " in line]


def same(a: Path, b: Path) -> None:
    """Same scores, same losses, same weights bit for bit."""
    assert scores(a) == scores(b)
    assert losses(a) == losses(b)
    one, other = trained(a), trained(b)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def start(options, exp, *more) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "train.py", "--config", CONFIG, *options, f"exp={exp}", *more], cwd=ROOT,
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def wait_for(what, process, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


def in_epoch(exp: Path, epoch: int, step: int) -> bool:
    """Whether a run's last checkpoint is at least at that step."""
    for file in exp.rglob("last.pt"):
        at = torch.load(file, weights_only=True)["at"]
        return (at["epoch"], at["step"]) >= (epoch, step)
    return False

"""slurm/folds.sbatch under a stand-in for srun and scontrol: it goes on with its run, and requeues itself."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from util.config import ROOT

SCRIPT = ROOT / "slurm" / "folds.sbatch"
STAND_IN = f"""#!{sys.executable}
import signal, sys, time
from pathlib import Path
name, here = Path(sys.argv[0]).name, Path(sys.argv[0]).parent
with open(here / "calls", "a") as calls:
    print(name, *sys.argv[1:], file=calls)
if name == "srun" and (here / "endless").exists():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(time.sleep(0.3) or 143))  # the step under way
    (here / "ready").touch()
    time.sleep(60)
sys.exit(int((here / "status").read_text()) if name == "srun" else 0)
"""


@pytest.fixture
def cluster(tmp_path):
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)

    def submit(*arguments) -> subprocess.Popen:
        return subprocess.Popen(["bash", SCRIPT, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env={
            **os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "79", "PYTHON": "python"})
    return submit


CALL = "srun python train.py --config config/{}.yaml fold=2 run=slurm-77 resume=auto"


@pytest.mark.parametrize("dataset, config, status", [("pascal", "pascal/esda", 0), ("coco/plus", "coco/plus", 2)])
def test_it_trains_its_fold_and_ends_as_the_training_does(dataset, config, status, cluster, tmp_path):
    (tmp_path / "status").write_text(str(status))
    task = cluster(dataset, "seed=1")
    task.communicate(timeout=60)
    assert task.returncode == status and (ROOT / "config" / f"{config}.yaml").is_file()
    assert (tmp_path / "calls").read_text() == CALL.format(config) + " seed=1\n"


def test_sigterm_waits_for_the_step_under_way_and_requeues(cluster, tmp_path):
    (tmp_path / "endless").touch()
    task = cluster("pascal")
    while not (tmp_path / "ready").exists():
        assert task.poll() is None
        time.sleep(0.01)
    task.send_signal(signal.SIGTERM)  # to the batch script alone, as --signal=B:TERM sends it
    assert task.communicate(timeout=60)[0] == "saved; back into the queue\n" and task.returncode == 143
    assert (tmp_path / "calls").read_text().splitlines() == [CALL.format("pascal/esda"), "scontrol requeue 77_2"]


def test_what_it_asks_of_slurm():
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", SCRIPT.read_text(), re.MULTILINE))
    assert asked["array"] == "0-3" and asked["signal"].startswith("B:TERM@") and {"requeue", "output"} <= asked.keys()
    assert Path(asked["output"]).name == asked["output"] and asked["open-mode"] == "append"

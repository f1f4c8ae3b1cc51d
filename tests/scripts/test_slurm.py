"""slurm/folds.sbatch under a stand-in for srun and scontrol: it goes on with its run, and requeues itself."""
import os
import signal
import subprocess
import sys
import time

import pytest

from util.config import ROOT

STAND_IN = f"""#!{sys.executable}
import signal, sys, time
from pathlib import Path
name, here = Path(sys.argv[0]).name, Path(sys.argv[0]).parent
print(name, *sys.argv[1:], file=open(here / "calls", "a"), flush=True)
if name == "srun" and (here / "endless").exists():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(time.sleep(0.3) or 143))  # the step under way
    (here / "ready").touch()
    time.sleep(60)
sys.exit(2 if name == "srun" else 0)
"""


@pytest.fixture
def cluster(tmp_path):
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)

    def submit(*arguments) -> subprocess.Popen:
        slurm = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "2"}
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(["bash", ROOT / "slurm/folds.sbatch", *arguments], cwd=tmp_path, text=True,
                                stdout=subprocess.PIPE, env={**os.environ, **slurm, "PATH": path, "PYTHON": "python"})
    return submit


CALL = "srun python train.py --config config/{}.yaml fold=2 run=slurm-77 resume=auto"


def test_it_trains_its_fold_and_ends_as_the_training_does(cluster, tmp_path):
    assert cluster("coco/plus", "seed=1").wait(timeout=60) == 2
    assert (tmp_path / "calls").read_text() == CALL.format("coco/plus") + " seed=1\n"


def test_sigterm_waits_for_the_step_under_way_and_requeues(cluster, tmp_path):
    (tmp_path / "endless").touch()
    task = cluster("pascal")
    while not (tmp_path / "ready").exists():
        assert task.poll() is None
        time.sleep(0.01)
    task.send_signal(signal.SIGTERM)  # to the batch script alone, as --signal=B:TERM sends it
    assert task.communicate(timeout=60)[0] == "saved; back into the queue\n" and task.returncode == 143
    assert (tmp_path / "calls").read_text().splitlines() == [CALL.format("pascal/esda"), "scontrol requeue 77_2"]

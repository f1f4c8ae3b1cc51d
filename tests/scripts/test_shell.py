"""train.sh, test.sh and util/setup.sh: what they start, say and refuse, and the environment that they make."""
import os
import re
import shutil
import subprocess

import pytest

from util.config import ROOT
from util.requirements import lacking


def bash(*command, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", *command], cwd=ROOT, env={**os.environ, **environment}, capture_output=True,
                          text=True)


@pytest.mark.parametrize("command, environment, named", [
    (["train.sh", "pascl"], {}, "config/pascl/esda.yaml: no such file; DATASET is one of: coco/catseg "),
    (["test.sh", "shapes"], {}, "usage"), (["train.sh"], {"GPUS": "3,4"}, "take CUDA_VISIBLE_DEVICES=3 or NPROC"),
    (["train.sh", "pascal", "all"], {"GPUS": "0", "NPROC": "2"}, "GPUS is for all folds"),
    (["train.sh"], {"NNODES": "2"}, "MASTER_ADDR"), (["train.sh"], {"NPROC": "abc"}, "abc"),
    (["train.sh"], {"NNODES": "2", "MASTER_ADDR": "first", "NODE_RANK": "2"}, "NODE_RANK")])
def test_mistakes_are_refused_in_one_line(command, environment, named):
    done = bash(*command, **environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and named in done.stderr


def test_help_says_how_to_call_and_which_configs_there_are():
    done = bash("test.sh", "shapes", "-h")
    assert done.returncode == 0 and done.stderr == "" and "bash test.sh " in done.stdout
    listed = [line.strip() for line in done.stdout.split("DATASET is one of:")[1].splitlines()]
    assert {"shapes", "shapes/notext", "pascal/released", "coco"} <= set(listed) and "shapes/data" not in listed


@pytest.fixture
def called(tmp_path):
    """called("train.sh", ...) gives the calls of python that a script makes, by one that only writes them down."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)

    def run(*command, **environment) -> list[str]:
        done = bash(*command, VIRTUAL_ENV="x", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **environment)
        assert done.returncode == 0, done.stderr
        return [re.sub(r"run=\d{8}-\d{6}", "run=TIME", line) for line in done.stdout.splitlines()
                if not line.startswith("util/requirements.py")]
    return run


TORCHRUN = "-m torch.distributed.run"


@pytest.mark.parametrize("command, environment, calls", [
    (["train.sh"], {}, ["-m data.shapes.make config/shapes/data.yaml",
                        "train.py --config config/shapes/esda.yaml fold=0 run=TIME"]),
    (["train.sh", "coco/plus", "3", "seed=1"], {}, ["train.py --config config/coco/plus.yaml fold=3 run=TIME seed=1"]),
    (["train.sh", "coco", "all", "--dry-run"], {"GPUS": "0,1"},
     ["-m util.training.folds train.py --config config/coco/esda.yaml run=TIME dry_run=true"]),
    (["train.sh", "--dry-run", "seed=1", "resume=exp/x"], {}, ["train.py dry_run=true seed=1 resume=exp/x"]),
    (["train.sh", "coco"], {"NPROC": "4"}, [f"{TORCHRUN} --standalone --local-addr=127.0.0.1 --nproc-per-node=4 "
                                            "train.py --config config/coco/esda.yaml fold=0 run=TIME"]),
    (["train.sh", "resume=x"], {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "first", "NPROC": "4"},
     [f"{TORCHRUN} --nnodes=2 --node-rank=1 --master-addr=first --master-port=29500 --nproc-per-node=4 train.py "
      "resume=x"]),
    (["test.sh", "pascal", "0", "my best.pt", "seed=1"], {},
     ["test.py --config config/pascal/esda.yaml fold=0 run=TIME weights=my best.pt seed=1"])])
def test_what_is_started(command, environment, calls, called):
    assert called(*command, **environment) == calls


def test_the_environment_is_made_once_and_again_when_requirements_change(tmp_path):
    for file in ("util/setup.sh", "requirements.txt", "data/requirements.txt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    maker = tmp_path / "maker"  # a Python that makes environments of itself, and does nothing else
    maker.write_text('#!/bin/sh\necho "$1 $2"\n'
                     'if [ "$2" = venv ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/python; fi\n')
    maker.chmod(0o755)

    def made() -> bool:
        environment = {**os.environ, "VIRTUAL_ENV": "", "CONDA_PREFIX": "", "PYTHON": str(maker)}
        said = subprocess.run(["bash", "-euc", "source util/setup.sh; setup requirements.txt; $python used"],
                              cwd=tmp_path, env=environment, check=True, text=True, capture_output=True).stdout
        assert said.splitlines()[-1] == "used "
        return "-m venv\n-m pip\n" in said

    assert made() and not made()
    (tmp_path / "requirements.txt").write_text("numpy\n")
    assert made()


def test_requirements_are_compared_with_what_is_installed(tmp_path):
    (tmp_path / "more.txt").write_text("nosuch>=1\nnumpy >=1.26,<3   # as the project\n")
    (tmp_path / "all.txt").write_text("-r more.txt\nopencv-python-headless>=4\ntorch>=99\n\n# a comment\n")
    assert lacking(tmp_path / "all.txt") == ["nosuch>=1", "torch>=99"] and not lacking(ROOT / "requirements.txt")

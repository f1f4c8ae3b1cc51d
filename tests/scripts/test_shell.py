"""train.sh, test.sh and util/setup.sh: what they say, refuse, and do with signals; util/requirements.py."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from util.config import ROOT

# As in an active environment, which is this one.
ACTIVE = {"VIRTUAL_ENV": sys.prefix, "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"}


def bash(*command, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", *command], cwd=ROOT, env={**os.environ, **environment}, capture_output=True,
                          text=True)


@pytest.mark.parametrize("command, environment, named", [
    (["train.sh", "nosuch"], {}, "DATASET is one of: coco pascal shapes"), (["train.sh", "pascl"], {}, "mean pascal?"),
    (["train.sh", "pascal/ESDA"], {}, "pascal/released pascal/supervised; did you mean pascal/esda?"),
    (["test.sh", "shapes/notxt", "0"], {}, "did you mean shapes/notext?"),
    (["train.sh", "shapes", "7"], ACTIVE, "fold '7' is none of 0"),
    (["train.sh", "config/shapes/esda.yaml", "0 1"], ACTIVE, "fold '0 1' is none of 0"),
    (["train.sh", "resume=/nowhere", "fold=1"], ACTIVE, "/nowhere/config.yaml: no such file; resume="),
    (["test.sh", "shapes", "last"], ACTIVE, "fold 'last' is none of 0"), (["train.sh"], {"NPROC": "two"}, "NPROC=two"),
    (["test.sh", "shapes", "0"], {"NPROC": "0"}, "NPROC=0"), (["test.sh", "shapes"], {}, "usage"),
    (["train.sh"], {"GPUS": "0", "NPROC": "2"}, "GPUS is for a fold on each GPU and NPROC"),
    (["train.sh", "pascal", "0"], {"GPUS": "3,4", **ACTIVE}, "CUDA_VISIBLE_DEVICES=3 chooses its GPU"),
    (["train.sh"], {"NNODES": "2"}, "MASTER_ADDR"), (["train.sh"], {"NNODES": "x"}, "NNODES=x")])
def test_mistakes_are_refused_in_one_line(command, environment, named):
    done = bash(*command, **environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and named in done.stderr


@pytest.mark.parametrize("command", [["train.sh", "--help"], ["test.sh", "-h"], ["train.sh", "shapes", "0", "-h"]])
def test_help_says_how_to_call_and_which_configs_there_are(command):
    done = bash(*command)
    assert done.returncode == 0 and done.stderr == "" and f"bash {command[0]} " in done.stdout
    listed = [line.strip() for line in done.stdout.split("DATASET is one of:")[1].splitlines()]
    assert {"shapes", "shapes/notext", "pascal/released", "coco"} <= set(listed) and "shapes/data" not in listed


@pytest.mark.parametrize("environment, expected", [
    ({}, ""), ({"NPROC": "2"}, "--standalone --local-addr=127.0.0.1 --nproc-per-node=2"),
    ({"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "first", "NPROC": "4"},
     "--nnodes=2 --node-rank=1 --master-addr=first --master-port=29500 --nproc-per-node=4")])
def test_the_call_of_torchrun(environment, expected):
    done = bash("-c", 'set -euo pipefail; source util/setup.sh; launch_of; echo "${launch[@]+${launch[@]}}"',
                **environment)
    assert done.stdout.split() == ["-m", "util.runtime.torchrun"][:2 * bool(expected)] + expected.split()


@pytest.fixture
def called(tmp_path):
    """called("train.sh", ...) gives the calls of python that a script makes, by one that only writes them down."""
    (tmp_path / "python").write_text('#!/bin/sh\n[ "$2" != data.folds ] || { echo 0 1; exit; }\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)

    def run(*command, **environment) -> list[str]:
        done = bash(*command, VIRTUAL_ENV="x", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **environment)
        assert done.returncode == 0, done.stderr
        return [re.sub(r"run=\d{8}-\d{6}", "run=TIME", line) for line in done.stdout.splitlines()
                if not line.startswith(("util/requirements.py", "-m data.shapes.make"))]
    return run


@pytest.mark.parametrize("command, calls", [
    ([], ["train.py --config config/shapes/esda.yaml fold=0 run=TIME"]),
    (["coco", "all", "seed=1"], [*(f"train.py --config config/coco/esda.yaml fold={k} run=TIME seed=1" for k in (0, 1)),
                                 "-m util.results.table --config config/coco/esda.yaml run=TIME seed=1"]),
    (["--dry-run", "pascal", "all"], [f"train.py --config config/pascal/esda.yaml fold={k} run=TIME dry_run=true"
                                      for k in (0, 1)]),
    (["seed=1", "resume=exp/x", "--dry-run"], ["train.py seed=1 resume=exp/x dry_run=true"]),
    (["resume=auto", "run=x"], ["train.py --config config/shapes/esda.yaml fold=0 run=TIME resume=auto run=x"])])
def test_what_train_sh_starts(command, calls, called):
    assert called("train.sh", *command) == calls


def test_gpus_of_all_folds(called):
    assert called("train.sh", "pascal", "all", "seed=1", GPUS="0,1") == [
        "-m util.training.folds --gpus 0,1 --folds 0 1 train.py --config config/pascal/esda.yaml run=TIME seed=1"]
    assert called("train.sh", "pascal", "all", "--dry-run", GPUS="0,1")[1].startswith("train.py --config")


COUNT = """
import signal, sys, time
seen = []
signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
print("ready", flush=True)
while not seen: time.sleep(0.01)
time.sleep(0.3)  # the work under way
print("saved", flush=True)
sys.exit(143)
"""


@pytest.mark.parametrize("group", [False, True])
def test_sigterm_of_several_folds_waits_for_the_one_under_way(group):
    """To the shell alone, as Docker sends it, and to the whole group, as clusters do."""
    script = 'set -euo pipefail; source util/setup.sh; run "$0" -c "$1"; echo next'
    process = subprocess.Popen(["bash", "-c", script, sys.executable, COUNT], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "saved\n" and process.returncode == 143


def test_status_and_output_of_a_command_pass_through():
    done = bash("-c", "set -euo pipefail; source util/setup.sh; run echo out; run bash -c 'exit 7'; echo no")
    assert done.stdout == "out\n" and done.returncode == 7


def test_requirements_are_compared_with_what_is_installed(tmp_path):
    (tmp_path / "more.txt").write_text("nosuch>=1\nnumpy >=1.26,<3   # as the project\n")
    (tmp_path / "all.txt").write_text("-r more.txt\nopencv-python-headless>=4\ntorch>=99\n\n# a comment\n")
    started = time.monotonic()
    done = subprocess.run([sys.executable, "util/requirements.py", tmp_path / "all.txt"], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 2 and time.monotonic() - started < 20
    assert done.stderr.startswith("error: this environment lacks nosuch>=1, torch>=99 (here ")
    assert subprocess.run([sys.executable, "util/requirements.py", "requirements.txt"], cwd=ROOT).returncode == 0


def test_an_environment_without_anything_is_told_too(tmp_path):
    """No pip, no packaging: -I -S leaves the standard library."""
    done = subprocess.run([sys.executable, "-I", "-S", "util/requirements.py", "requirements.txt"], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 2 and "lacks pip and packaging" in done.stderr and done.stderr.count("\n") == 1

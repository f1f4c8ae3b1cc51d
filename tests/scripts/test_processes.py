"""Several processes: the same numbers as one, one that speaks and writes, and an end for all when one is lost.

Started by torchrun as a script, this file evaluates in each process.
"""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import CONFIG, ENVIRONMENT, EVERY_STEP, events, in_process, results, train, wait_for

from util.config import ROOT, Config, load
from util.evaluation import report
from util.evaluation.experiment import Experiment
from util.run import checkpoint
from util.runtime import distributed

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1",
          "--nproc-per-node=2"]
# With the checkout's packages for scripts in tests/.
EVALUATE = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/tests/helpers"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def options(options_for, tiny_shapes, tmp_path_factory) -> list[str]:
    """A recipe whose predictions are not yet all background, with text noise; tests add exp=."""
    return [*options_for(tiny_shapes, tmp_path_factory.mktemp("unused")), "eval.name_check=true", "run=it",
            "train.text_noise=0.5", "train.optimizer=sgd", "train.lr=0.01"]


def start(*arguments) -> subprocess.Popen:
    """Two processes that train, log and save after each step."""
    return subprocess.Popen([*LAUNCH, "--no-python", *EVERY_STEP, "--config", CONFIG, *arguments], cwd=ROOT,
                            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def folder(exp: Path) -> Path:
    return exp / "shapes/esda/fold0/it"


@pytest.fixture(scope="module")
def alone(options, tmp_path_factory) -> Path:
    return train(options, tmp_path_factory.mktemp("alone"))


def losses(run: Path) -> dict[int, float]:
    """{iteration: loss} as TensorBoard would show it."""
    return {event.step: value.simple_value for file in sorted(run.glob("events/*")) for event in events(file)
            for value in event.summary.value if value.tag == "train/loss"}


def same(run: Path, other: Path) -> None:
    """Same losses and scores but for rounding; everything written is there, once."""
    assert losses(run).keys() == {0, 1, 2, 3} and losses(run) == pytest.approx(losses(other), rel=1e-4)
    one, two = results(run), results(other)
    assert two["miou"] > 1 and one["samples"] == two["samples"] == 29
    assert one["absent_name_samples"] == two["absent_name_samples"] and one["best_epoch"] == two["best_epoch"]
    for key in ("miou", "fb_iou", "absent_name_miou", "per_class"):  # a pixel on the edge may fall either way
        assert one[key] == pytest.approx(two[key], abs=0.1)
    assert one["name_auc"] == pytest.approx(two["name_auc"], abs=1e-4)
    a, b = (checkpoint.load(r / "checkpoints/last.pt") for r in (run, other))
    assert torch.equal(a["rng"], b["rng"]) and a["at"] == b["at"]
    for name, tensor in a["model"].items():
        assert torch.allclose(tensor, b["model"][name], rtol=1e-3, atol=1e-5), name
    assert {p.relative_to(run) for p in run.rglob("*") if p.parent.name != "events"} == \
        {p.relative_to(other) for p in other.rglob("*") if p.parent.name != "events"}


def test_two_processes_train_to_the_numbers_of_one(alone, options, tmp_path):
    """In micro-batches of half a process's part; rank 0 alone speaks and writes."""
    process = start(*options, f"exp={tmp_path}", "train.micro_batch=2")
    output, said = process.communicate(timeout=300)
    assert process.returncode == 0 and "Traceback" not in said, said
    same(folder(tmp_path), alone)
    assert output.count("epoch 1/2") == 1 and "2 processes" in output
    log = (folder(tmp_path) / "log.txt").read_text()
    assert log.count("epoch 1/2") == 1 and len(list(folder(tmp_path).glob("events/*"))) == 1
    assert results(folder(tmp_path))["machine"].startswith("2 processes")


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in descendants(child)]


def test_one_of_two_is_killed_then_both_are_stopped_and_one_goes_on(alone, options, tmp_path):
    """A lost process ends the run, loader processes included. Clusters stop a job by SIGTERM to every process there
    is, which torchrun then passes on once more: nothing is lost.
    """
    more, resume = [*options, f"exp={tmp_path}", "data.workers=1"], f"resume={folder(tmp_path)}"
    process = start(*more)
    wait_for(tmp_path, 0, 1, process)
    os.kill(descendants(process.pid)[1], signal.SIGKILL)        # rank 1
    process.communicate(timeout=60)                             # which ends when all that share the pipes have
    assert process.returncode > 0

    process = start(*more, resume)
    wait_for(tmp_path, 1, 1, process)
    for pid in [*descendants(process.pid), process.pid]:
        os.kill(pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode > 0 and f"stopped; go on with {resume}" in said, said
    same(train(options, tmp_path, resume), alone)


# Evaluation

def scores(options: list[str]) -> list:
    """Several draws; a manifest of one sample, so that rank 1 has nothing; every image once. Each with what is kept."""
    out = []
    for kind, *more in (("naclip", "eval.protocol=episodic", "eval.samples=7", "eval.draws=3"),
                        ("naclip", f"eval.manifest={options[-1]}"), ("plus", "eval.protocol=generalised")):
        cfg = load(Config, f"config/shapes/{kind}.yaml", [*options[:-1], "eval.batch_size=1", *more])
        found, kept, _ = report.test_fold(Experiment(cfg), None)
        out.append([found, [[*sample, float(p.margin.sum())] for sample, p in kept.items()]])
    return json.loads(json.dumps(out))


def test_shared_evaluation_counts_every_sample_once(tiny_options, tmp_path, monkeypatch):
    options = [*tiny_options, "eval.name_check=true"]
    listed = in_process("data.samples", "--config", CONFIG, *options, "eval.protocol=episodic", "eval.samples=1")
    assert listed.returncode == 0, listed.stderr
    manifest = tmp_path / "one.txt"
    manifest.write_text(listed.stdout)
    arguments = [*options, str(manifest)]
    done = subprocess.run([*LAUNCH, __file__, *arguments], cwd=ROOT, env=EVALUATE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each of the two: a sum's rounding depends on it
    monkeypatch.chdir(ROOT)
    try:
        expected = scores(arguments)
    finally:
        torch.set_num_threads(threads)
    assert json.loads(done.stdout) == expected  # bit for bit
    assert [found["samples"] for found, _ in expected] == [7, 1, 40] and len(expected[0][1]) > 1


if __name__ == "__main__":
    found = scores(sys.argv[1:])
    if not distributed.rank():
        print(json.dumps(found))
    distributed.close()

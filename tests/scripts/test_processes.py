"""Several processes: the same numbers as one, one that speaks and writes, and an end for all when one is lost.

Started by torchrun as a script, this file evaluates in each process.
"""
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import CONFIG, ENVIRONMENT, events, in_epoch, in_process, train, wait_for

from data.dataset import TrainBatches
from data.fold import FoldData
from model.build import build_model, embed_names
from util.config import ROOT, Config, load
from util.evaluation.experiment import Experiment
from util.results.final import _test_generalised, _test_names
from util.run import checkpoint
from util.runtime.device import make_deterministic
from util.runtime.errors import UserError
from util.runtime.processes import SINGLE_PROCESS, Processes

LAUNCH = [sys.executable, "-m", "util.runtime.torchrun", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
# With the checkout's packages for scripts in tests/.
EVALUATE = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/tests/helpers"}
TRAIN = ["train.py", "--config", CONFIG]


@pytest.fixture(scope="module")
def options(options_for, tiny_shapes, tmp_path_factory) -> list[str]:
    """A recipe whose predictions are not yet all background, with dropout and text noise; tests add exp= and run=."""
    return [*options_for(tiny_shapes, tmp_path_factory.mktemp("unused")), "eval.name_check=true", "model.dropout=0.3",
            "train.text_noise=0.5", "train.optimizer=sgd", "train.lr=0.01"]


@pytest.fixture(scope="module")
def start():
    """start(command, options, exp) starts a run that is named "it" in ``exp``."""
    started = []

    def start(command, options, exp, *more) -> subprocess.Popen:
        started.append(subprocess.Popen([*command, *options, f"exp={exp}", "run=it", *more], cwd=ROOT, env=ENVIRONMENT,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.terminate()  # where a test has failed


def folder(exp: Path) -> Path:
    return exp / "shapes/esda/fold0/it"


@pytest.fixture(scope="module")
def alone(options, tmp_path_factory) -> Path:
    return train(options, tmp_path_factory.mktemp("alone"), "run=it")


def losses(run: Path) -> dict[int, float]:
    """{iteration: loss} as TensorBoard would show it."""
    return {event.step: value.simple_value for file in sorted(run.glob("events.out.*")) for event in events(file)
            for value in event.summary.value if value.tag == "train/loss"}


def same(run: Path, other: Path) -> None:
    """Same losses and scores but for rounding; everything written is there, once."""
    assert losses(run).keys() == {0, 1, 2, 3} and losses(run) == pytest.approx(losses(other), rel=1e-4)
    one, two = (json.loads((r / "results.json").read_text()) for r in (run, other))
    assert two["miou"] > 1 and one["samples"] == two["samples"] == 29
    assert one["absent_name_samples"] == two["absent_name_samples"] and one["best_epoch"] == two["best_epoch"]
    for key in ("miou", "fb_iou", "absent_name_miou", "per_class"):  # a pixel on the edge may fall either way
        assert one[key] == pytest.approx(two[key], abs=0.1)
    assert one["name_auc"] == pytest.approx(two["name_auc"], abs=1e-4)
    assert one["name_auc_samples"] == two["name_auc_samples"] and list(one["pictures"]) == list(two["pictures"])
    a, b = (checkpoint.read(r / "checkpoints/last.pt", "") for r in (run, other))
    assert torch.equal(a["rng"], b["rng"]) and a["at"] == b["at"]
    for name, tensor in a["model"].items():
        assert torch.allclose(tensor, b["model"][name], rtol=1e-3, atol=1e-5), name
    assert {p.relative_to(run) for p in run.rglob("*") if not p.name.startswith("events.out.")} == \
        {p.relative_to(other) for p in other.rglob("*") if not p.name.startswith("events.out.")}


def test_two_processes_train_to_the_numbers_of_one(alone, start, options, tmp_path):
    """In micro-batches of half a process's part; rank 0 alone speaks and writes."""
    process = start([*LAUNCH, *TRAIN], options, tmp_path, "train.micro_batch=2")
    output, said = process.communicate(timeout=600)
    assert process.returncode == 0 and "Traceback" not in said, said
    same(folder(tmp_path), alone)
    assert output.count("epoch 1/2") == 1 and "2 processes" in output
    log = (folder(tmp_path) / "log.txt").read_text()
    assert log.count("epoch 1/2") == 1 and len(list(folder(tmp_path).glob("events.out.*"))) == 1
    assert json.loads((folder(tmp_path) / "results.json").read_text())["machine"].startswith("2 processes")


def descendants(pid: int, deep: bool = True) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in descendants(child)] if deep else children


def test_one_is_killed_two_go_on_to_one_s_loss_and_to_a_stop_and_one_goes_on(alone, start, options, tmp_path):
    """Of two, a lost process ends the run with its reason, loader processes included; and clusters stop a job by
    SIGTERM to every process there is, which torchrun then passes on once more. Nothing is lost.
    """
    more, resume = ["train.checkpoint_minutes=0", "data.workers=1"], f"resume={folder(tmp_path)}"
    process = start([sys.executable, *TRAIN], options, tmp_path, *more)
    wait_for(lambda: in_epoch(tmp_path, 0, 1), process)
    process.kill()
    process.communicate()

    process = start([*LAUNCH, *TRAIN], options, tmp_path, *more, resume)
    wait_for(lambda: in_epoch(tmp_path, 0, 2), process)
    first, second = descendants(process.pid, deep=False)
    os.kill(second, signal.SIGKILL)
    said = process.communicate(timeout=60)[1]  # which ends when all that share the pipes have
    assert process.returncode == 137 and not Path(f"/proc/{first}").exists(), said
    line, = [line for line in said.splitlines() if line and not line.startswith(("indexed ", "epoch "))]
    assert line.startswith("error: rank 1 was killed by SIGKILL, as the kernel does") and "resume=" in line

    process = start([*LAUNCH, *TRAIN], options, tmp_path, *more, resume)
    wait_for(lambda: in_epoch(tmp_path, 1, 1), process)
    for pid in [*descendants(process.pid), process.pid]:
        os.kill(pid, signal.SIGTERM)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 143 and "Traceback" not in said, said
    line, = [line for line in said.splitlines() if "stopped" in line]
    assert line == f"stopped; go on with {resume}"
    same(train(options, tmp_path, "run=it", resume), alone)


# Evaluation

def scores(options: list[str], processes: Processes) -> list:
    """Several draws; a manifest of one sample, so that rank 1 has nothing; every image once. Each with what is kept."""
    out, named = [], partial(_test_names, threshold=None)
    for test, *more in ((named, "eval.protocol=episodic", "eval.samples=7", "eval.draws=3"),
                        (named, f"eval.manifest={options[-1]}"),
                        (_test_generalised, "eval.protocol=generalised", "eval.images=5")):
        cfg = load(Config, CONFIG, [*options[:-1], "eval.batch_size=1", *more])
        make_deterministic(cfg.seed)
        data = FoldData(cfg, processes)
        model, _ = build_model(cfg.model)
        text = embed_names(model.text_encoder, data.classes.names, cfg.model)
        experiment = SimpleNamespace(cfg=cfg, data=data, model=model, text=text, device=torch.device("cpu"),
                                     autocast=torch.inference_mode())  # an Experiment would join the processes again
        experiment.predictor = partial(Experiment.predictor, experiment)
        found, kept, _ = test(experiment)
        out.append([found, [[*sample, float(p.evidence.sum())] for sample, p in kept.items()]])
    return json.loads(json.dumps(out))


def test_shared_evaluation_counts_every_sample_once(options, tmp_path):
    listed = in_process("data.samples", "--config", CONFIG, *options, "eval.protocol=episodic", "eval.samples=1")
    assert listed.returncode == 0, listed.stderr
    manifest = tmp_path / "one.txt"
    manifest.write_text(listed.stdout)
    arguments = [*options, str(manifest)]
    done = subprocess.run([*LAUNCH, __file__, *arguments], cwd=ROOT, env=EVALUATE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each of the two: a sum's rounding depends on it
    try:
        expected = scores(arguments, SINGLE_PROCESS)
    finally:
        torch.set_num_threads(threads)
    assert json.loads(done.stdout) == expected  # bit for bit
    assert [found["samples"] for found, _ in expected] == [7, 1, 5] and len(expected[0][1]) == 2


def test_shares_hold_every_item_once_and_in_order(monkeypatch):
    items, count = list("abcdefg"), 3
    parts = [Processes(rank, count).share(items) for rank in range(count)]
    assert sorted(sum(parts, [])) == items
    processes = Processes(0, count)
    monkeypatch.setattr(processes, "gather", lambda part: parts)
    assert processes.whole(parts[0]) == items


def test_parts_of_batches_make_the_batch():
    whole = list(TrainBatches(10, 6, 24, seed=1))
    parts = [list(TrainBatches(10, 6, 24, 1, rank, 3)) for rank in range(3)]
    assert len(whole) == 4 and [sum(together, []) for together in zip(*parts, strict=True)] == whole
    with pytest.raises(UserError, match="batch_size=2.*3 processes; take 3"):
        TrainBatches(10, 2, 24, 1, 0, 3)


if __name__ == "__main__":
    together = Processes.join(torch.device("cpu"))
    found = scores(sys.argv[1:], together)
    print(json.dumps(found))
    together.close()

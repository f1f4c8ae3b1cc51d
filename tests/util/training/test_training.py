"""Training that diverges stops at once; Muon against torch's; the dry run writes nothing."""
import math
import re
import shutil

import pytest
import torch
from runs import CONFIG, in_process

import train
from util.config import Config, load
from util.runtime.errors import UserError
from util.training import plan
from util.training.optim import Muon

# Divergence

@pytest.fixture
def trainer(tiny_options):
    made = train.Trainer(load(Config, CONFIG, [*tiny_options, "train.text_noise=0"]))
    yield made
    made.run.close()


def test_the_first_step_that_is_not_finite_ends_the_run(trainer, monkeypatch):
    step = trainer.optimizer.step

    def spoil():
        step()
        with torch.no_grad():
            trainer.model.decoder.cls[3].bias[0] = math.nan
    monkeypatch.setattr(trainer.optimizer, "step", spoil)
    with pytest.raises(UserError, match="^epoch 1, step 2 of 2: .*main is nan.*gradient is nan.*train.lr"):
        trainer.fit()
    last, = trainer.run.checkpoints.iterdir()
    assert torch.load(last, weights_only=True)["at"]["step"] == 0, "the checkpoint before is still there"


def test_a_gradient_that_is_not_finite_changes_no_weight(trainer):
    trainer.model.decoder.cls[3].weight.register_hook(lambda gradient: gradient * math.inf)
    before = {name: tensor.clone() for name, tensor in trainer.model.trainable_state().items()}
    with pytest.raises(UserError, match="^epoch 1, step 1 of 2: gradient is "):
        trainer.fit()
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.trainable_state().items())


# Muon

SHAPES = [(24, 8), (8, 8), (8, 24)]


def test_a_step_is_that_of_torch_but_for_the_digits_of_bf16():
    generator = torch.manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES]
    gradients = [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(3)]

    def after(kind):
        parameters = [torch.nn.Parameter(p.clone()) for p in start]
        optimizer = kind(parameters, lr=0.1, weight_decay=0.1)
        for step in gradients:
            for parameter, gradient in zip(parameters, step):
                parameter.grad = gradient.clone()
            optimizer.step()
        return parameters, optimizer.state_dict()

    (ours, state), (theirs, reference) = after(Muon), after(torch.optim.Muon)
    for new, torchs, old in zip(ours, theirs, start):
        assert (new - torchs).norm() < 0.02 * (torchs - old).norm()
    assert state["param_groups"] == reference["param_groups"]  # a checkpoint of torch's is one of ours
    assert state["state"].keys() == reference["state"].keys()
    for place, kept in state["state"].items():
        torch.testing.assert_close(kept["momentum_buffer"], reference["state"][place]["momentum_buffer"])


# The dry run

@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(plan, "TRAINING", 0.0)
    monkeypatch.setattr(plan, "TESTING", 0.0)


def test_a_dry_run_counts_predicts_and_writes_nothing(short, tiny_options, tmp_path):
    done = in_process("train.py", "--config", CONFIG, *tiny_options, "dry_run=true", "train.epochs=10")
    assert done.returncode == 0, done.stderr
    said = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert list(said) == ["plan", "device", "weights", "data", "steps", "operations", "memory", "time", "disk"]
    assert not (tmp_path / "exp").exists() and "2 an epoch, of 8 images; 20 at most" in said["steps"]
    draw, seen = map(int, re.findall(r"(\d+) (?:test|of seen)", said["data"]))
    each, sample = map(float, re.findall(r"([\d.e-]+) s a (?:step|test)", said["time"]))
    everything = re.search(r"at most ([\d.]+) s in all", said["time"])[1]
    assert float(everything) == pytest.approx(20 * each + 10 * (draw + seen) * sample + draw * sample, rel=0.05)


def test_a_dry_run_of_what_is_left_of_a_run(short, finished_run, tmp_path):
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = in_process("train.py", f"resume={run}", "train.epochs=3", "dry_run=true")
    assert done.returncode == 0 and "; 4 at most" in done.stdout, done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

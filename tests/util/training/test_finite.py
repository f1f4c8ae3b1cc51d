"""Training that diverges stops at the first step that is not finite, and leaves what is on the disk as it was."""
import contextlib
import math
import re

import pytest
import torch
from runs import signals_kept

from model.checkpoints import FullCheckpoint, full_checkpoint, safetensors_content
from model.clip.errors import WeightsError
from util.config import ROOT, Config, load
from util.run import checkpoint
from util.runtime.errors import UserError
from util.runtime.stop import StopRequest
from util.training import loop
from util.training.trainer import Trainer


@pytest.fixture
def trainer(tiny_options):
    """trainer(*overrides) -> a Trainer of two steps an epoch on the tiny set."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals_kept())

        def make(*overrides) -> Trainer:
            made = Trainer(load(Config, ROOT / "config/shapes/esda.yaml", [*tiny_options, *overrides]), StopRequest())
            stack.callback(made.run.close)
            return made
        yield make


def stopped(trainer: Trainer) -> str:
    with pytest.raises(UserError) as caught:
        trainer.fit()
    return str(caught.value)


def spoil(parameter: torch.Tensor, value: float) -> None:
    with torch.no_grad():
        parameter.view(-1)[0] = value


@pytest.mark.parametrize("name, terms", [
    ("decoder.cls.3.bias", {"loss", "main", "gradient"}),
    ("image_encoder.text_proj.bias", {"loss", "main", "last", "others", "gradient"})])
def test_the_first_step_that_is_not_finite_ends_the_run(name, terms, trainer, monkeypatch):
    run, last = trainer("train.text_noise=0"), []
    step, parameter = run.optimizer.step, run.model.get_parameter(name)
    monkeypatch.setattr(run.optimizer, "step", lambda: (step(), spoil(parameter, math.nan)))
    save = run.save
    monkeypatch.setattr(run, "save", lambda: (save(), last.append((run.run.checkpoints / "last.pt").read_bytes())))
    message = stopped(run)
    assert message.startswith("epoch 1, step 2 of 2: ") and "train.lr" in message and "\n" not in message
    assert set(re.findall(r"(\w+) is nan", message)) == terms
    assert len(last) == 1 and (run.run.checkpoints / "last.pt").read_bytes() == last[0]
    assert [path.name for path in run.run.checkpoints.iterdir()] == ["last.pt"]


def test_a_gradient_that_is_not_finite_changes_no_weight(trainer):
    run = trainer()
    run.model.decoder.cls[3].weight.register_hook(lambda gradient: gradient * math.inf)
    before = {name: tensor.clone() for name, tensor in run.model.trainable_state().items()}
    assert stopped(run).startswith("epoch 1, step 1 of 2: gradient is ")
    assert all(torch.equal(before[name], tensor) for name, tensor in run.model.trainable_state().items())


def test_weights_that_are_not_finite_are_never_saved(trainer, monkeypatch):
    """After the last step of an epoch there is no loss that would tell."""
    run = trainer("train.epochs=1")
    step, seen = run.optimizer.step, []

    def spoiling():
        step()
        seen.append(1)
        if len(seen) == 2:
            spoil(run.model.decoder.cls[0].weight, math.inf)

    monkeypatch.setattr(run.optimizer, "step", spoiling)
    assert stopped(run).startswith("epoch 1, step 2 of 2: decoder.cls.0.weight is inf; ")
    assert checkpoint.read(run.run.checkpoints / "last.pt", "")["at"]["step"] == 0


def test_a_score_that_is_no_number_never_becomes_best(trainer, monkeypatch):
    run, scores = trainer("train.epochs=3"), iter([math.nan, 3.0, math.nan])
    monkeypatch.setattr(run, "train_epoch", lambda: run.at.sums.update(loss=1.0))
    monkeypatch.setattr(run, "evaluate_epoch", lambda: {"epoch": run.at.epoch + 1, "miou": next(scores),
                                                        "seen_miou": math.nan, "fb_iou": 0.0})
    run.fit()
    assert run.best["unseen"]["epoch"] == 2 and run.best["seen"] is None
    assert checkpoint.read(run.run.checkpoints / "best.pt", "")["epoch"] == 0  # of weights that no step changed
    assert not (run.run.checkpoints / "best_seen.pt").exists()
    run.cfg.train.select = "seen"
    with pytest.raises(UserError, match="no epoch has a score for train.select=seen"):
        run.finish()


def test_files_that_carry_clip_are_checked_too(trainer, tmp_path):
    run = trainer()
    state = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    spoil(state["text_encoder.ln_final.bias"], math.nan)
    tensors, metadata = safetensors_content(FullCheckpoint(state, 0, None), "made")
    with pytest.raises(WeightsError, match="f.safetensors: holds NaN or infinity: text_encoder.ln_final.bias"):
        full_checkpoint({"tensors": tensors, "metadata": metadata}, "f.safetensors")
    with pytest.raises(WeightsError, match="f.pth: holds NaN or infinity"):
        full_checkpoint({"state_dict": state, "epoch": 1}, "f.pth")


def test_what_is_finite_passes():
    loop.require_finite({"loss": 1e38, "gradient": 0.0}, 0, 0, 1)

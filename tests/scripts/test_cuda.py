"""What the CPU computes, a GPU computes too, with the miniature CLIP. CUDA_TESTS_ON=cpu runs all of it on the CPU
instead, which tells nothing of a GPU but shows that the tests themselves run.
"""
import math
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import in_epoch, losses, run_folder, start, train, wait_for

from util.benchmark.work import Variant, draw, read_or_make
from util.config import ROOT, Config, load

CPU, DEVICE = torch.device("cpu"), torch.device(os.environ.get("CUDA_TESTS_ON", "cuda"))
pytestmark = pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(),
                                reason="needs a CUDA GPU, and torch sees none")
COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@pytest.fixture
def made(tiny_clip, tmp_path):
    """made(device, key=value ..., mode=...): a model, the same on every device. Its branches speak, it finds a name in
    half of an image, and it has no dropout, whose random numbers differ between devices.
    """
    def made(device: torch.device, *options: str, mode: str = "fp32") -> Variant:
        cfg = load(Config, ROOT / "config/shapes/esda.yaml", [
            f"model.clip={tiny_clip}", "model.size=64", "model.dropout=0", "train.warmup=0", "train.optimizer=sgd",
            "train.lr=0.1", "eval.presence=0.001", *options])
        cfg = draw(cfg, Path(tempfile.mkdtemp(dir=tmp_path)) / "set")
        variant, speaks = Variant(cfg, read_or_make(cfg.model.clip), device, mode), torch.Generator().manual_seed(0)
        with torch.no_grad(), variant.autocast:
            for branch in variant.model.image_encoder.branches.values():
                branch.up.copy_(0.05 * torch.randn(branch.up.shape, generator=speaks))
            image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=speaks).to(device)
            logits = variant.model.eval()(image, variant.text[torch.tensor([0], device=device)]).logits
            variant.model.decoder.cls[3].bias[1] -= (logits[:, 1] - logits[:, 0]).median()
        return variant
    return made


def two_steps(variant: Variant) -> list[list[float]]:
    """The losses of each of two steps of training on one batch."""
    step = variant.work("train", 4)
    return [list(done["losses"].values()) for _ in range(2) for done in step()]


def alike(here: list[list[float]], there: list[list[float]]) -> None:
    """The second step's losses tell of the weights that the first one left, for these change the loss by far more than
    the two may differ.
    """
    assert all(math.isfinite(loss) for step in here for loss in step)
    assert here[0] == pytest.approx(there[0], rel=1e-4)
    assert abs(there[1][0] / there[0][0] - 1) > 0.02
    assert here[1] == pytest.approx(there[1], rel=5e-3)


@pytest.mark.parametrize("options", [["train.optimizer=sgd"], ["train.optimizer=adamw", "train.lr=0.001"],
                                     ["train.optimizer=muon", "train.lr=0.001", "train.muon_lr=0.005"]])
def test_training_has_the_cpus_losses(made, options):
    alike(two_steps(made(DEVICE, *options)), two_steps(made(CPU, *options)))


@COMPILER
def test_compiled_training_has_the_same_losses(made):
    try:
        alike(two_steps(made(DEVICE, "compile=true")), two_steps(made(DEVICE)))
    finally:
        torch._dynamo.reset()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frozen_weights_stay_and_all_others_learn(made, precision):
    variant = made(DEVICE, mode=precision)
    step, before = variant.work("train", 4), {name: p.detach().clone() for name, p in variant.model.named_parameters()}
    assert all(math.isfinite(done["losses"]["loss"]) for _ in range(2) for done in step())
    for name, p in variant.model.named_parameters():
        assert p.device.type == DEVICE.type and torch.equal(p, before[name]) != p.requires_grad, name


def test_evaluation_has_the_cpus_scores(made):
    here, there = (made(device).work("eval", 4)() for device in (DEVICE, CPU))
    for score in ("miou", "fb_iou"):
        assert here[score] == pytest.approx(there[score], abs=0.1) and there[score] > 1
    assert here["per_class"] == pytest.approx(there["per_class"], abs=0.1) and here["samples"] == 4


@pytest.mark.parametrize("chunk", [0, 2])
def test_generalised_labels_are_the_cpus(made, chunk):
    (here,), (there,) = (made(device, f"eval.chunk={chunk}").work("generalised", 3)() for device in (DEVICE, CPU))
    assert here.shape == there.shape and np.mean(here != there) < 1e-3 and len(np.unique(there)) > 1


def test_a_stopped_run_goes_on_as_if_it_had_not_been(run_script, tiny_options, tmp_path):
    """Fused attention's gradient may round differently in every run on a GPU; losses are printed to four places."""
    options = [*tiny_options, f"device={DEVICE}", "data.workers=1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(options, whole, run=run_script)
    process = start(options, stopped, "train.checkpoint_minutes=0")
    wait_for(lambda: in_epoch(stopped, 0, 1), process)
    process.send_signal(signal.SIGTERM)
    said, folder = process.communicate()[1], run_folder(stopped)
    assert "resume=" in said and not (folder / "results.json").exists(), said
    train(options, stopped, f"resume={folder}", run=run_script)
    one, other = ([float(loss) for line in losses(run_folder(exp)) for loss in re.findall(r"(?:loss|mask|block|others) "
                  r"([\d.]+)", line)] for exp in (whole, stopped))
    assert len(one) == 8 and other == pytest.approx(one, abs=5e-4)

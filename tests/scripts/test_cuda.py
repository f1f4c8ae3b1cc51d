"""What the CPU computes, a GPU computes too, with the miniature CLIP. CUDA_TESTS_ON=cpu runs all of it on the CPU
instead, which tells nothing of a GPU but shows that the tests themselves run.
"""
import math
import os

import numpy as np
import pytest
import torch
from predicting import drawn_variant

from model import mask_decoder
from util.benchmark import Variant

CPU, DEVICE = torch.device("cpu"), torch.device(os.environ.get("CUDA_TESTS_ON", "cuda"))
pytestmark = pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(),
                                reason="needs a CUDA GPU, and torch sees none")


@pytest.fixture
def made(tiny_clip, tmp_path, monkeypatch):
    """made(device, key=value ..., mode=...): a model, the same on every device, without dropout, which is not."""
    monkeypatch.setattr(mask_decoder, "DROPOUT", 0.0)
    return lambda device, *options, mode="fp32": drawn_variant(
        tiny_clip, tmp_path, "train.warmup=0", "train.lr=0.1", f"device={device}", *options, mode=mode)


def two_steps(variant: Variant) -> list[list[float]]:
    """The losses of each of two steps of training on one batch."""
    step = variant.work("train", 4)
    return [list(done["losses"].values()) for _ in range(2) for done in step()]


def alike(here: list[list[float]], there: list[list[float]]) -> None:
    """The second step's losses tell of the weights that the first one left."""
    assert all(math.isfinite(loss) for step in here for loss in step)
    assert here[0] == pytest.approx(there[0], rel=1e-4)
    assert abs(there[1][0] / there[0][0] - 1) > 0.02
    assert here[1] == pytest.approx(there[1], rel=5e-3)


@pytest.mark.parametrize("options", [["train.optimizer=sgd"], ["train.optimizer=adamw", "train.lr=0.001"],
                                     ["train.optimizer=muon", "train.lr=0.001", "train.muon_lr=0.005"]])
def test_training_has_the_cpus_losses(made, options):
    alike(two_steps(made(DEVICE, *options)), two_steps(made(CPU, *options)))


def test_evaluation_has_the_cpus_scores_and_labels(made):
    found = []
    for variant in map(made, (DEVICE, CPU)):
        found.append(variant.work("eval", 4)())
        for parameter in variant.model.decoder.cls[3].parameters():
            parameter.data *= 30        # margins beyond what CLIP takes off each name
        found += variant.work("generalised", 3)()
    here, labels, there, cpus = found
    assert here["miou"] == pytest.approx(there["miou"], abs=0.1) and there["miou"] > 1
    assert here["per_class"] == pytest.approx(there["per_class"], abs=0.1) and here["samples"] == 4
    assert labels.shape == cpus.shape and np.mean(labels != cpus) < 1e-3 and len(np.unique(cpus)) > 1

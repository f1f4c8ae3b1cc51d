"""util/run/checkpoint.py: a run's checkpoint, its trained tensors alone as safetensors, and what is neither."""
import json
import os
from pathlib import Path

import pytest
import torch
from runs import complains, in_process, run_folder

from model.build import build_model
from model.clip.weights import read_clip
from util.config import ROOT, Config, load, to_dict
from util.run import checkpoint
from util.run.origin import origin_of
from util.runtime.errors import UserError


@pytest.fixture(scope="module", params=["esda", "plus"])
def run(request, options_for, tiny_shapes, tmp_path_factory):
    """(config, a best.pt as train.py would write it before its first step, what is in it)."""
    folder = tmp_path_factory.mktemp(request.param)
    cfg = load(Config, ROOT / f"config/shapes/{request.param}.yaml", options_for(tiny_shapes, folder / "exp"))
    model = build_model(cfg)
    if request.param == "plus":
        model.set_rivals(torch.randn(5, 12))
    saved = {"model": model.trainable_state(), "clip": read_clip(cfg.model.clip).fingerprint, "epoch": 3,
             "config": to_dict(cfg), "trained_on": origin_of(cfg)}
    checkpoint.save(folder / "best.pt", saved)
    return cfg, folder / "best.pt", saved


def converted(source, out, *options) -> dict:
    done = in_process("convert.py", *options, source, out)
    assert done.returncode == 0, done.stderr
    return checkpoint.load(out)


def test_all_of_it_comes_back_from_either_form(run, tmp_path):
    """What it does not hold, here a threshold of presence, is None. --half leaves rivals as they are."""
    _, source, saved = run
    for found in (checkpoint.load(source), converted(source, tmp_path / "whole.safetensors")):
        assert {k: v for k, v in found.items() if k != "model"} == {
            "version": checkpoint.VERSION, "presence_threshold": None,
            **{k: v for k, v in saved.items() if k != "model"}}
        assert found["model"].keys() == saved["model"].keys()
        assert all(torch.equal(found["model"][name], tensor) for name, tensor in saved["model"].items())
    converted(source, tmp_path / "half.safetensors", "--half")
    half = converted(tmp_path / "half.safetensors", tmp_path / "again.safetensors", "--half")["model"]
    assert all(torch.equal(half[k], t if k == "rivals" else t.half()) for k, t in saved["model"].items())
    sizes = [(tmp_path / name).stat().st_size for name in ("whole.safetensors", "half.safetensors")]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize("version, threshold", [(1, None), (checkpoint.VERSION, 2.5)])
def test_a_threshold_of_another_presence_is_left_out(version, threshold, tmp_path):
    torch.save({"version": version, "model": {}, "presence_threshold": 2.5}, tmp_path / "last.pt")
    assert checkpoint.load(tmp_path / "last.pt")["presence_threshold"] == threshold


def test_it_restores_into_its_model_and_into_no_other(run):
    cfg, _, saved = run
    model = build_model(cfg)
    with torch.no_grad():
        for parameter in model.interactor.parameters():
            parameter.zero_()
    checkpoint.restore(model, saved, "best.pt", saved["clip"])
    assert all(torch.equal(tensor, saved["model"][name]) for name, tensor in model.trainable_state().items())
    with pytest.raises(UserError, match=f"best.pt: .*other CLIP weights.*{cfg.model.clip}"):
        checkpoint.restore(model, saved, "best.pt", "another")
    free = build_model(load(Config, ROOT / "config/shapes/naclip.yaml", [f"model.clip={cfg.model.clip}"]))
    with pytest.raises(UserError, match="best.pt: "):
        checkpoint.restore(free, {**saved, "model": {}}, "best.pt", saved["clip"])
    *_, last = saved["model"]
    for changed, named in (({last: torch.zeros(9)}, f"of another shape: {last}"),
                           ({"more": torch.zeros(1)}, "superfluous: more"), ({last: None}, f"missing: {last}")):
        tensors = {name: tensor for name, tensor in {**saved["model"], **changed}.items() if tensor is not None}
        with pytest.raises(UserError, match=f"best.pt: of another architecture .*{named}"):
            checkpoint.restore(model, {**saved, "model": tensors}, "best.pt", saved["clip"])


class Trap:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("name, content", [
    ("a.pt", b"best.pt was the good one"), ("a.pt", [1, 2]), ("a.pt", {"state_dict": 3, "epoch": 1}),
    ("a.pt", {"version": 99, "model": {}}), ("a.pt", {"model": {}}), ("a.safetensors", b"cut off"),
    ("a.safetensors", {"model": 1}), ("a.pt", {"version": 1, "model": Trap()})])
def test_a_file_of_another_kind_or_version_is_told_and_runs_no_code(name, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content) if isinstance(content, bytes) else torch.save(content, name)
    with pytest.raises(UserError, match=f"{name}: not a checkpoint.*best.pt of a run"):
        checkpoint.load(name)
    assert not Path("sprung").exists()


@pytest.mark.slow
def test_its_test_is_that_of_the_checkpoint(finished_run, tmp_path):
    folder, options = finished_run
    complains(in_process("convert.py", folder / "checkpoints/last.pt", tmp_path / "mine.pt"), "mine.pt", ".safetensors")
    converted(folder / "checkpoints/last.pt", tmp_path / "mine.safetensors")
    done = in_process("test.py", "--config", "config/shapes/esda.yaml", *options, f"exp={tmp_path}",
                      f"weights={tmp_path / 'mine.safetensors'}")
    assert done.returncode == 0 and "zero-shot on" not in done.stderr, done.stderr
    here, there = (json.loads((run / "results.json").read_text()) for run in (run_folder(tmp_path), folder))
    for key in ("miou", "fb_iou", "per_class", "trained_on", "clip_fingerprint"):
        assert here[key] == there[key]

"""Trained tensors alone, as safetensors: what convert.py --trained-only writes, and who reads it."""
import json

import pytest
import torch
from runs import complains, in_process, run_folder

import convert
from model.build import build_model
from util.config import ROOT, Config, load, to_dict
from util.results.origin import origin_of
from util.run import checkpoint
from util.run.trained import threshold_in
from util.run.weights import read_weights
from util.runtime.errors import UserError


@pytest.fixture(scope="module", params=["esda", "plus"])
def run(request, options_for, tiny_shapes, tmp_path_factory):
    """(kind, options, a best.pt as train.py would write it before its first step)."""
    folder = tmp_path_factory.mktemp(request.param)
    cfg = load(Config, ROOT / f"config/shapes/{request.param}.yaml", options_for(tiny_shapes, folder / "exp"))
    model, clip = build_model(cfg.model)
    saved = {"model": model.trainable_state(), "clip": clip.fingerprint, "epoch": 3, "config": to_dict(cfg),
             "trained_on": origin_of(cfg), "presence_threshold": 1.25}
    checkpoint.write_atomically(folder / "best.pt", saved)
    return cfg, folder / "best.pt", saved


def converted(source, out, *options):
    done = in_process("convert.py", "--trained-only", *options, source, out)
    assert done.returncode == 0, done.stderr
    return read_weights(str(out), "").saved


def test_all_of_the_checkpoint_comes_back(run, tmp_path):
    _, source, saved = run
    whole = converted(source, tmp_path / "whole.safetensors")
    assert whole.keys() == saved.keys()
    assert {k: v for k, v in whole.items() if k != "model"} == {k: v for k, v in saved.items() if k != "model"}
    assert whole["model"].keys() == saved["model"].keys()
    assert all(torch.equal(whole["model"][name], tensor) for name, tensor in saved["model"].items())
    half = converted(source, tmp_path / "half.safetensors", "--half")["model"]
    assert all(torch.equal(half[name], tensor.half()) for name, tensor in saved["model"].items())
    sizes = [(tmp_path / name).stat().st_size for name in ("whole.safetensors", "half.safetensors")]
    assert sizes[1] < 0.6 * sizes[0] and "image_encoder.conv1.weight" not in half
    again = converted(tmp_path / "half.safetensors", tmp_path / "again.safetensors", "--half")
    assert all(torch.equal(again["model"][name], tensor) for name, tensor in half.items())


def test_it_restores_into_its_model_and_into_no_other(run, tmp_path):
    cfg, source, saved = run
    half = converted(source, tmp_path / "half.safetensors", "--half")
    model, clip = build_model(cfg.model)
    before = model.interactor.state_dict()
    for tensor in before.values():
        tensor.zero_()
    checkpoint.restore(model, half, "half", clip.fingerprint)
    assert all(torch.equal(t, saved["model"][name].half().float()) for name, t in model.trainable_state().items())
    with pytest.raises(UserError, match="other CLIP weights"):
        checkpoint.restore(model, half, "half", "another")
    cfg.model.interactor_layers += 1
    deeper, _ = build_model(cfg.model)
    cfg.model.interactor_layers -= 1
    with pytest.raises(UserError, match="another architecture .it lacks"):
        checkpoint.restore(deeper, half, "half", clip.fingerprint)


def test_a_checkpoint_need_not_have_a_threshold_or_origin(run, tmp_path):
    _, source, saved = run
    bare = {k: v for k, v in saved.items() if k not in ("presence_threshold", "trained_on")}
    checkpoint.write_atomically(tmp_path / "bare.pt", bare)
    found = converted(tmp_path / "bare.pt", tmp_path / "bare.safetensors")
    assert "presence_threshold" not in found and found["trained_on"] == saved["trained_on"]  # which its config tells


@pytest.mark.parametrize("odd", [float("nan"), "high", True])
def test_an_odd_threshold_is_named(odd, run, tmp_path):
    checkpoint.write_atomically(tmp_path / "odd.pt", {**run[2], "presence_threshold": odd})
    with pytest.raises(UserError, match="odd.pt: .*presence_threshold"):
        read_weights(str(tmp_path / "odd.pt"), "")


def test_damaged_and_foreign_files_are_named(run, tmp_path):
    _, source, saved = run
    file = tmp_path / "file.safetensors"
    converted(source, file)
    content, whole = checkpoint.read(file, ""), file.read_bytes()
    tensors, metadata = content["tensors"], content["metadata"]

    def refused(told, tensors=tensors, **changes):
        given = {k: v for k, v in {**metadata, **changes}.items() if v is not None}
        checkpoint.write_safetensors_atomically(file, tensors, given, "")
        with pytest.raises(UserError, match=f"file.safetensors: .*{told}"):
            read_weights(str(file), "")

    for entry in ("epoch", "config", "trained_on", "fingerprint", "values"):
        refused(f"lacks '{entry}'", **{entry: None})
    refused("lacks", epoch="first")
    refused("lacks", config="{")
    refused("lacks", config="[" * 100_000)
    refused("its 'config' is a list", config="[]")
    refused("presence_threshold", presence_threshold="NaN")
    first = next(iter(tensors))
    refused("damaged", {**tensors, first: tensors[first] + 1})
    refused("damaged", {name: t for name, t in tensors.items() if name != first})
    flipped = bytearray(whole)
    flipped[-2] ^= 64
    for broken, told in ((whole[:-100], "not a checkpoint"), (whole[:1000], "not a checkpoint"), (flipped, "damaged")):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=f"file.safetensors: {told}"):
            read_weights(str(file), "")


def test_what_does_not_go_together_is_told(run, tmp_path):
    cfg, source, saved = run
    out = tmp_path / "out.safetensors"
    complains(in_process("convert.py", "--half", source, out), "--trained-only")
    complains(in_process("convert.py", "--trained-only", source, tmp_path / "out.pt"), "out.pt", ".safetensors")
    first = next(iter(saved["model"]))
    large = {**saved["model"], first: 1e6 + saved["model"][first]}
    checkpoint.write_atomically(tmp_path / "large.pt", {**saved, "model": large})
    complains(in_process("convert.py", "--trained-only", "--half", tmp_path / "large.pt", out), first,
              "65504", "--half")
    if cfg.model.kind == "plus":
        complains(in_process("convert.py", source, out), "ESDA+", "--trained-only")
    else:
        full = tmp_path / "full.safetensors"
        assert in_process("convert.py", source, full).returncode == 0
        complains(in_process("convert.py", "--trained-only", full, out), full, "would lose")
        assert convert.read(full).config == saved["config"]
    assert not out.exists() and not (tmp_path / "out.pt").exists()


@pytest.mark.slow
def test_its_test_and_its_training_are_those_of_the_checkpoint(finished_run, tmp_path):
    folder, options = finished_run
    converted(folder / "checkpoints/last.pt", tmp_path / "mine.safetensors")
    done = in_process("test.py", "--config", "config/shapes/esda.yaml", *options, f"exp={tmp_path}",
                      f"weights={tmp_path / 'mine.safetensors'}")
    assert done.returncode == 0 and "zero-shot on" not in done.stderr, done.stderr
    here, there = (json.loads((run / "results.json").read_text()) for run in (run_folder(tmp_path), folder))
    for key in ("miou", "fb_iou", "per_class", "trained_on", "clip_fingerprint"):
        assert here[key] == there[key]


def test_a_threshold_of_another_presence_does_not_count():
    """Before model.decoder_channels was an option, ESDA+'s presence was without CLIP's verdict."""
    def holding(**options):
        return {"config": {"model": options}, "presence_threshold": 2}
    assert threshold_in(holding(presence_head=True, decoder_channels=256)) == 2.0
    assert threshold_in(holding(presence_head=True)) is None
    assert threshold_in(holding(presence_head=False)) == threshold_in(holding()) == 2.0     # ESDA's is what it was
    assert threshold_in({"config": None}) is None

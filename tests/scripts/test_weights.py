"""Checkpoints given to train.py and test.py: as resume=, as weights=, from older versions, and odd in every entry."""
import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from runs import complains, in_process, run_folder, signals_kept, trained

import convert
from util.config import ROOT, Config, load
from util.run import checkpoint
from util.runtime.errors import UserError
from util.runtime.stop import StopRequest
from util.training.resume import read_run
from util.training.trainer import Trainer

CONFIG = ("--config", "config/shapes/esda.yaml")
STILL = ("train.lr=0", "train.muon_lr=0")  # training that leaves weights as they are


@pytest.fixture
def spoilt(finished_run, tmp_path):
    """spoilt({entry: value}, without=entry, file="last.pt") gives the folder of a copy of the run, so changed."""
    def change(changes=None, without=None, file="last.pt") -> Path:
        folder = tmp_path / "run"
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        saved = {**checkpoint.read(finished_run[0] / "checkpoints" / file, ""), **(changes or {})}
        saved.pop(without, None)
        torch.save(saved, folder / "checkpoints" / file)
        return folder
    return change


@pytest.fixture(scope="session")
def saved(finished_run) -> dict:
    return checkpoint.read(finished_run[0] / "checkpoints" / "last.pt", "")


def resume(finished_run, folder, *more):
    return in_process("train.py", *CONFIG, *finished_run[1], f"resume={folder}", *more)


# Odd entries

def test_every_entry_is_known_to_the_check(saved):
    assert saved.keys() == {*checkpoint.WEIGHTS, *checkpoint.STATE, "trained_on", "average", "history"}


@pytest.mark.parametrize("entry", [*checkpoint.WEIGHTS, *checkpoint.STATE])
def test_an_entry_that_is_missing_or_of_another_type_is_named(entry, finished_run, spoilt):
    cfg = load(Config, ROOT / CONFIG[1], [*finished_run[1], f"resume={spoilt(without=entry)}"])
    with pytest.raises(UserError, match=f"last.pt: not a checkpoint of train.py .it lacks '{entry}'.*resume="):
        read_run(cfg)
    for odd in ("text", True, [1]):
        if not isinstance(odd, {**checkpoint.WEIGHTS, **checkpoint.STATE}[entry]) or odd is True:
            spoilt({entry: odd})
            with pytest.raises(UserError, match=f"last.pt: not a checkpoint of train.py .its '{entry}' is a"):
                read_run(cfg)


def with_first(state: dict, change) -> dict:
    name = next(iter(state))
    return {**state, name: change(state[name])}


def optimizer_with(saved: dict, change) -> dict:
    """The saved optimiser with the first parameter's state of its first part changed."""
    first, *rest = saved["optimizer"]["parts"]
    return {"parts": [{**first, "state": with_first(first["state"], change)}, *rest]}


NAN = float("nan")
ODD = [
    ("model", lambda s: {}, "it lacks"),
    ("model", lambda s: {**s["model"], "extra": torch.zeros(1)}, "it also holds extra"),
    ("model", lambda s: {**s["model"], 3: torch.zeros(1)}, "it also holds 3"),
    ("model", lambda s: with_first(s["model"], lambda t: t[..., :1]), "of another shape"),
    ("model", lambda s: with_first(s["model"], lambda t: t.long()), "no weights in"),
    ("model", lambda s: with_first(s["model"], lambda t: "text"), "no weights in"),
    ("model", lambda s: with_first(s["model"], lambda t: t.to_sparse()), "no weights in"),
    ("model", lambda s: with_first(s["model"], lambda t: t.to("meta")), "no weights in"),
    ("model", lambda s: with_first(s["model"], lambda t: t.double() + 1e300), "not finite"),  # as fp32
    ("model", lambda s: with_first(s["model"], lambda t: t * NAN), "not finite"),
    ("model", lambda s: with_first(s["model"], lambda t: t + float("inf")), "not finite"),
    ("clip", lambda s: "another", "other CLIP weights"),
    ("config", lambda s: {**s["config"], "model": 3}, "its options: model is a group"),
    ("config", lambda s: {**s["config"], "train": {**s["config"]["train"], "lr": "fast"}}, "train.lr='fast'"),
    ("config", lambda s: {**s["config"], "train": {**s["config"]["train"], "lr": NAN}}, "train.lr=nan"),
    ("config", lambda s: {**s["config"], "fold": 1}, "fold (then 1, now 0)"),
    ("config", lambda s: {**s["config"], "seed": torch.tensor(1)}, "'config' holds more than plain values"),
    ("config", lambda s: {**s["config"], "model": {**s["config"]["model"], "gate": 1}}, "'model.gate'"),
    ("history", lambda s: 3, "its history"),
    ("history", lambda s: [3], "its history"),
    ("history", lambda s: [{"epoch": 1, "miou": "40"}], "its history"),
    ("optimizer", lambda s: {}, "its optimizer"),
    ("optimizer", lambda s: {"parts": []}, "its optimizer"),
    ("optimizer", lambda s: {"parts": s["optimizer"]["parts"][::-1]}, "its optimizer"),
    ("optimizer", lambda s: optimizer_with(s, lambda state: with_first(state, lambda t: torch.tensor(3.0))), "shape"),
    ("optimizer", lambda s: optimizer_with(s, lambda state: {}), "its optimizer"),
    ("optimizer", lambda s: optimizer_with(s, lambda state: with_first(state, lambda t: t[:1])), "of the shape"),
    ("optimizer", lambda s: optimizer_with(s, lambda state: with_first(state, lambda t: t * NAN)), "not finite"),
    ("at", lambda s: {"epoch": "first"}, "its at"),
    ("at", lambda s: {"epoch": 0, "step": 10**9}, "its at"),
    ("at", lambda s: {"epoch": -1}, "its at"),
    ("at", lambda s: {"epoch": 0, "sums": {"loss": "low"}}, "its at"),
    ("at", lambda s: {"turn": 1}, "its at"),
    ("at", lambda s: {"epoch": 0.0}, "its at"),
    ("at", lambda s: {"epoch": 0, "step": True}, "its at"),
    ("at", lambda s: {"epoch": 2}, "epoch 2 of 1"),
    ("at", lambda s: {"epoch": 1, "step": 1}, "its at"),
    ("at", lambda s: {"epoch": 0, "step": 1}, "its at"),  # without the losses of that step
    ("at", lambda s: {"epoch": 0, "sums": {"loss": NAN}}, "loss=nan"),
    ("at", lambda s: {"epoch": 0, "sums": {"loss": torch.zeros(2)}}, "its at"),
    ("seconds", lambda s: NAN, "seconds=nan"),
    ("seconds", lambda s: -1, "seconds=-1"),
    *((entry, lambda s, entry=entry, odd=odd: {"best": dict.fromkeys(s["best"], {**s["last_scores"], **odd}),
                                               "last_scores": {**s["last_scores"], **odd}}[entry], "its best and last")
      for entry, odd in [("best", {"miou": 250.0}), ("best", {"miou": "50"}), ("best", {"miou": NAN}),
                         ("best", {"seen_miou": torch.tensor(5.0)}), ("best", {"epoch": "1"}), ("best", {"epoch": 2}),
                         ("best", {"per_class": [1]}), ("best", {"per_class": {"key": -1.0}}),
                         ("best", {"protocol": None}), ("last_scores", {"samples": 0.5})]),
    ("best", lambda s: {"unseen": None, "seen": None}, "its best"),
    ("last_scores", lambda s: None, "its best"),
    ("best", lambda s: {}, "its best"),
    ("best", lambda s: {"unseen": 3, "seen": None}, "its best"),
    ("best", lambda s: {**s["best"], "seen": {"miou": "high"}}, "its best"),
    ("last_scores", lambda s: {"epoch": 1}, "last_scores"),
    ("rng", lambda s: s["rng"][:10], "its rng"),
    ("rng", lambda s: s["rng"].float(), "its rng"),
    *(("trained_on", lambda s, odd=odd: {**s["trained_on"], **odd}, "its 'trained_on' is not")
      for odd in [{"train_classes": []}, {"fold": True}, {"start": None}, {"start": {"file": "x"}},
                  {"start": {"file": "x", "epoch": 1, "carries_clip": 0, "trained_on": None}}]),
    ("trained_on", lambda s: {"dataset": "shapes"}, "'trained_on'")]


@pytest.fixture(scope="module")
def trainer(finished_run):
    """A run that is being resumed."""
    with contextlib.redirect_stdout(io.StringIO()), signals_kept():
        cfg = load(Config, ROOT / CONFIG[1], [*finished_run[1], f"resume={finished_run[0]}"])
        trainer = Trainer(cfg, StopRequest())
    yield trainer
    trainer.run.close()


@pytest.mark.parametrize("entry, change, named", ODD)
def test_an_odd_value_within_an_entry_is_named(entry, change, named, finished_run, saved, spoilt, trainer):
    with pytest.raises(UserError, match=f"last.pt: .*{re.escape(named)}"):
        if entry == "config":
            folder = spoilt({entry: change(saved)})
            read_run(load(Config, ROOT / CONFIG[1], [*finished_run[1], f"resume={folder}"]))
        else:
            trainer._take_back({**saved, entry: change(saved)}, Path("last.pt"))


@pytest.mark.parametrize("entry, change, named", [ODD[6], ODD[-1]])
def test_no_script_takes_it(entry, change, named, finished_run, saved, spoilt, tmp_path):
    folder = spoilt({entry: change(saved)})
    file, options = folder / "checkpoints" / "last.pt", (*CONFIG, *finished_run[1])
    complains(in_process("train.py", *options, f"resume={folder}"), file, named)
    complains(in_process("train.py", *options, "run=new", f"weights={file}"), file, named)
    complains(in_process("test.py", *options, "run=test", f"weights={file}"), file, named)
    complains(in_process("convert.py", file, tmp_path / "out.safetensors"), file, named)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_checkpoint_that_says_it_was_trained_from_itself(finished_run, saved, spoilt, tmp_path):
    file = tmp_path / "run" / "checkpoints" / "last.pt"
    start = {"file": str(file), "epoch": 1, "carries_clip": True, "trained_on": None}
    spoilt({"trained_on": {**saved["trained_on"], "start": start}})
    complains(in_process("test.py", *CONFIG, *finished_run[1], "run=test", f"weights={file}"), file, "trained from it")


# Older versions

def test_a_run_saved_before_an_option_existed_goes_on(finished_run, saved, spoilt):
    old = {name: {k: v for k, v in section.items() if k not in ("text_start", "names", "text_noise", "fit")}
           if isinstance(section, dict) else section for name, section in saved["config"].items() if name != "compile"}
    assert old["model"].keys() < saved["config"]["model"].keys() and "compile" not in old
    old["model"]["text_start"] = "clip"  # which is not what the time before it had
    shutil.copytree(finished_run[0], spoilt(), dirs_exist_ok=True)
    folder = spoilt({"config": old}, without="trained_on")
    options = ("train.text_noise=0", "data.names=words", "eval.fit=described")
    done = resume(finished_run, folder, *options)
    assert done.returncode == 0, done.stderr
    complains(resume(finished_run, folder, *options[1:]), "train.text_noise (then 0.0, now 1.5)")
    file = folder / "checkpoints" / "last.pt"
    tested = in_process("test.py", *CONFIG, *finished_run[1], "run=old", f"weights={file}")
    assert tested.returncode == 0 and "note" not in tested.stderr and "as published" in tested.stdout


# What a score is worth

def test_another_fold_s_checkpoint_under_other_options_says_so_everywhere(finished_run, tmp_path):
    file = finished_run[0] / "checkpoints" / "last.pt"
    done = in_process("test.py", *CONFIG, *finished_run[1], f"exp={tmp_path}", "fold=1", f"weights={file}",
                      "model.align_corners=true", "model.token_order=released")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "shapes" / "esda" / "fold1" / "mine"
    results, log = json.loads((folder / "results.json").read_text()), (folder / "log.txt").read_text()
    assert sorted(results["changed_options"]) == ["model.align_corners", "model.token_order"]
    unseen = list(results["class_ids"])
    for said in (results["not_zero_shot"], done.stdout, log, done.stderr):
        assert all(name in said for name in unseen) and "shapes fold 0" in said
    for said in (done.stdout, log, done.stderr):
        assert "zero-shot" in said.lower() and "as published" not in said and "unseen classes" not in said
        assert "model.align_corners (trained with False, now True)" in said
    assert done.stderr.count("model.align_corners") == 1


@pytest.mark.slow
def test_training_on_all_classes_is_not_zero_shot(finished_run, tmp_path):
    done = in_process("train.py", *CONFIG, *finished_run[1], f"exp={tmp_path}", "data.train_classes=all")
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    assert "all classes" in json.loads((folder / "results.json").read_text())["not_zero_shot"]
    assert "unseen mIoU" not in done.stdout and done.stdout.count("NOT ZERO-SHOT") == 2


# Starting from weights

def test_test_py_resumes_nothing(finished_run):
    complains(in_process("test.py", *CONFIG, *finished_run[1], f"resume={finished_run[0]}"), "resume=", "weights=")


@pytest.mark.slow
def test_training_starts_from_given_weights_and_says_so(finished_run, tmp_path):
    file = finished_run[0] / "checkpoints" / "last.pt"
    done = in_process("train.py", *CONFIG, *finished_run[1], f"exp={tmp_path}", f"weights={file}", *STILL)
    assert done.returncode == 0, done.stderr
    assert f"starts from {file}" in done.stdout and "optimiser and schedule start anew" in done.stdout
    folder, start = run_folder(tmp_path), trained(finished_run[0])
    assert all(torch.equal(tensor, start[name]) for name, tensor in trained(folder).items())
    results = json.loads((folder / "results.json").read_text())
    assert results["trained_on"]["start"]["file"] == str(file) and "not_zero_shot" not in results
    resumed = ("train.py", *CONFIG, *finished_run[1], f"exp={tmp_path}", *STILL, f"resume={folder}")
    assert in_process(*resumed).returncode == 0, "which needs no weights= and no such file"
    assert in_process("train.py", "--config", folder / "config.yaml", f"resume={folder}").returncode == 0
    complains(in_process(*resumed, "weights=another.pt"), "weights=another.pt", "resume=", "leave one of the two away")


@pytest.mark.slow
def test_a_start_from_another_fold_carries_its_classes_along(finished_run, tmp_path):
    file = finished_run[0] / "checkpoints" / "last.pt"
    done = in_process("train.py", *CONFIG, *finished_run[1], f"exp={tmp_path}", f"weights={file}", "fold=1")
    assert done.returncode == 0, done.stderr
    results = json.loads(next(tmp_path.rglob("results.json")).read_text())
    assert "shapes fold 0" in results["not_zero_shot"] and "NOT ZERO-SHOT" in done.stdout


@pytest.mark.slow
def test_a_start_that_carries_clip_is_stood_on_to_the_end(finished_run, tmp_path):
    """Neither training nor test nor conversion then needs model.clip."""
    carrier = tmp_path / "whole.safetensors"
    assert in_process("convert.py", finished_run[0] / "checkpoints" / "last.pt", carrier).returncode == 0
    options = [*finished_run[1], f"exp={tmp_path / 'exp'}", f"model.clip={tmp_path}/none.pt", *STILL]
    done = in_process("train.py", *CONFIG, *options, f"weights={carrier}")
    assert done.returncode == 0 and "the CLIP that the file carries" in done.stdout, done.stderr
    folder = run_folder(tmp_path / "exp")
    best = folder / "checkpoints" / "best.pt"
    for command in (("train.py", *CONFIG, *options, f"resume={folder}"),
                    ("convert.py", best, tmp_path / "again.safetensors"),
                    ("test.py", *CONFIG, *options, f"weights={best}", "run=best"),
                    ("test.py", *CONFIG, *options, f"weights={tmp_path}/again.safetensors", "run=again")):
        done = in_process(*command)
        assert done.returncode == 0, done.stderr
    again = json.loads((folder.parent / "again" / "results.json").read_text())
    assert again["trained_on"]["start"]["file"] == str(carrier)
    assert convert.read(best).state.keys() == convert.read(carrier).state.keys()
    carrier.unlink()
    complains(in_process("test.py", *CONFIG, *options, f"weights={best}"), carrier, best, "was trained from it")

"""Checkpoints given to train.py and test.py as weights=, and what their scores are worth."""
import json

import pytest
import torch
from runs import complains, in_process, run_folder, trained

from util.run import checkpoint

CONFIG = ("--config", "config/shapes/esda.yaml")
STILL = ("train.lr=0", "train.muon_lr=0")  # training that leaves weights as they are


def test_another_fold_s_checkpoint_under_other_options_says_so_everywhere(finished_run, tmp_path):
    folder, options = finished_run
    done = in_process("test.py", *CONFIG, *options, f"exp={tmp_path}", "fold=1", "model.align_corners=true",
                      f"weights={folder}/checkpoints/last.pt", "model.token_order=released")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "shapes" / "esda" / "fold1" / "mine"
    results, log = json.loads((folder / "results.json").read_text()), (folder / "log.txt").read_text()
    assert sorted(results["changed_options"]) == ["model.align_corners", "model.token_order"]
    for said in (results["not_zero_shot"], done.stdout, log, done.stderr):
        assert all(name in said for name in results["class_ids"]) and "shapes fold 0" in said
    for said in (done.stdout, log, done.stderr):
        assert "zero-shot" in said.lower() and "unseen classes" not in said
        assert "model.align_corners (trained with False, now True)" in said


@pytest.mark.slow
@pytest.mark.parametrize("options, why", [(["data.train_classes=all"], "all classes"),
                                          (["fold=1", "weights={}/checkpoints/last.pt"], "shapes fold 0")])
def test_training_on_unseen_classes_or_from_such_a_start_is_not_zero_shot(options, why, finished_run, tmp_path):
    mine = [option.format(finished_run[0]) for option in options]
    done = in_process("train.py", *CONFIG, *finished_run[1], f"exp={tmp_path}", *mine)
    assert done.returncode == 0, done.stderr
    assert why in json.loads(next(tmp_path.rglob("results.json")).read_text())["not_zero_shot"]
    assert "unseen mIoU" not in done.stdout and done.stdout.count("NOT ZERO-SHOT") == 2


@pytest.mark.slow
def test_training_starts_from_given_weights_and_says_so(finished_run, tmp_path):
    file = tmp_path / "start.safetensors"  # as convert.py makes it of the run's checkpoint
    checkpoint.save_trained(file, checkpoint.load(finished_run[0] / "checkpoints" / "last.pt"), half=False)
    mine = ("train.py", *CONFIG, *finished_run[1], f"exp={tmp_path}", *STILL)
    done = in_process(*mine, f"weights={file}")
    assert done.returncode == 0, done.stderr
    assert f"starts from {file}" in done.stdout and "optimiser and schedule start anew" in done.stdout
    folder, start = run_folder(tmp_path), trained(finished_run[0])
    assert all(torch.equal(tensor, start[name]) for name, tensor in trained(folder).items())
    results = json.loads((folder / "results.json").read_text())
    assert results["trained_on"]["start"]["file"] == str(file) and "not_zero_shot" not in results
    file.unlink()   # which a run that goes on does not need
    assert in_process("train.py", "--config", folder / "config.yaml", f"resume={folder}").returncode == 0
    complains(in_process(*mine, f"resume={folder}", "weights=another.pt"), "another.pt", "resume=")

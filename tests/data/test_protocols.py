"""Which samples are scored: manifests there and back, several draws in one pass, nothing but the seed decides."""
import json
from pathlib import Path

import numpy as np
import pytest
from runs import in_process

from data.folds import classes_of
from data.index import read_index
from data.samples import distinct, eval_samples, read_manifest, write_manifest
from util.config import ROOT, load
from util.options import Config
from util.runtime.errors import UserError

EPISODIC = ["eval.protocol=episodic", "eval.samples=30"]


@pytest.fixture
def sampled(tiny_shapes):
    """sampled("key=value", ...) -> the samples of the tiny set, its index, its classes and fold 0's unseen ones."""
    def sampled(*options):
        cfg = load(Config, ROOT / "config/shapes/esda.yaml", [
            f"data.root={tiny_shapes}", f"data.val_list={tiny_shapes}/lists/val.txt", "data.min_pixels=32", *options])
        classes = classes_of(cfg.data)
        index = read_index(cfg.data.root, cfg.data.val_list, len(classes.names))
        return eval_samples(cfg, index, classes), index, classes, classes.unseen(0)
    return sampled


def test_a_manifest_brings_the_same_samples_back(sampled, tmp_path):
    (samples,), *data, unseen = sampled(*EPISODIC)
    assert len(samples) == 30 > len(set(samples)), "the list is shorter: some are drawn twice"
    file = tmp_path / "m.txt"
    file.write_text(write_manifest(samples, *data, "a remark"))
    assert read_manifest(file, *data, unseen) == samples and sampled(f"eval.manifest={file}")[0] == [samples]


@pytest.mark.parametrize("line, named", [
    ("SegmentationClassAug/nosuch.png 1 circle", ":2: SegmentationClassAug/nosuch.png is not in"),
    ("SegmentationClassAug/val_000001.png 1 star", ":2: 1 star is none"),
    ("SegmentationClassAug/val_000001.png 6 triangle", ":2: 6 triangle is none"),
    ("SegmentationClassAug/val_000001.png one circle", ":2: one circle is none"), ("", "empty"), ("x", ":2: x"),
    ("SegmentationClassAug/val_000001.png 1 circle", "val_000001.png shows no pixel of 1 circle")])
def test_a_wrong_manifest_is_named_by_its_line(sampled, tmp_path, line, named):
    (tmp_path / "m.txt").write_text(f"# remark\n{line}\n")
    with pytest.raises(UserError, match=named):
        read_manifest(tmp_path / "m.txt", *sampled()[1:])


def test_nothing_but_seed_and_list_decides_what_is_drawn(sampled):
    first = sampled(*EPISODIC)[0]
    for other in ("data.workers=2", "eval.batch_size=3", "seed=5"):
        assert sampled(*EPISODIC, other)[0] == first, other
    assert sampled(*EPISODIC, "eval.seed=5")[0] != first
    draws = sampled(*EPISODIC, "eval.draws=3")[0]
    assert [sampled(*EPISODIC, f"eval.seed={321 + k}")[0][0] for k in range(3)] == draws
    assert sorted(distinct(draws)) == sorted({sample for draw in draws for sample in draw}), "each is predicted once"


def test_several_draws_in_one_pass_and_a_manifest_score_as_runs_of_their_own(tiny_options, tmp_path):
    """By a model without training, which finds something everywhere."""
    options = ["--config", "config/shapes/naclip.yaml", *tiny_options, *EPISODIC, "eval.samples=8"]

    def score(name, *more):
        done = in_process("test.py", *options, *more, f"exp={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        return json.loads(next(Path(tmp_path / name).rglob("results.json")).read_text())

    single = [score(f"s{k}", f"eval.seed={321 + k}")["miou"] for k in range(2)]
    several = score("several", "eval.draws=2")
    assert several["draws"] == pytest.approx(single) and single[0] != single[1] and several["samples"] == 8
    assert several["miou"] == pytest.approx(np.mean(single))
    assert several["miou_std"] == pytest.approx(np.std(single, ddof=1))
    (tmp_path / "m.txt").write_text(in_process("data.samples", *options).stdout)
    again = score("manifest", f"eval.manifest={tmp_path / 'm.txt'}")
    assert again["miou"] == pytest.approx(single[0]) and again["protocol"] == "manifest"

"""Which samples are scored: manifests there and back, several draws in one pass, nothing but the seed decides."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import in_process

from data.fold import FoldData
from data.samples import distinct, read_manifest, write_manifest
from util.config import ROOT, Config, load
from util.runtime.errors import UserError

EPISODIC = ["eval.protocol=episodic", "eval.samples=30"]


def data_of(tiny_options, *more) -> FoldData:
    return FoldData(load(Config, ROOT / "config/shapes/esda.yaml", [*tiny_options, *more]))


def test_a_manifest_brings_the_same_samples_back(tiny_options, tmp_path):
    data = data_of(tiny_options, *EPISODIC)
    samples = data.draws()[0]
    assert len(samples) == 30 > len(set(samples)), "the list is shorter: some are drawn twice"
    file = tmp_path / "m.txt"
    file.write_text(write_manifest(samples, data.index, data.classes, "a remark"))
    assert read_manifest(file, data.index, data.classes, data.unseen) == samples
    assert data_of(tiny_options, f"eval.manifest={file}").draws() == [samples]
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))  # as Windows writes text
    assert read_manifest(file, data.index, data.classes, data.unseen) == samples


@pytest.mark.parametrize("line, named", [
    ("SegmentationClassAug/nosuch.png 1 circle", ":2: SegmentationClassAug/nosuch.png is not in"),
    ("SegmentationClassAug/val_000001.png 1 star", "1 star is none"),
    ("SegmentationClassAug/val_000001.png 9 moon", "9 moon is none"),
    ("SegmentationClassAug/val_000001.png one circle", "should be a mask"), ("", "holds no samples"),
    (f"SegmentationClassAug/val_000001.png {'1' * 5000} circle", "should be a mask"),
    ("SegmentationClassAug/val_000001.png 1 circle", "val_000001.png shows no pixel of 1 circle")])
def test_a_wrong_manifest_is_named_by_its_line(tiny_options, tmp_path, line, named):
    data = data_of(tiny_options)
    (tmp_path / "m.txt").write_text(f"# remark\n{line}\n")
    with pytest.raises(UserError, match=named):
        read_manifest(tmp_path / "m.txt", data.index, data.classes, data.unseen)


def test_nothing_but_seed_and_list_decides_what_is_drawn(tiny_options):
    first = data_of(tiny_options, *EPISODIC).draws()
    for other in ("data.workers=2", "eval.batch_size=3", "device=auto", "seed=5", "train.batch_size=4"):
        assert data_of(tiny_options, *EPISODIC, other).draws() == first, other
    assert data_of(tiny_options, *EPISODIC, "eval.seed=5").draws() != first


def test_several_draws_in_one_pass_are_those_of_several_runs(tiny_options, tmp_path):
    """By a model without training, which finds something everywhere."""
    options = ["--config", "config/shapes/naclip.yaml", *tiny_options, *EPISODIC]

    def score(name, *more):
        done = in_process("test.py", *options, *more, f"exp={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        return json.loads(next((tmp_path / name).rglob("results.json")).read_text()), done.stdout
    single = [score(f"s{k}", f"eval.seed={321 + k}")[0] for k in range(2)]
    several, said = score("several", "eval.draws=2")
    assert several["draws"] == pytest.approx([r["miou"] for r in single]) and several["samples"] == 30
    assert several["draws"][0] != several["draws"][1]
    assert several["miou"] == pytest.approx(np.mean(several["draws"])) and "over 2 draws" in said
    assert several["miou_std"] == pytest.approx(np.std(several["draws"], ddof=1))
    root = Path(next(o for o in tiny_options if o.startswith("data.root=")).partition("=")[2])
    shutil.rmtree(root / "index")  # making it again must leave nothing in the manifest
    (tmp_path / "m.txt").write_text(in_process("data.samples", *options).stdout)
    again, _ = score("manifest", f"eval.manifest={tmp_path / 'm.txt'}")
    assert again["miou"] == pytest.approx(single[0]["miou"]) and again["protocol"] == "manifest"


def test_each_sample_is_predicted_once(tiny_options):
    data = data_of(tiny_options, *EPISODIC, "eval.draws=4")
    every = [sample for draw in data.draws() for sample in draw]
    assert len(data.draws()) == 4 and sorted(distinct(data.draws())) == sorted(set(every))


@pytest.mark.parametrize("kind", ["seen", "unseen"])
def test_a_generalised_test_needs_images_of_seen_and_of_unseen_classes(tiny_options, kind):
    """Without any its mIoU would be 0 whatever the model does."""
    data = data_of(tiny_options, "eval.images=12")
    assert len(data.every_image()) == 12
    data.index.pixels[:, list(getattr(data, kind))] = 0
    with pytest.raises(UserError, match=f"the 12 images of the generalised test show no {kind} class.*eval.images"):
        data.every_image()

"""The pictures of python -m util.compare: means, IoU by class, and the sheet of predictions."""
import json
import runpy
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from made_runs import IMAGE, TRUTH, draw

from data.files import read_image
from util.compare.groups import gather
from util.compare.pictures import (
    classes_frame,
    curves_chart,
    differences_chart,
    encoded,
    heat_maps,
    marked_frame,
    means_chart,
    predictions_sheet,
    shared_samples,
)
from util.compare.report import report
from util.compare.runs import find, read
from util.compare.tables import make_tables
from util.config import ROOT
from util.runtime.errors import UserError

SHEET = "predictions-pascal-episodic.jpg"


@pytest.fixture
def groups(made):
    return lambda select=None: gather((read(file, select) for file in find([made.exp])), partial=True)


@pytest.fixture
def sheet(groups):
    """[[colour of each picture of a row]], the heads, the names of the rows, and what is below the first row."""
    def call():
        found = groups()
        figure = predictions_sheet(found, shared_samples(found))
        columns = len(found) + 2
        pictures = [tuple(int(v) for v in axes.images[0].get_array()[0, 0]) for axes in figure.axes]
        return ([pictures[i:i + columns] for i in range(0, len(pictures), columns)],
                [axes.get_title() for axes in figure.axes[:columns]],
                [axes.get_ylabel() for axes in figure.axes[::columns]],
                [axes.get_xlabel() for axes in figure.axes[:columns]])
    return call


# Charts

def test_means_by_hand():
    runs = pd.DataFrame({"model": [*"aaaabbccc"], "fold": [0, 1, 0, 1, 0, 1, 0, 1, 0],
                         "seed": [1, 1, 2, 2, 1, 1, 1, 1, 2], "miou": [10, 20, 14, 24, 50, 70, 30, 50, 40]})
    axes, = means_chart(runs).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert [text.get_text() for text in axes.texts] == ["17.0 ± 2.8", "60.0", "42.5"]  # 15 and 19: 4 / sqrt(2)
    points = [line for line in axes.lines if line.get_label().startswith("a run of fold")]
    assert [list(line.get_xdata()) for line in points] == [[10, 14, 50, 30, 40], [20, 24, 70, 50]]


def test_differences_are_paired_by_fold_and_seed(made, groups):
    for seed in (1, 2):
        made.folds("plain", (50, 60, 70, 80 + seed), seed=seed)
    made.folds("better", (51, 63, 71, 84), seed=1)
    pairs = make_tables(groups(), [], "plain")[0].differences("episodic")
    assert pairs[["model", "fold", "seed", "difference"]].values.tolist() == [
        ["better", fold, 1, difference] for fold, difference in enumerate((1, 3, 1, 3))]
    alone = pd.DataFrame({"model": ["once"], "fold": [2], "seed": [1], "difference": [-10.0]})
    axes, = differences_chart(pd.concat([pairs, alone]), "plain").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["better", "once"]
    assert [text.get_text() for text in axes.texts] == ["+2.0", "-10.0"]
    bar, = (bars for bars in axes.collections if len(bars.get_segments()))  # one pair has no interval
    # Student's t with 3 degrees of freedom: 3.182 standard errors of 2 / sqrt(3) / 2 each way
    assert bar.get_segments()[0][:, 0] == pytest.approx([2 - 3.182 / 3 ** 0.5, 2 + 3.182 / 3 ** 0.5], abs=1e-3)
    made.folds("told", (50, 60, 70, 80), seed=1, not_zero_shot="its weights saw these masks")
    told = make_tables(groups(), [], "plain")[0].differences("episodic")
    assert list(told["model"].unique()) == ["better", "told (not zero-shot)"]
    without = make_tables(groups(), [])[0].differences("episodic")
    assert without.empty and differences_chart(without, "") is None


def test_iou_by_class_is_the_mean_over_seeds(made, groups):
    for seed, iou in ((1, 40), (2, 50)):
        made.folds("plain", [iou] * 4, seed=seed)
    made.folds("esda", (50, 50, 50, 60))
    frame = classes_frame(groups())
    assert list(frame.columns) == ["esda", "plain"] and list(frame.index)[-2:] == ["low 3, fold 3", "high 3, fold 3"]
    assert frame.loc["low 3, fold 3"].tolist() == [50, 35] and frame.loc["high 3, fold 3"].tolist() == [70, 55]
    axes, = heat_maps({"IoU": frame}).axes
    assert [text.get_text() for text in axes.texts][-4:] == ["50", "35", "70", "55"]


def test_curves_are_means_over_seeds_in_a_band(made, groups):
    for seed, scores in ((1, (10, 30)), (2, (20, 60))):
        made("plain", 0, 50, seed=seed, epochs=[{"epoch": k, "miou": miou, "seen_miou": 90, "fb_iou": 1, "loss": 0.5}
                                                for k, miou in enumerate(scores, 1)])
    made("old", 1, 50)
    axes, = curves_chart(groups()).axes
    unseen, seen = axes.lines
    assert axes.get_title() == "fold 0" and list(unseen.get_xdata()) == [1, 2] and list(unseen.get_ydata()) == [15, 45]
    assert list(seen.get_ydata()) == [90, 90] and (unseen.get_linestyle(), seen.get_linestyle()) == ("-", "--")
    band = {tuple(point) for point in axes.collections[0].get_paths()[0].vertices}
    assert band >= {(1, 10), (1, 20), (2, 30), (2, 60)}, "from the lowest to the highest seed"
    shutil.rmtree(made.exp / "pascal/plain")
    assert curves_chart(groups()) is None, "old runs have not recorded their epochs"


def test_what_was_taken_for_what_by_hand(made, groups):
    """Over all runs, as a share of what was marked under the name."""
    for seed, cat in ((1, 30), (2, 50)):
        made("esda", 0, 50, seed=seed, marked={"low 0": {"background": 10, "low 0": 100, "cat": cat},
                                               "high 0": {"background": 0, "low 0": 0, "cat": 0}})
    frame = marked_frame(groups()[0])
    assert list(frame.columns) == ["background", "low 0", "cat"] and list(frame.index) == ["low 0", "high 0"]
    assert frame.loc["low 0"].tolist() == pytest.approx([100 * 20 / 300, 100 * 200 / 300, 100 * 80 / 300])
    assert frame.loc["high 0"].tolist() == [0, 0, 0], "nothing was marked"
    assert marked_frame(groups("last")[0]) is None, "it is of the epoch that was tested"


def test_many_rows_look_different_and_names_are_no_formulas(made, groups):
    for k in range(10):
        made.folds(f"${k}$_{{", [40] * 4, epochs=[{"epoch": 1, "miou": 3, "seen_miou": 4}])
    figure = curves_chart(groups())
    styles = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines if line.get_linestyle() == "-"}
    assert len(styles) == 10, "ten rows that look different"
    for drawn in (figure, heat_maps({"$": classes_frame(groups())})):
        assert encoded(drawn)[:4] == b"\x89PNG" and encoded(drawn, "jpg")[:2] == b"\xff\xd8"


# The sheet

def test_every_config_has_its_column_and_every_sample_its_row(made, sheet):
    for k, arch in enumerate(("esda", "plain")):
        for fold in range(2):
            draw(made(arch, fold, 50), {row: (200 + k, 10 * fold, row) for row in (3, 7)})
    pictures, heads, rows, below = sheet()
    assert heads == ["image", "truth", "esda", "plain"]
    assert pictures == [[IMAGE, TRUTH, (200, 10 * fold, row), (201, 10 * fold, row)]
                        for fold in (0, 1) for row in (3, 7)]
    assert rows[0] == "low 0\nfold 0\n00003-m3-1" and rows[3] == "low 1\nfold 1\n00007-m7-3"
    assert below == ["", "", "IoU 30 %", "IoU 30 %"]


def test_twelve_rows_evenly_over_folds_and_lists(made, groups):
    for fold, count in enumerate((20, 2, 20, 20)):
        draw(made("esda", fold, 50), {row: (200, 10 * fold, row) for row in range(count)})
    shown = [(s.fold, int(next(iter(s.pictures)).name[:5])) for s in shared_samples(groups())]
    assert shown == [*((0, row) for row in (0, 6, 13, 19)), (1, 0), (1, 1),
                     *((fold, row) for fold in (2, 3) for row in (0, 10, 19))]


def test_of_several_seeds_the_first_is_shown(made, sheet):
    for seed in (2, 1, 3):
        draw(made("esda", 0, 50, seed=seed), {1: (200, 0, seed)})
    assert sheet()[0] == [[IMAGE, TRUTH, (200, 0, 1)]]


def test_pictures_of_any_size_and_only_samples_that_all_share(made, sheet):
    draw(made("esda", 0, 50), {1: (200, 0, 1), 2: (200, 0, 2)}, side=500)
    draw(made("plain", 0, 50), {2: (201, 0, 2), 3: (201, 0, 3)}, side=31)
    draw(made("plain", 1, 50), {1: (201, 0, 1)})
    assert sheet()[0] == [[IMAGE, TRUTH, (200, 0, 2), (201, 0, 2)]]


@pytest.mark.parametrize("fold, row, class_id", [(1, 1, 0), (0, 2, 0), (0, 1, 2)])
def test_samples_of_another_fold_image_or_class_are_not_shared(fold, row, class_id, made, groups):
    draw(made("esda", 0, 50), {1: (200, 0, 0)})
    draw(made("plain", fold, 50), {row: (201, 0, 0)}, class_id=class_id)
    assert shared_samples(groups()) == []


def test_what_is_not_on_the_sheet_is_told(made, groups, capsys):
    made.folds("old", (40, 40, 40, 40))
    assert SHEET not in report(groups(), [], "")
    unrecorded = [f"no {kind}-pascal-episodic.png: no run has recorded it; train or test again"
                  for kind in ("curves", "marked")]
    assert capsys.readouterr().err.splitlines() == [
        *unrecorded, f"no {SHEET}: the runs share no sample that they drew when they were tested"]
    for folder in made.folds("esda", (50, 50, 50, 50)):
        draw(folder, {1: (200, 0, 0)})
    assert SHEET in report(groups(), [], "")
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"not in {SHEET}: old, which drew no sample of this epoch; test it again")


def test_pictures_that_are_gone_spoilt_or_of_another_epoch(made, groups):
    scores = {"miou": 40, "fb_iou": 60, "protocol": "episodic", "per_class": {"low 0": 30, "high 0": 50}}
    folder = made("esda", 0, 50, best_epoch=4, selections={"unseen": {**scores, "epoch": 4}, "seen": {
        **scores, "epoch": 4}, "last": {**scores, "epoch": 9}})
    draw(folder, {1: (200, 0, 1), 2: (200, 0, 2)})
    assert [len(shared_samples(groups(select))) for select in ("unseen", "seen", "last")] == [2, 2, 0]
    shutil.rmtree(folder / "pictures/00001-m1-1")
    assert [list(s.pictures) for s in shared_samples(groups())] == [[folder / "pictures/00002-m2-1"]]
    (folder / "pictures/00002-m2-1/prediction.png").write_bytes(b"spoilt")
    with pytest.raises(UserError, match="00002-m2-1/prediction.png"):
        report(groups(), [], "")


def test_from_final_tests_to_the_sheet(tiny_options, tmp_path, monkeypatch):
    """Two configs keep the same samples; the one that marks every pixel stands in its own column."""
    folders, mode = {}, torch.get_deterministic_debug_mode()
    for arch in ("clip_prior", "everything"):
        monkeypatch.setattr(sys, "argv", ["test.py", "--config", f"config/shapes/{arch}.yaml", *tiny_options, "run=r",
                                          "eval.pictures=4"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "test.py"), run_name="__main__")
        torch.set_deterministic_debug_mode(mode)
        assert not ended.value.code
        folders[arch] = tmp_path / f"exp/shapes/{arch}/fold0/r"
    drawn = [json.loads((folder / "results.json").read_text())["pictures"] for folder in folders.values()]
    assert drawn[0].keys() == drawn[1].keys() and len(drawn[0]) == 4
    found = gather((read(file) for file in find([tmp_path / "exp"])), partial=True)
    samples = shared_samples(found)
    assert [[folder.name for folder in s.pictures] for s in samples] == [[name] * 2 for name in sorted(drawn[0])]
    figure = predictions_sheet(found, samples)
    a, b = (folder / "pictures" / min(drawn[0]) for folder in folders.values())
    for axes, file in zip(figure.axes, (a / "image.png", a / "truth.png", a / "prediction.png", b / "prediction.png")):
        assert (np.asarray(axes.images[0].get_array()) == read_image(file)).all()
    assert (read_image(a / "image.png") == read_image(b / "image.png")).all()
    assert not (read_image(a / "prediction.png") == read_image(b / "prediction.png")).all()

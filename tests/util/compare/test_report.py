"""python -m util.compare on results made by hand: means, paired differences, marks, charts and files."""
import csv

import pandas as pd
import pytest
import yaml
from runs import complains, in_process

from util.compare.charts import chart, confusion, confusion_chart
from util.compare.report import differences, in_words, notes, runs_frame, summary
from util.config import ROOT

PUBLISHED = yaml.safe_load((ROOT / "lists/published.yaml").read_text())
REACH = 3.182446  # standard errors of Student's t with three degrees of freedom, 97.5 %


@pytest.fixture
def table(groups):
    """table(baseline): {model: the row in numbers}, {model: the row in words}, the notes."""
    def call(baseline=""):
        found = groups(partial=True)
        runs = runs_frame(found)
        rows = summary(runs, differences(runs, baseline), PUBLISHED)
        numbers, words = ({row["model"]: row for row in frame.to_dict("records")}
                          for frame in (rows, in_words(rows, baseline)))
        return numbers, words, notes(found, rows, baseline)
    return call


def test_means_and_deviation_by_hand(made, table):
    made.folds("esda", (10, 20, 30, 40), seed=1)   # mean 25
    made.folds("esda", (12, 22, 32, 46), seed=2, name_auc=0.5)   # mean 28
    made.folds("once", (10, 20, 30, 40), name_auc=0.5)
    made.folds("part", (10, 20, 30, 40), seed=1)
    made.folds("part", (14, 24), seed=2)
    numbers, words, _ = table()
    row = numbers["esda"]
    assert [row[f"miou_fold{k}"] for k in range(4)] == [11, 21, 31, 43]
    assert (row["miou"], row["fb_iou"], row["training_seconds"]) == (26.5, 46.5, 3601.5)
    assert row["miou_std_over_seeds"] == pytest.approx((2 * 1.5 ** 2 / 1) ** 0.5)  # n - 1 = 1
    assert words["esda"] == {
        "data set": "pascal", "model": "esda", "fold 0": "11.0", "fold 1": "21.0", "fold 2": "31.0", "fold 3": "43.0",
        "mean mIoU": "26.5 ± 2.1 (n=2)", "FB-IoU": "46.5", "protocol": "episodic", "trained on": "seen",
        "selected by": "unseen"}
    assert words["once"]["mean mIoU"] == "25.0", "one seed has no deviation"
    assert words["part"]["mean mIoU"] == "26.0 ± - (n=2) (partial: 6 of 8 runs)", "12, 22, 30, 40; seeds of other folds"
    assert numbers["once"]["name_auc"] == 0.5 and pd.isna(row["name_auc"]), "half of its runs know it"


def test_the_difference_is_paired_by_fold_and_seed_and_has_its_interval(made, table):
    for seed in (1, 2):
        made.folds("plain", (9, 19, 29, 34 + seed), seed=seed)
    made.folds("plain", (5, 15, 25, 35), selections=None, training_seconds=None, checkpoint="last.pt", run="last")
    made.folds("esda", (10, 20, 30, 40))           # 1, 1, 1 and 5 above those with its selection
    made.folds("once", (11,))
    for k, changes in enumerate(({"protocol": "exhaustive"}, {"samples": 999}, {"data": {"val": "v2"}},
                                 {"class_ids": {"other": 11}})):
        made.folds(f"other{k}", (9, 19, 29, 35), **changes)     # are no pairs
    numbers, words, said = table("plain")
    assert [row["pairs"] for model, row in numbers.items() if model.startswith("other")] == [0] * 4
    row = numbers["esda"]
    assert (row["miou_minus_baseline"], row["pairs"]) == (2, 4)
    ends = [row["miou_minus_baseline_low"], row["miou_minus_baseline_high"]]
    assert ends == pytest.approx([2 - REACH, 2 + REACH])    # the standard error is 2 / sqrt(4)
    assert words["esda"]["against plain"] == "+2.0 [-1.2, +5.2], n=4"
    assert words["once"]["against plain"] == "+2.0, n=1", "one pair has no interval"
    assert words["LSeg RN101, published"]["against plain"] == "-"
    assert "95 % interval by Student's t" in said[-1] and "against" not in str(table()[1])


def test_what_is_not_zero_shot_differs_or_is_published_is_marked(made, table):
    made.folds("esda", (10, 20, 30, 40))
    made.folds("told", (11, 21, 31, 41), not_zero_shot="its weights saw these masks")
    made.folds("short", (10, 20, 30, 40), clip_fingerprint="def", config={
        "train": {"epochs": 1, "select": "unseen"}, "model": {"branch_rank": 0}, "data": {"workers": 1}})
    numbers, words, said = table()
    assert words["told (not zero-shot)"]["mean mIoU"] == "26.0" and "esda" in words
    assert [note for note in said if "NOT ZERO-SHOT" in note] == [
        "NOT ZERO-SHOT: told (not zero-shot): its weights saw these masks."]
    differs = "CLIP's weights abc -> def, model.branch_rank 2 -> 0, train.epochs None -> 1"
    assert f"short differs from esda in {differs}." in said
    lseg = words["LSeg RN101, published"]
    assert [lseg[head] for head in ("fold 0", "fold 3", "mean mIoU", "FB-IoU")] == ["52.8", "38.5", "47.4", "-"]
    assert "LSeg RN101, published, not run here: LSeg's README; HSNet's data." in said
    assert numbers["SAZS ViT-L, published"]["miou"] == 59.5, "PASCAL's, not COCO's"
    for p in PUBLISHED:
        assert p["source"] and (abs(sum(p.get("miou", [])) / 4 - p["mean"]) < 0.051 or "miou" not in p)


def test_the_chart_has_every_run_the_means_and_the_differences(made, groups):
    for seed in (1, 2):
        made.folds("plain", (50, 60, 70, 80 + seed), seed=seed)
    made.folds("$better$_{", (51, 63, 71, 84), seed=1)  # no formula
    runs = runs_frame(groups(partial=True))
    pairs = differences(runs, "plain")
    means, paired = chart(summary(runs, pairs, []), runs, pairs, "plain").axes
    points = [line for line in means.lines if line.get_label().startswith("fold")]
    assert [list(line.get_xdata()) for line in points] == [[51, 50, 50], [63, 60, 60], [71, 70, 70], [84, 81, 82]]
    assert list(means.containers[0].lines[0].get_xdata()) == [67.25, 65.375]
    ends = paired.collections[0].get_segments()[0][:, 0]  # differences 1, 3, 1 and 3: the error is sqrt(4 / 3) / 2
    assert ends == pytest.approx([2 - REACH / 3 ** 0.5, 2 + REACH / 3 ** 0.5], abs=1e-5)
    assert len(chart(summary(runs, pairs[:0], []), runs, pairs[:0], "").axes) == 1, "no pairs, no panel"


def test_confusion_by_hand(made, groups):
    """Over all runs, as a share of what was predicted for the name."""
    for seed, cat in ((1, 30), (2, 50)):
        made("esda", 0, 50, seed=seed, confusion={"low 0": {"background": 10, "low 0": 100, "cat": cat},
                                                  "high 0": {"background": 0, "low 0": 0, "cat": 0}})
    axes, = confusion_chart(confusion(groups(partial=True)[0]), "esda").axes    # 20, 200 and 80 of 300; 0 of 0
    assert [text.get_text() for text in axes.texts] == ["7", "67", "27", "0", "0", "0"]
    assert confusion(groups("last", True)[0]).empty, "it is of the epoch that was tested"


def test_all_files(made, tmp_path):
    made.folds("50%_of&<it>|#1", (10, 20, 30, 40), confusion={"low 0": {"background": 1, "low 0": 3}})
    made.folds("esda", (10, 20, 30, 40))
    made.folds("esda", (10, 20, 30, 40), dataset="shapes")
    out = tmp_path / "out"
    complains(in_process("util.compare", made.exp, "--baseline", "plane", "--out", out), "there are 50%_of&<it>|#1")
    assert not out.exists()
    done = in_process("util.compare", made.exp, "--baseline", "esda", "--out", out)
    assert done.returncode == 0, done.stderr
    assert {file.name for file in out.iterdir()} == {
        "table.md", "table.html", "table.tex", "table.csv", "runs.csv", "chart-pascal-episodic.png",
        "chart-shapes-episodic.png", "confusion-pascal-episodic-50%_of&<it>|#1-unseen.png"}
    assert (out / "table.md").read_text() == done.stdout and r"| 50%_of&<it>\|#1 | 10.0 |" in done.stdout
    assert "50%_of&amp;&lt;it&gt;|#1</td>" in (out / "table.html").read_text()
    assert r"50\%\_of\&<it>|\#1 & 10.0 &" in (out / "table.tex").read_text()
    rows, runs = (list(csv.DictReader((out / name).read_text().splitlines())) for name in ("table.csv", "runs.csv"))
    assert [row["miou"] for row in rows[:3]] == ["25"] * 3 and rows[1]["miou_minus_baseline"] == "0" and len(runs) == 12
    assert (runs[1]["command"], runs[1]["parameters_total"]) == ("python train.py fold=1", "5000000")

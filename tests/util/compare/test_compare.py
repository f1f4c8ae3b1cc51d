"""The tables of python -m util.compare, on results made by hand: means, marks, refusals and formats."""
import csv
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from runs import ENVIRONMENT

from util.compare import __main__ as compare
from util.compare.groups import gather
from util.compare.published import read_published
from util.compare.runs import find, read
from util.compare.tables import Table, make_tables, numbers_frame, runs_frame
from util.compare.words import COLUMNS, columns_of, latex, markdown, words
from util.config import ROOT
from util.results.table import folds_table
from util.runtime.errors import UserError

UNSEEN = {"train": {"select": "unseen"}}


@pytest.fixture
def groups(made):
    """groups(select, partial, places) of all that was made, unless places are given."""
    def call(select=None, partial=False, places=None):
        return gather((read(file, select) for file in find([made.exp] if places is None else places)), partial)
    return call


@pytest.fixture
def table(groups):
    """The table of the one data set of which runs were made."""
    def call(baseline="", **more) -> Table:
        made, = make_tables(groups(**more), read_published(ROOT / "lists/published.yaml"), baseline)
        return made
    return call


def numbers(table: Table) -> dict[str, dict]:
    """{model: the row of table.csv}."""
    return {row["model"]: row for row in numbers_frame([table]).to_dict("records")}


def cells(table: Table, model: str) -> dict[str, str]:
    """The words of a model's row by their heads, with what all rows have in common."""
    common, rows = words(table, columns_of("all"))
    row = next(row for row in rows.to_dict("records") if row["model"].startswith(model))
    return {**row, **{c.head: text.removeprefix(f"{c.head} ") for text in common for c in COLUMNS.values()
                      if text.startswith(f"{c.head} ")}}


# Means

def test_means_and_deviation_by_hand(made, table):
    made.folds("esda", (10, 20, 30, 40), seed=1)   # mean 25
    made.folds("esda", (12, 22, 32, 46), seed=2)   # mean 28
    row, words = numbers(table())["esda"], cells(table(), "esda")
    assert [row[f"miou_fold{k}"] for k in range(4)] == [11, 21, 31, 43]
    assert row["miou"] == 26.5 and row["fb_iou"] == 46.5 and row["seeds"] == "1 2" and row["training_seconds"] == 3601.5
    assert row["miou_std_over_seeds"] == pytest.approx((2 * 1.5 ** 2 / 1) ** 0.5)  # n - 1 = 1
    assert [row[f"miou_selected_by_{rule}"] for rule in ("unseen", "seen", "last")] == [26.5, 25.5, 24.5]
    assert words["mean mIoU"] == "26.5 ± 2.1 (n=2)" and words["fold 3"] == "43.0" and words["FB-IoU"] == "46.5"
    assert [words[f"at {rule}"] for rule in ("unseen", "seen", "last")] == ["26.5", "25.5", "24.5"]
    assert (words["protocol"], words["samples"]) == ("episodic", "1000+1000+1000+1000")
    assert words["selected by"] == "unseen"
    assert words["trained on"] == "seen" and words["GFLOP an image"] == "12.3"
    assert (words["trains, M"], words["parameters, M"], words["training a fold"]) == ("1.25", "5.00", "1:00:02")


def test_one_seed_has_no_deviation_and_the_best_row_is_bold(made, table):
    made.folds("esda", (10, 20, 30, 40))
    assert cells(table(), "esda")["mean mIoU"] == "25.0" and pd.isna(numbers(table())["esda"]["miou_std_over_seeds"])
    made.folds("plain", (9, 19, 29, 39))
    made.folds("ceiling", (60, 60, 60, 60), not_zero_shot="trained on all")
    made.folds("few", (60, 60, 60, 60), samples=10)
    assert [cells(table(), arch)["mean mIoU"] for arch in ("esda", "plain", "ceiling")] == [
        "**25.0**", "24.0", "60.0 (not zero-shot)"]


def test_difference_from_the_baseline_is_paired_and_comes_with_its_error(made, table):
    made.folds("esda", (10, 20, 30, 40))
    made.folds("plain", (9, 19, 29, 35))           # 1, 1, 1 and 5 below
    made.folds("other", (9, 19, 29, 35), protocol="exhaustive")
    made.folds("seeded", (9, 19, 29, 35), seed=2)
    found = numbers(table("plain"))
    assert list(found)[0] == "plain" and pd.isna(found["plain"]["miou_minus_baseline"])
    assert found["esda"]["miou_minus_baseline"] == 2 and found["esda"]["pairs"] == 4
    reach = 3.182446 * 1  # of Student's t with three degrees of freedom, 97.5 %; the standard error is 2 / sqrt(4)
    assert found["esda"]["miou_minus_baseline_low"] == pytest.approx(2 - reach, abs=1e-5)
    assert found["esda"]["miou_minus_baseline_high"] == pytest.approx(2 + reach, abs=1e-5)
    assert cells(table("plain"), "esda")["against plain"] == "+2.0 [-1.2, +5.2], n=4"
    assert "95% interval by Student's t" in markdown(table("plain"))
    assert pd.isna(found["other"]["miou_minus_baseline"]), "it was tested in another way"
    assert "Not against plain: other (exhaustive), tested on other" in markdown(table("plain"))
    assert "Not against" not in markdown(table(""))
    assert cells(table("plain"), "seeded")["against plain"] == "+0.0, n=0", "no pairs, no interval"
    made.folds("plain", (11, 21, 31, 37), seed=2)
    more = numbers(table("plain"))
    assert (more["seeded"]["miou_minus_baseline"], more["seeded"]["pairs"]) == (-2, 4), "only what has a partner counts"
    assert more["seeded"]["miou_minus_baseline_low"] == more["seeded"]["miou_minus_baseline_high"] == -2


def test_select_takes_all_scores_of_that_epoch(made, table):
    for fold in range(4):
        scores = {"fb_iou": 0, "protocol": "episodic", "samples": 1000, "per_class": {f"low {fold}": 39.0}}
        made("esda", fold, 40, selections={"unseen": {"miou": 40, "seen_miou": 60.0 + fold, **scores},
                                           "last": {"miou": 39, "seen_miou": 70.0 + fold, **scores}})
    made.folds("clsclip", [30] * 4)
    assert [cells(table(), arch)["seen, held out"] for arch in ("esda", "clsclip")] == ["61.5", "-"]
    last = table(select="last", places=[made.exp / "pascal/esda"])
    row = numbers(last)["esda"]
    assert (row["miou"], row["fb_iou"], row["seen_held_out_miou"], row["selected_by"]) == (39, 0, 71.5, "last")


def test_scores_of_other_protocols_have_their_own_columns(made, table):
    for fold in range(4):
        made("esda", fold, 40.0 + fold, protocol="generalised", seen_miou=60.0, hiou=48.0, pixel_accuracy=80.0 + fold,
             config={**UNSEEN, "eval": {"protocol": "generalised"}})
        made("drawn", fold, 50.0, miou_std=0.5, draws=[50.0] * 5, config={**UNSEEN, "eval": {"draws": 5}})
        made("once", fold, 50.0)
    words = cells(table(), "esda")
    assert (words["seen mIoU (S)"], words["hIoU"], words["pixel accuracy"]) == ("60.0", "48.0", "81.5")
    drawn = cells(table("once"), "drawn")
    assert drawn["± over draws"] == "0.5" and "against once" not in drawn


def test_runs_are_found_once_wherever_they_are_named(made, table):
    folders = made.folds("esda", (10, 20, 30, 40))
    places = [*folders, made.exp / "pascal/../pascal", folders[0] / "results.json"]
    assert numbers(table(places=places))["esda"]["miou"] == 25


def test_what_test_py_leaves(made, table):
    """Its results know of one epoch, by the file of the weights, and of no seed but the training's."""
    tested = {"selections": None, "training_seconds": None, "config": {"seed": 321}}
    for seed in (1, 2):
        made.folds("esda", (10, 20, 30, 40), seed=seed, checkpoint="x/checkpoints/best_seen.pt", **tested)
    made.folds("released", (10, 20, 30, 40), checkpoint="released/best.pt", trained_on=None, **tested)
    made.folds("everything", (1, 2, 3, 4), checkpoint="", trained_on=None, **tested)
    found = numbers(table())
    for column, values in (("selected_by", ["seen", "unknown", "-"]), ("trained_on", ["seen", "unknown", "-"])):
        assert [found[arch][column] for arch in ("esda", "released", "everything")] == values
    assert found["esda"]["seeds"] == "1 2" and pd.isna(found["esda"]["training_seconds"])
    assert pd.isna(found["esda"]["miou_selected_by_unseen"]) and found["esda"]["miou_selected_by_seen"] == 25
    made.folds("mixed", (10, 20, 30, 40), seed=1)
    made.folds("mixed", (10, 20, 30, 40), seed=2, selections=None, training_seconds=None)
    mixed = numbers(table())["mixed"]
    assert mixed["miou_selected_by_unseen"] == 25 and pd.isna(mixed["miou_selected_by_last"]), "known of some runs only"
    assert pd.isna(mixed["training_seconds"])


# Scores that are not zero-shot

def test_scores_that_are_not_zero_shot_are_marked_everywhere(made, table, groups):
    made.folds("esda", (10, 20, 30, 40))
    made.folds("told", (11, 21, 31, 41), not_zero_shot="its weights saw these masks")
    for k in range(4):
        made("ceiling", k, 50, trained_on={"dataset": "pascal", "fold": 0, "seed": 1, "train_classes": "all"})
        made("elsewhere", k, 50, trained_on={"dataset": "coco", "fold": k, "seed": 1, "train_classes": "seen"})
    found = table()
    assert cells(found, "told")["mean mIoU"] == "26.0 (not zero-shot)" and cells(found, "esda")["mean mIoU"] == "25.0"
    text = markdown(found)
    assert "- told (episodic) is not zero-shot: its weights saw these masks.\n" in text
    assert "- ceiling (episodic) is not zero-shot: trained on masks of all classes" in text
    assert "- elsewhere (episodic) is not zero-shot: trained on coco" in text and "- esda (episodic) is not" not in text
    assert r"told (episodic) is not zero-shot: its weights saw these masks." in latex(found)
    assert numbers(found)["told"]["not_zero_shot"] == "its weights saw these masks"
    assert [bool(why) for why in runs_frame(groups())["not_zero_shot"]] == [
        r.arch != "esda" for g in groups() for r in g.results]
    told = folds_table(next(g for g in groups() if g.first.arch == "told"))
    assert ", not zero-shot: its weights saw these masks\n" in told and "| mIoU, not zero-shot |" in told


# Refusals

def refused(groups, *expected, **options) -> None:
    with pytest.raises(UserError) as caught:
        groups(**options)
    for text in expected:
        assert str(text) in str(caught.value), f"{text!r} is not in {caught.value}"


def test_protocols_are_not_mixed(made, groups):
    folders = made.folds("esda", (10, 20, 30))
    odd = made("esda", 3, 40, protocol="exhaustive")
    refused(groups, *folders, odd, "episodic", "exhaustive", "fold 3 of seed 1")


def test_where_every_image_counts_a_fold_has_its_own_number_of_samples(made, groups, table):
    """But one for all seeds."""
    for seed in (1, 2):
        for fold in range(4):
            made("esda", fold, 40, seed=seed, protocol="exhaustive", samples=700 + fold)
    assert cells(table(), "esda")["samples"] == "700+701+702+703"
    for fold in range(4):
        made("esda", fold, 40, seed=3, protocol="exhaustive", samples=700)
    refused(groups, made.exp / "pascal/esda/fold1/seed1", made.exp / "pascal/esda/fold1/seed3", "samples (701, 700)")


ORIGIN = {"dataset": "pascal", "fold": 3, "seed": 1}


@pytest.mark.parametrize("changes, named", [
    ({"config": {"seed": 1, "model": {"branch_rank": 8}, **UNSEEN}}, "model.branch_rank (2, 8)"),
    ({"not_zero_shot": "its weights saw these masks"}, "differ in being zero-shot (True, False)"),
    ({"clip_fingerprint": "other"}, "CLIP"), ({"parameters": {"trainable": 1, "total": 5_000_000}}, "parameters"),
    ({"samples": 999}, "episodic samples (1000, 999)"), ({"folds": 5}, "number of folds"),
    ({"trained_on": {**ORIGIN, "train_classes": "ignore"}}, "trained on (seen, ignore)"),
    ({"trained_on": {**ORIGIN, "train_classes": "seen", "start": {}}}, "trained on (seen, seen, fine-tuned)"),
    ({"changed_options": {"model.token_order": {"trained": "released", "now": "described"}}}, "others in training"),
    ({"trained_on": {**ORIGIN, "fold": 0, "train_classes": "seen"}}, "trained on (seen, seen of fold 0)")])
def test_configurations_and_weights_are_not_mixed(changes, named, made, groups):
    folders = made.folds("esda", (10, 20, 30))
    refused(groups, folders[0], made("esda", 3, 40, **changes), named)


def test_an_option_that_one_run_lacks_has_its_value_from_before_it_existed(made, groups, table):
    """So a run that has it, at another value, is not averaged with one that lacks it."""
    old = made.folds("esda", (10, 20, 30))[0]
    made("esda", 3, 40, config={"model": {"branch_rank": 2}, "eval": {"fit": "described"}, **UNSEEN})
    assert numbers(table())["esda"]["miou"] == 25
    new = made("esda", 3, 40, run="cut", seed=2, config={"model": {"branch_rank": 2}, "eval": {"fit": "cut"}, **UNSEEN})
    refused(groups, old, new, "differ in eval.fit (described, cut)", partial=True)
    shutil.rmtree(new)
    unknown = made("esda", 3, 40, seed=2, config={"model": {"branch_rank": 2, "later": 1}, **UNSEEN})
    refused(groups, old, unknown, "differ in model.later (None, 1)", partial=True)


def test_options_that_change_no_number_may_differ(made, table):
    made.folds("esda", (10, 20, 30))
    made("esda", 3, 40, config={"model": {"branch_rank": 2}, "data": {"workers": 7}, "device": "cuda", "eval": {
        "batch_size": 3}, "train": {"select": "unseen", "checkpoint_blocks": True}})
    assert numbers(table())["esda"]["miou"] == 25


def test_the_notes_name_the_options_in_which_rows_differ(made, table):
    made.folds("esda", (10, 20, 30, 40))
    made.folds("short", (10, 20, 30, 40), config={"train": {"epochs": 1, "select": "unseen"}, "model": {
        "branch_rank": 0}, "data": {"workers": 1}}, changed_options={"model.size": {"trained": 128, "now": 64}})
    assert "- short (episodic) was tested with other options than trained with: model.size.\n" in markdown(table())
    note, = [line for line in markdown(table()).splitlines() if "differs from" in line]
    assert re.fullmatch(r"- short \(episodic\) differs from esda in model.branch_rank 2 -> 0, train.epochs \d+ -> 1.",
                        note)


def test_the_notes_say_where_budget_data_or_code_are_not_the_same(made, table):
    alike = {"steps": 800, "data": {"val": "v1", "train": "t1"}, "code": "c1"}
    made.folds("esda", (10, 20, 30, 40), **alike)
    made.folds("same", (10, 20, 30, 40), **alike)
    text = markdown(table())
    assert "Not the same" not in text and "; steps 800." in text, "what is common stands above"
    made.folds("short", (1, 2, 3, 4), steps=12, data={"val": "v1", "train": "t2"}, code="c2")
    made.folds("other", (1, 2, 3, 4), **{**alike, "data": {"val": "v2", "train": "t1"}})
    made.folds("tested", (1, 2, 3, 4), selections=None, training_seconds=None)  # by test.py: nobody knows the budget
    text = markdown(table())
    for said in ("budget of steps: 800 in esda, other, same; 12 in short",
                 "budget of training images: 6,400 in esda, other, same; 96 in short",
                 "validation list and masks: v1 in esda, same, short; v2 in other",
                 "training list and masks: t1 in esda, other, same; t2 in short",
                 "code: c1 in esda, other, same; c2 in short"):
        assert f"- Not the same {said}.\n" in text
    assert cells(table(), "tested")["steps"] == "-" and numbers(table())["short"]["images"] == "96"


def test_the_budget_of_older_runs_follows_from_their_options(made, table):
    options = {"train": {"epoch_samples": 160, "batch_size": 16, "select": "unseen"}}
    made.folds("esda", (10, 20, 30, 40), config=options)      # two epochs
    assert cells(table(), "esda")["steps"] == "20" and cells(table(), "esda")["training images"] == "320"
    made.folds("all", (10, 20, 30, 40))                       # an epoch is every image, however many those are
    assert cells(table(), "all")["steps"] == "-"


def test_columns_are_chosen_and_what_all_rows_share_stands_above(made, table):
    made.folds("esda", (10, 20, 30, 40))
    made.folds("plain", (9, 19, 29, 45), training_seconds=60.0)
    common, rows = words(table(), columns_of("mean, time,protocol,fb_iou"))
    assert common == ["protocol episodic"]
    assert list(rows.columns) == ["model", "mean mIoU", "training a fold", "FB-IoU"]
    assert rows.iloc[1].tolist() == ["plain", "**25.5**", "0:01:00", "**45.5**"]
    assert len(words(table())[1].columns) <= 9, "few enough to read"
    with pytest.raises(UserError, match="--columns speed: no such column; there are folds, mean, against, .*time"):
        columns_of("mean,speed")


def test_two_runs_of_one_fold_and_seed(made, groups):
    made.folds("esda", (10, 20, 30, 40))
    again = made("esda", 2, 31, run="again")
    refused(groups, again, made.exp / "pascal/esda/fold2/seed1", "name the one")
    refused(groups, again, partial=True)


def test_missing_folds(made, groups):
    made.folds("esda", (10, 20, 30, 40), seed=1)
    made.folds("esda", (10, 20, 30), seed=2)
    refused(groups, made.exp / "pascal/esda/fold0/seed2", "fold 3 of seed 2", "--partial")


def test_an_epoch_that_results_do_not_know(made, groups):
    made.folds("esda", (10, 20, 30, 40), selections=None, training_seconds=None)
    refused(groups, "results.json", "best.pt", "--select last", select="last")
    shutil.rmtree(made.exp)
    known = {"miou": 1, "fb_iou": 2, "per_class": {}, "protocol": "exhaustive"}
    made.folds("esda", (10, 20, 30, 40), selections={"unseen": known, "last": known})
    refused(groups, "lacks selections.seen", select="seen")
    refused(groups, "exhaustive", "episodic", select="last")


# Partial and published rows

def test_partial_means_are_marked(made, table):
    made.folds("esda", (10, 20, 30, 40), seed=1)
    made.folds("esda", (14, 24), seed=2)
    made.folds("few", (10, 20), seed=1)
    made.folds("few", (12, 22), seed=2)
    made.folds("complete", (10, 20, 30, 40))
    found = table(partial=True)
    assert cells(found, "esda")["mean mIoU"] == "**26.0 (n=2) (partial: 4 of 4 folds)**"  # 12, 22, 30, 40
    assert cells(found, "few")["mean mIoU"] == "16.0 ± 1.4 (n=2) (partial: 2 of 4 folds)"
    assert cells(found, "few")["fold 2"] == "-" and cells(found, "complete")["mean mIoU"] == "25.0"
    assert "- esda (episodic) is partial: seed 1: folds 0, 1, 2, 3; seed 2: folds 0, 1." in markdown(found)
    assert pd.isna(numbers(found)["esda"]["miou_std_over_seeds"])


def test_published_rows_stand_beside_and_are_marked(made, table):
    made.folds("esda", (10, 20, 30, 40))
    lseg = cells(table(), "LSeg RN101")
    assert re.fullmatch(r"LSeg RN101, published \[\d\]", lseg["model"]) and lseg["mean mIoU"] == "47.4"
    assert [lseg[f"fold {k}"] for k in range(4)] == ["52.8", "53.8", "44.4", "38.5"]
    assert f"- {lseg['model'][-3:]} published, not run here: LSeg's README; HSNet's data." in markdown(table())
    assert cells(table(), "ESDA ViT-B")["fold 0"] == "-"
    found = numbers(table())
    assert found["esda"]["published"] == "no" and found["SAZS ViT-L"]["miou"] == 59.5, "PASCAL's, not COCO's"
    assert all(row["published"] == "yes" and row["source"] for model, row in found.items() if model != "esda")
    shutil.rmtree(made.exp)
    made.folds("esda", (10, 20, 30, 40), dataset="shapes")
    assert list(numbers(table())) == ["esda"]


def test_the_list_of_published_scores(tmp_path):
    listed = {(p.dataset, p.model): p.mean for p in read_published(ROOT / "lists/published.yaml")}
    assert listed["coco", "ClsCLIP+ ViT-B"] == 52.9 and len(listed) == 10
    wrong = tmp_path / "wrong.yaml"
    for text, message in (("- {dataset: pascal, model: M, miou: [1, 2, 3, 4], mean: 2.6, source: S}", "not the mean"),
                          ("- {dataset: pascal, model: M, mean: 2.5}", "source"), ("7", "list of entries"),
                          ("- {dataset: pascal, model: M, mean: .nan, source: S}", "0 to 100"), ("[[", "list of")):
        wrong.write_text(text)
        with pytest.raises(UserError, match=f"wrong.yaml.*{message}"):
            read_published(wrong)


# The command and its formats

@pytest.fixture
def run(made, tmp_path, monkeypatch, capsys):
    def call(*options, places=None) -> str:
        places = [made.exp] if places is None else places
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, [*places, "--out", tmp_path / "out", *options])])
        compare.main()
        return capsys.readouterr().out
    return call


def test_all_formats_have_full_rows(made, run, tmp_path):
    made.folds("50%_of&{it}|#1", (10, 20, 30, 40), seed=1, command="python train.py fold=K", code="abc1234",
               name_auc=0.91)
    made.folds("50%_of&{it}|#1", (11, 21, 31, 41), seed=2)
    made.folds("esda", (10, 20, 30, 40), dataset="shapes", selections={}, training_seconds=None)
    printed, out = run("--baseline", "esda"), tmp_path / "out"
    assert (out / "table.md").read_text() == printed and "50%_of&{it}\\|#1" in printed
    for section in printed.split("\n\n"):
        if section.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in section.splitlines()}) == 1
    lines = list(csv.reader((out / "table.csv").read_text().splitlines()))
    assert len(lines) == 1 + 2 + 5 and {len(line) for line in lines} == {len(lines[0])}
    runs = list(csv.DictReader((out / "runs.csv").read_text().splitlines()))
    assert len(runs) == 12 and [run["fold"] for run in runs[:4]] == list("0123")
    first = next(run for run in runs if run["command"])
    assert (first["command"], first["code"], first["name_auc"]) == ("python train.py fold=K", "abc1234", "0.91")
    assert first["miou"] == "10" and first["miou_selected_by_last"] == "8" and first["seed"] == "1"
    assert all(run["miou_selected_by_last"] == "" for run in runs if run["dataset"] == "shapes")
    text = (out / "table.tex").read_text()
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2 and r"50\%\_of\&\{it\}|\#1" in text
    bare = re.sub(r"\\[&%$#_{}]", "", "\n".join(text.splitlines()[1:]))  # without what is escaped, and the remark
    opened = re.findall(r"\\begin\{([a-z*]+)\}", bare)
    assert sorted(opened) == sorted(re.findall(r"\\end\{([a-z*]+)\}", bare)) and len(opened) == 4
    assert bare.count("{") == bare.count("}") and not set("%#_~^") & set(bare) and bare.count("$") % 2 == 0
    for columns, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", bare, re.S):
        body = [line for line in body.splitlines() if line.endswith("\\\\")]
        assert len(body) >= 2 and all(line.count("&") == len(columns) - 1 for line in body)


def test_mistakes_on_the_command_line(made, run, tmp_path, monkeypatch):
    made.folds("esda", (10, 20, 30, 40))
    (tmp_path / "empty").mkdir()
    for options, places, message in (
            (["--baseline", "plane"], None, "--baseline plane: no run is of that arch; there are esda"),
            (["--published", tmp_path / "none.yaml"], None, "none.yaml: no such file; --published"),
            ([], [tmp_path / "nowhere"], "nowhere: no such folder"),
            ([], [tmp_path / "empty"], "empty: holds no results.json")):
        with pytest.raises(UserError, match=message):
            run(*options, places=places)
    monkeypatch.setattr(compare, "find_spec", lambda package: None if package == "pandas" else object())
    with pytest.raises(UserError, match=r"needs pandas: .* -m pip install -r .*requirements-extra.txt"):
        run()
    assert not (tmp_path / "out").exists()


def test_without_the_extras_one_line_but_the_table_of_folds_and_the_effects(made, tmp_path):
    for fold in range(4):
        made("esda", fold, 10.0 * fold, dataset="shapes")
        made("esda", fold, 10.0 * fold + 1, dataset="shapes", seed=2, config={"model": {"branch_rank": 0}})
    code = ("import runpy, sys; sys.modules.update(pandas=None, matplotlib=None); "
            "module, *sys.argv[1:] = sys.argv[1:]; runpy.run_module(module, run_name='__main__')")
    for module, arguments, status, said in (
            ("util.results.table", ["--config", "config/shapes/esda.yaml", f"exp={made.exp}", "run=seed1"], 0,
             "| mean | 15.0 | 35.0 |"),
            ("util.compare.effects", [made.exp], 0, "| model.branch_rank: 2 -> 0 | +1.0 ± 0.0 |"),
            ("util.compare", [made.exp, "--out", tmp_path / "out"], 2,
             "error: util.compare needs pandas, matplotlib: ")):
        done = subprocess.run([sys.executable, "-c", code, module, *map(str, arguments)], cwd=ROOT, text=True,
                              env=ENVIRONMENT, capture_output=True, timeout=300)
        assert done.returncode == status and said in done.stdout + done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and "requirements-extra.txt" in done.stderr and not (tmp_path / "out").exists()

"""Runs are found, read and grouped, and those that cannot be averaged are refused."""
import pytest

from util.runtime.errors import UserError
from util.training.folds import folds_table

UNSEEN = {"train": {"select": "unseen"}}
ORIGIN = {"dataset": "pascal", "fold": 3, "seed": 1}
TESTED = {"selections": None, "training_seconds": None, "steps": None, "images": None}  # by test.py


def refused(groups, *expected, **options) -> None:
    with pytest.raises(UserError) as caught:
        groups(**options)
    for text in expected:
        assert str(text) in str(caught.value), f"{text!r} is not in {caught.value}"


def test_runs_are_found_once_wherever_they_are_named(made, groups, tmp_path):
    folders = made.folds("esda", (10, 20, 30))
    folders.append(made("esda", 3, 40, samples=704, config={     # these may differ
        "model": {"branch_rank": 2}, "data": {"workers": 7}, "device": "cuda", "eval": {"batch_size": 3}, **UNSEEN}))
    group, = groups(places=[*folders, made.exp / "pascal/../pascal", folders[0] / "results.json"])
    assert [r.scores["miou"] for r in group.results] == [10, 20, 30, 40] and group.label == "esda"
    (tmp_path / "empty").mkdir()
    for place in ("empty", "nowhere"):
        refused(groups, f"{place}: holds no results.json", places=[tmp_path / place])


def test_select_takes_the_scores_of_that_epoch_alone(made, groups):
    made.folds("esda", (10, 20, 30, 40), confusion={"low 0": {"background": 1}}, name_auc=0.9)
    tested, last = groups()[0].results[0], groups("last")[0].results[0]
    assert (tested.selection, tested.scores["miou"], tested.scores["name_auc"]) == ("unseen", 10, 0.9)
    assert last.selection == "last" and last.scores == {
        "miou": 8, "fb_iou": 28, "per_class": {"low 0": -2, "high 0": 18}}, "nothing of the tested epoch"


def test_what_test_py_leaves(made, groups):
    """Its results know of one epoch, by the file of the weights, and of no seed but the training's."""
    tested = {**TESTED, "config": {"seed": 321}}
    for seed in (1, 2):
        made.folds("esda", (10, 20, 30, 40), seed=seed, checkpoint="x/checkpoints/best_seen.pt", **tested)
    made.folds("released", (10, 20, 30, 40), checkpoint="released/best.pt", trained_on=None, **tested)
    made.folds("everything", (1, 2, 3, 4), checkpoint="", trained_on=None, **tested)
    first = {g.label: g.results[0] for g in groups()}
    assert [r.selection for r in first.values()] == ["seen", "none", "unknown"]
    assert [r.trained_on for r in first.values()] == ["seen", "none", "unknown"]
    assert [r.seed for r in groups()[0].results[:2]] == [1, 2]


@pytest.mark.parametrize("changes, said", [
    (TESTED, "no episodic score"), ({"protocol": "generalised"}, "no generalised"), ({"version": 2}, "version 2")])
def test_results_that_do_not_know_the_epoch_or_are_of_another_version(changes, said, made, groups):
    made.folds("esda", (10, 20, 30, 40), **changes)
    refused(groups, "results.json", said, select="last")


@pytest.mark.parametrize("changes, named", [
    ({"config": {"seed": 1, "model": {"branch_rank": 8}, **UNSEEN}}, "model.branch_rank (2, 8)"),
    ({"not_zero_shot": "its weights saw these masks"}, "differ in being zero-shot (True, False)"),
    ({"clip_fingerprint": "other"}, "CLIP's weights"), ({"folds": 5}, "number of folds"),
    ({"trained_on": {**ORIGIN, "train_classes": "ignore"}}, "training data (seen, ignore)"),
    ({"trained_on": {**ORIGIN, "train_classes": "seen", "start": {}}}, "training data (seen, seen, fine-tuned)"),
    ({"trained_on": {**ORIGIN, "train_classes": "seen", "extended": [10]}}, "planned for 10 epochs and extended"),
    ({"trained_on": {**ORIGIN, "fold": 0, "train_classes": "seen"}}, "training data (seen, seen of fold 0)"),
    ({"trained_on": {**ORIGIN, "dataset": "coco", "train_classes": "all"}}, "training data (seen, all of coco)"),
    ({"changed_options": {"model.token_order": {"trained": "released", "now": "described"}}}, "others in training")])
def test_configurations_and_weights_are_not_mixed(changes, named, made, groups):
    folders = made.folds("esda", (10, 20, 30))
    refused(groups, folders[2], made("esda", 3, 40, **changes), named)


@pytest.mark.parametrize("changes, named", [
    ({"samples": 701}, "samples (1000, 701)"), ({"data": {"val": "v2", "train": "t1"}}, "validation data (v1, v2)"),
    ({"config": {"seed": 2, "model": {"branch_rank": 2}, "eval": {"manifest": "M.txt"}, **UNSEEN}}, "eval.manifest")])
def test_all_seeds_of_a_fold_have_one_test(changes, named, made, groups):
    made.folds("esda", (10, 20, 30, 40))
    refused(groups, made("esda", 3, 40, seed=2, **changes), made.exp / "pascal/esda/fold3/seed1", named, partial=True)


def test_protocols_and_selections_have_groups_of_their_own(made, groups):
    folders = made.folds("esda", (10, 20, 30))
    made("esda", 3, 40, protocol="exhaustive")
    refused(groups, *folders, "pascal episodic esda, selection unseen, lacks fold 3 of seed 1")
    made.folds("told", (10, 20, 30, 40), not_zero_shot="saw them")
    made.folds("told", (9, 19, 29, 39), not_zero_shot="saw them", run="last", checkpoint="last.pt", **TESTED)
    assert [g.label for g in groups(partial=True)] == [
        "esda", "esda", "told, selected by last (not zero-shot)", "told, selected by unseen (not zero-shot)"]
    again = made("esda", 2, 31, run="again")
    refused(groups, again, folders[2], "name the one", partial=True)


def test_the_table_of_folds_by_hand(made, groups):
    for fold in range(4):
        made("esda", fold, 10 + fold, name_auc=0.9, **{"hiou": 40.0} if fold else {})
    assert folds_table(groups()[0]).splitlines() == [
        "pascal, esda: unseen classes, episodic protocol, 1000 + 1000 + 1000 + 1000 samples", "",
        "| fold | mIoU | FB-IoU | name AUC |", "|---|---:|---:|---:|",
        *(f"| {k} | {10 + k}.0 | {30 + k}.0 | 0.900 |" for k in range(4)), "| mean | 11.5 | 31.5 | 0.900 |"]
    made.folds("told", (11, 21), not_zero_shot="its weights saw these masks")
    table = folds_table(groups(partial=True)[1])
    assert "NOT ZERO-SHOT: its weights saw these masks\n" in table and "| mean | 16.0 |" in table

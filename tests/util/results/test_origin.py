"""What weights were trained on decides whether a score is zero-shot, and under which options they are tested."""
import pytest
import yaml

from util.config import ROOT, Config, from_dict, load, to_dict
from util.results.final import table
from util.results.origin import changed_options, in_words, not_zero_shot, origin_of, origin_of_checkpoint
from util.runtime.errors import UserError


def config(dataset="pascal", *overrides) -> Config:
    return load(Config, ROOT / "config" / dataset / "esda.yaml", list(overrides))


FOLD_0 = origin_of(config())


def test_a_run_knows_the_classes_whose_masks_it_trains_on():
    assert len(FOLD_0["classes"]) == 15 and "bus" in FOLD_0["classes"] and "bird" not in FOLD_0["classes"]
    assert len(origin_of(config("pascal", "data.train_classes=all"))["classes"]) == 20
    assert origin_of(config("pascal", "data.train_classes=ignore"))["classes"] == FOLD_0["classes"]


@pytest.mark.parametrize("trained, tested, named", [
    (config(), config(), None),
    (config(), config("pascal", "data.names=annotation", "model.prompt={}"), None),
    (config("pascal", "data.train_classes=ignore"), config(), None),
    (config(), config("pascal", "fold=1"), "bus, car, cat, chair, cow (pascal fold 0)"),
    (config("pascal", "data.train_classes=all"), config(), "bottle (pascal fold 0, all classes)"),
    (config("pascal", "data.folds=interleaved"), config(), "bicycle, bird, boat (pascal fold 0)"),  # ids 2, 3, 4
    (config("coco"), config("pascal", "fold=3"), "tv monitor"),
    (config("shapes"), config("pascal", "fold=1"), None)])
def test_classes_trained_on_are_named_whatever_fold_or_data_set_they_come_from(trained, tested, named, tmp_path):
    if trained.dataset == "coco":  # another spelling, and another file
        path = tmp_path / "classes.yaml"
        path.write_text(yaml.safe_dump({"classes": ["cat", "TV-Monitor"], "folds": [["cat"], ["TV-Monitor"]]}))
        trained = load(Config, ROOT / "config/coco/esda.yaml", [f"data.classes={path}", "data.folds=file"])
    reason = not_zero_shot(origin_of(trained), tested)
    assert (named in reason) if named else reason == ""


def test_weights_that_training_started_from_count():
    start = {"file": "a.pt", "epoch": 3, "carries_clip": False, "trained_on": FOLD_0}
    reason = not_zero_shot(origin_of(config("pascal", "fold=1"), start), config("pascal", "fold=1"))
    assert "bus" in reason and "pascal fold 0" in reason
    assert not not_zero_shot(origin_of(config(), start), config())
    assert not not_zero_shot(origin_of(config(), {**start, "trained_on": None}), config())


def test_a_checkpoint_that_does_not_name_its_classes_is_judged_by_its_fold(tmp_path):
    """As checkpoints of older versions, first with and then without their file of classes."""
    saved = {"config": to_dict(config())}
    assert origin_of_checkpoint(saved, "a.pt") == FOLD_0
    saved["config"]["data"]["classes"] = str(tmp_path / "gone.yaml")
    saved["config"]["no_longer"] = saved["config"]["model"]["known"] = 1
    gone = origin_of_checkpoint(saved, "a.pt")
    assert gone["classes"] is None and not not_zero_shot(gone, config())
    assert "pascal fold 0" in not_zero_shot(gone, config("pascal", "fold=1"))
    assert "pascal fold 0" in not_zero_shot({**gone, "train_classes": "all"}, config())
    assert origin_of_checkpoint({"config": None}, "released.pth") is None


@pytest.mark.parametrize("odd", [
    3, {}, [], {**FOLD_0, "fold": "0"}, {**FOLD_0, "classes": 3}, {**FOLD_0, "classes": [3]},
    {**FOLD_0, "classes": ""}, {key: value for key, value in FOLD_0.items() if key != "classes"},
    {**FOLD_0, "train_classes": "some"}, {**FOLD_0, "start": 3}, {**FOLD_0, "start": {"trained_on": 3}}])
def test_an_odd_entry_is_named(odd):
    with pytest.raises(UserError, match="a.pt: its 'trained_on'"):
        origin_of_checkpoint({"config": to_dict(config()), "trained_on": odd}, "a.pt")


def test_options_of_the_model_that_differ_from_training_are_named():
    saved = {"config": to_dict(config())}
    tested = config("pascal", "model.token_order=released", "model.align_corners=true", "data.names=annotation",
                    "model.clip=elsewhere.pt", "data.workers=0", "eval.fit=cut", "train.lr=1")
    changed = changed_options(saved, tested)
    assert sorted(changed) == ["data.names", "model.align_corners", "model.token_order"]
    assert changed["model.token_order"] == {"trained": "described", "now": "released"}
    assert "model.align_corners (trained with False, now True)" in in_words(changed)
    saved["config"]["model"]["gate"] = 0.5  # of another version, which this one does not know
    assert changed_options(saved, config()) == {"model.gate": {"trained": 0.5, "now": None}}
    del saved["config"]["model"]["gate"], saved["config"]["model"]["token_order"]
    assert from_dict(Config, saved["config"], "a.pt") == config() and not changed_options(saved, config())


def test_a_released_checkpoint_stands_for_the_released_options():
    released = load(Config, ROOT / "config/coco/released.yaml", ["model.size=352"])
    assert not changed_options({"config": None}, released)
    changed = changed_options({"config": None}, config())
    assert {"model.token_order", "model.cls_twice", "model.prompt"} <= changed.keys()


def results(**more) -> dict:
    return {"dataset": "pascal", "arch": "esda", "fold": 1, "protocol": "episodic", "samples": 5, "miou": 75.6,
            "fb_iou": 80.0, "per_class": {"bus": 75.6}, "checkpoint": "a.pt", **more}


def test_the_table_says_what_the_score_is_worth():
    published = table(results(trained_on=FOLD_0))
    assert "unseen classes" in published and "as published" in published
    seen = table(results(trained_on=FOLD_0, not_zero_shot="trained on masks of bus", changed_options={
        "model.token_order": {"trained": "described", "now": "released"}}))
    assert "NOT ZERO-SHOT: trained on masks of bus" in seen and "as published" not in seen and "unseen" not in seen
    assert "model.token_order (trained with 'described', now 'released')" in seen
    assert "75.6 (not zero-shot)" in seen and "not zero-shot)" not in published, "beside the number"
    every = table(results(not_zero_shot="trained on masks of bus", hiou=70.0, seen_miou=60.0, pixel_accuracy=90.0,
                          background_iou=80.0))
    assert "the fold's mIoU (U) 75.6 (not zero-shot)" in every and "unseen" not in every
    unknown = table(results())
    assert "does not say" in unknown and "as published" not in unknown
    start = {"file": "a.pth", "epoch": 3, "carries_clip": True, "trained_on": None}
    assert "started from a.pth, which does not say" in table(results(trained_on={**FOLD_0, "start": start}))

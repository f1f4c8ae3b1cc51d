"""What weights were trained on decides whether a score is zero-shot, and under which options they are tested."""
import pytest
import yaml

from util.config import ROOT, Config, load, to_dict
from util.run.origin import changed_options, in_words, not_zero_shot, origin_of


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
    (config("coco"), config("pascal", "fold=3"), "tv monitor"),
    (config("shapes"), config("pascal", "fold=1"), None)])
def test_classes_trained_on_are_named_whatever_fold_or_data_set_they_come_from(trained, tested, named, tmp_path):
    if trained.dataset == "coco":  # another spelling, and another file
        path = tmp_path / "classes.yaml"
        path.write_text(yaml.safe_dump({"classes": ["cat", "TV-Monitor"], "folds": [["cat"], ["TV-Monitor"]]}))
        trained = config("coco", f"data.classes={path}")
    reason = not_zero_shot(origin_of(trained), tested)
    assert (named in reason) if named else reason == ""


def test_weights_that_training_started_from_count():
    start = {"file": "a.pt", "epoch": 3, "trained_on": FOLD_0}
    reason = not_zero_shot(origin_of(config("pascal", "fold=1"), start), config("pascal", "fold=1"))
    assert "bus" in reason and "pascal fold 0" in reason
    assert not not_zero_shot(origin_of(config(), start), config())
    assert not not_zero_shot(origin_of(config(), {**start, "trained_on": None}), config())


def test_options_of_the_model_that_differ_from_training_are_named():
    tested = config("pascal", "model.token_order=released", "model.align_corners=true", "data.names=annotation",
                    "model.clip=elsewhere.pt", "data.workers=0", "eval.fit=cut", "train.lr=1")
    changed = changed_options({"config": to_dict(config())}, tested)
    assert sorted(changed) == ["data.names", "model.align_corners", "model.token_order"]
    assert changed["model.token_order"] == {"trained": "described", "now": "released"}
    assert "model.align_corners (trained with False, now True)" in in_words(changed)
    heads = [load(Config, ROOT / "config/pascal/catseg.yaml", [f"peers.names={names}"]) for names in (16, 4)]
    assert sorted(changed_options({"config": to_dict(heads[0])}, heads[1])) == ["peers.names"]
    older = to_dict(config())
    del older["model"]["token_order"]   # of a version that had no such option
    assert changed_options({"config": older}, tested)["model.token_order"]["trained"] == "described"


def test_a_released_checkpoint_stands_for_the_released_options():
    released = load(Config, ROOT / "config/coco/released.yaml", ["model.size=352"])
    assert not changed_options({"config": None}, released)
    assert {"model.token_order", "model.cls_twice", "model.prompt"} <= changed_options(
        {"config": None}, config()).keys()

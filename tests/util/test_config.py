"""Options: one schema, one documented default each, and a clear line for every way to get them wrong."""
from pathlib import Path

import pytest
import yaml

from data.shapes.make import ShapesData
from data.shapes.pretrain.__main__ import Pretrain, Stage
from util.config import BASE, ROOT, Config, _paths, from_command_line, from_dict, load, to_dict
from util.runtime.errors import UserError

ESDA = ROOT / "config" / "shapes" / "esda.yaml"
OTHER_SCHEMAS = {"config/shapes/pretrain.yaml": Pretrain, "config/shapes/data.yaml": ShapesData}
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("config/*/*.yaml"))


def leaves(values: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def complaint(*overrides: str, file: Path = ESDA) -> str:
    with pytest.raises(UserError) as caught:
        load(Config, file, list(overrides))
    return str(caught.value)


# Files

def test_base_has_exactly_the_options_of_the_schema():
    assert leaves(yaml.safe_load(BASE.read_text(encoding="utf-8"))) == set(_paths(Config))


@pytest.mark.parametrize("file", [name for name in CONFIGS if name not in OTHER_SCHEMAS])
def test_every_config_loads(file):
    assert isinstance(load(Config, ROOT / file), Config)


@pytest.mark.parametrize("file", OTHER_SCHEMAS)
def test_every_shapes_tool_config_loads(file):
    schema = OTHER_SCHEMAS[file]
    cfg = load(schema, ROOT / file, base=None)
    assert isinstance(cfg, schema)
    assert all(isinstance(stage, Stage) for cycle in getattr(cfg, "cycles", []) for stage in cycle.stages)


def test_a_config_is_laid_over_base_and_overrides_over_both():
    base, config = load(Config, BASE), load(Config, ESDA)
    overridden = load(Config, ESDA, ["train.epochs=7", "model.clip=elsewhere.pt", "fold=3", "train.epochs=8"])
    assert (base.dataset, config.dataset, overridden.dataset) == ("pascal", "shapes", "shapes")
    assert overridden.train.epochs == 8, "the last of two wins"
    assert (overridden.model.clip, overridden.fold) == ("elsewhere.pt", 3)
    assert overridden.train.momentum == base.train.momentum


def test_resolved_options_survive_a_round_trip_through_yaml():
    cfg = load(Config, ESDA, ["train.lr=1e-3", "model.branch_indices=[0, 2]"])
    assert from_dict(Config, yaml.safe_load(yaml.safe_dump(to_dict(cfg))), "a run") == cfg


def test_extends_lays_a_file_over_another(tmp_path):
    write(tmp_path / "grandparent.yaml", "fold: 1\ntrain: {epochs: 5, lr: 0.5}\n")
    write(tmp_path / "deep" / "parent.yaml", "extends: ../grandparent.yaml\ntrain: {epochs: 6}\n")
    child = write(tmp_path / "child.yaml", "extends: deep/parent.yaml\nseed: 9\n")
    cfg = load(Config, child, ["train.warmup=3"])
    assert (cfg.fold, cfg.train.epochs, cfg.train.lr, cfg.seed, cfg.train.warmup) == (1, 6, 0.5, 9, 3)


@pytest.mark.parametrize("first, second", [("self.yaml", "self.yaml"), ("a.yaml", "b.yaml"),
                                           ("a.yaml", "../loop/b.yaml")])
def test_files_that_extend_each_other_are_an_error(tmp_path, first, second):
    folder = tmp_path / "loop"
    write(folder / first, f"extends: {second}\n")
    write(folder / second, f"extends: ../loop/{first}\n" if ".." in second else f"extends: {first}\n")
    assert "extends" in complaint(file=folder / first)


def test_extending_a_missing_file_names_it(tmp_path):
    child = write(tmp_path / "child.yaml", "extends: nowhere.yaml\n")
    assert "nowhere.yaml" in complaint(file=child)


@pytest.mark.parametrize("text", ["extends: [a.yaml]\n", "extends: 3\n"])
def test_extends_wants_a_file_name(tmp_path, text):
    assert "extends" in complaint(file=write(tmp_path / "odd.yaml", text))


def test_a_missing_file_is_named(tmp_path):
    message = complaint(file=tmp_path / "nowhere.yaml")
    assert "nowhere.yaml" in message and "config/" in message


@pytest.mark.parametrize("text", ["train: {epochs: 3", "a: b: c", "\tfold: 1"])
def test_broken_yaml_names_the_file(tmp_path, text):
    message = complaint(file=write(tmp_path / "broken.yaml", text))
    assert "broken.yaml" in message and "YAML" in message


@pytest.mark.parametrize("text", ["- fold", "just words"])
def test_a_config_must_be_a_mapping(tmp_path, text):
    assert "mapping" in complaint(file=write(tmp_path / "odd.yaml", text))


def test_a_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"\x80\x02\xff\x00binary")
    assert "weights.pt" in complaint(file=path)


def test_an_empty_config_is_the_defaults(tmp_path):
    assert load(Config, write(tmp_path / "empty.yaml", "# nothing\n")) == load(Config, BASE)


def test_a_missing_option_is_named(tmp_path):
    with pytest.raises(UserError, match="jpeg_quality"):
        load(ShapesData, write(tmp_path / "data.yaml", "root: here\nclasses: c\nseed: 1\ntrain: 1\nval: 1\nside: 8\n"
                               "objects: [1, 2]\ndiameter: [1, 2]\nrotation: 0\noverlap: 0\n"), base=None)


# Values

@pytest.mark.parametrize("text, value", [("1e-3", 1e-3), ("1.0e-3", 1e-3), ("0.01", 0.01), ("2", 2.0)])
def test_numbers_are_read_as_people_write_them(text, value):
    lr = load(Config, ESDA, [f"train.lr={text}"]).train.lr
    assert lr == value and isinstance(lr, float)


def test_null_stands_for_a_list_that_is_not_given():
    assert load(Config, ESDA, ["model.branch_indices=[1, 2]"]).model.branch_indices == [1, 2]
    assert load(Config, ESDA, ["model.branch_indices=null"]).model.branch_indices is None
    assert "model.replace_indices" in complaint("model.replace_indices=null")


def test_an_empty_value_is_empty_text():
    assert load(Config, ESDA, ["run="]).run == ""


@pytest.mark.parametrize("text", ["a photo of a {}", "{}", "scene: {}", "007", "2025-01-01", "12:30:00", "no", "a #5",
                                  "exp/a=b"])
def test_text_on_the_command_line_is_taken_as_it_stands(text):
    """The shell has already unquoted it; that YAML would read a date or a mapping there is no concern of the user's."""
    assert load(Config, ESDA, [f"model.prompt={text}"]).model.prompt == text


@pytest.mark.parametrize("wrong, nearest", [("train.Ir=1", "train.lr"), ("modle.clip=x", "model.clip"),
                                            ("epoch=3", "train.epochs"), ("lr=1e-3", "train.lr"),
                                            ("eval.protocl=episodic", "eval.protocol"), ("Fold=1", "fold")])
def test_a_misspelt_key_names_the_nearest(wrong, nearest):
    message = complaint(wrong)
    assert repr(wrong.split("=")[0]) in message and f"did you mean {nearest!r}" in message


def test_a_misspelt_key_in_a_file_names_file_and_nearest(tmp_path):
    message = complaint(file=write(tmp_path / "typo.yaml", "train:\n  epohcs: 3\n"))
    assert "typo.yaml" in message and "'train.epochs'" in message


def test_a_misspelt_key_in_another_schema_names_its_own_options(tmp_path):
    with pytest.raises(UserError, match="'jpeg_quality'"):
        load(ShapesData, ROOT / "config/shapes/data.yaml", ["jpg_quality=3"], base=None)


@pytest.mark.parametrize("wrong, wanted", [
    ("train.epochs=many", "whole number"), ("train.epochs=1.5", "whole number"), ("train.epochs=", "whole number"),
    ("fold=true", "whole number"), ("train.lr=fast", "number"), ("train.lr=true", "number"),
    ("model.text_tokens=1", "true or false"), ("augment.scale=1", "list"), ("augment.scale=[a, b]", "number"),
    ("model.branch_indices=3", "list"), ("fold.x=1", "whole number")])
def test_a_wrong_type_names_option_value_and_type(wrong, wanted):
    message = complaint(wrong)
    assert wrong.split("=")[0].removesuffix(".x") in message and wanted in message


@pytest.mark.parametrize("wrong, nearest", [("precision=fp31", "fp32"), ("model.kind=clip_pior", "clip_prior"),
                                            ("train.optimizer=adam", "adamw"), ("data.train_classes=seem", "seen"),
                                            ("eval.protocol=Exhaustive", "exhaustive")])
def test_a_value_outside_the_vocabulary_names_the_nearest(wrong, nearest):
    key, value = wrong.split("=")
    message = complaint(wrong)
    assert key in message and repr(value) in message and f"did you mean {nearest!r}" in message


def test_a_group_given_a_value_names_one_of_its_options():
    assert "train.epochs" in complaint("train=3")


def test_an_override_without_equals_sign_is_an_error():
    message = complaint("fold")
    assert "'fold'" in message and "key=value" in message


# The command line

def test_the_command_line_is_config_and_overrides_in_any_order():
    expected = load(Config, ESDA, ["fold=2", "train.lr=0.5"])
    assert from_command_line(["--config", str(ESDA), "fold=2", "train.lr=0.5"]) == expected
    assert from_command_line(["fold=2", "--config", str(ESDA), "train.lr=0.5"]) == expected


@pytest.mark.parametrize("override", [
    "data.workers=-1", "train.batch_size=0", "eval.batch_size=0", "train.log_every=0", "model.size=0", "model.dropout=2",
    "model.pixel_mean=[0.5]", "augment.blur=4", "seed=-1", "train.lr=nan", "model.prompt={} {}", "model.prompt={name}",
    "model.prompt=a photo", "train.epochs=0", "augment.scale=[1.0]", "augment.scale=[1.1, 0.9]"])
def test_a_value_that_cannot_work_is_refused_before_anything_starts(override):
    with pytest.raises(UserError, match=override.split("=")[0]):
        from_command_line(["--config", str(ROOT / "config/shapes/esda.yaml"), override])

"""Options: one schema, one documented default each, and a clear line for every way to get them wrong."""
import dataclasses
import os
from pathlib import Path

import pytest
import yaml

from data.shapes.make import ShapesData
from data.shapes.pretrain.__main__ import Pretrain, Stage
from model import build
from util import config
from util.config import (
    BASE,
    ROOT,
    Config,
    Model,
    changes_numbers,
    completed,
    flat,
    from_command_line,
    from_dict,
    load,
    options,
    reference,
    to_dict,
)
from util.options import CLIP_ALONE, TRAINED, option
from util.runtime.errors import UserError

ESDA = ROOT / "config" / "shapes" / "esda.yaml"
OTHER_SCHEMAS = {"config/shapes/pretrain.yaml": Pretrain, "config/shapes/data.yaml": ShapesData}
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("config/*/*.yaml"))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def complaint(*overrides: str, file: Path = ESDA) -> str:
    with pytest.raises(UserError) as caught:
        load(Config, file, list(overrides))
    return str(caught.value)


# Files

def test_base_yaml_is_what_the_declarations_say():
    assert BASE.read_text(encoding="utf-8") == reference(), "run: python -m util.config > config/base.yaml"
    assert yaml.safe_load(reference()) == to_dict(Config()), "the page is a config that gives the defaults"


def test_every_option_is_explained_and_every_number_is_bounded():
    for name, f in options(Config):
        assert f.metadata["help"], name
        if config._kind(Config, name) in (int, float, list[float], list[int], list[int] | None):
            assert f.metadata["least"] is not None, name


@pytest.mark.parametrize("file", CONFIGS)
def test_every_config_loads(file):
    schema = OTHER_SCHEMAS.get(file, Config)
    cfg = load(schema, ROOT / file)
    assert isinstance(cfg, schema)
    assert all(isinstance(stage, Stage) for cycle in getattr(cfg, "cycles", []) for stage in cycle.stages)


def test_a_config_is_laid_over_base_and_overrides_over_both():
    base, config = load(Config, BASE), load(Config, ESDA)
    overridden = load(Config, ESDA, ["train.epochs=7", "model.clip=elsewhere.pt", "fold=3", "train.epochs=8"])
    assert (base.dataset, config.dataset, overridden.dataset) == ("pascal", "shapes", "shapes")
    assert overridden.train.epochs == 8, "the last of two wins"
    assert (overridden.model.clip, overridden.fold) == ("elsewhere.pt", 3)
    assert overridden.train.momentum == base.train.momentum


# Saved options

def test_options_saved_before_one_existed_get_its_value_of_that_time(monkeypatch):
    @dataclasses.dataclass
    class Newer(Model):
        gate: float = option(0.5, "an option of tomorrow, on by default", least=0, before=0.0)
        depth: int = option(3, "another, whose default is as it ever was")
    monkeypatch.setitem(Config.__annotations__, "model", Newer)
    saved = to_dict(from_dict(Config, {}, "x"))
    del saved["model"]["gate"], saved["model"]["depth"], saved["train"]["text_noise"]
    assert (Config(model=Newer()).model.gate, completed(saved)["model"]["gate"]) == (0.5, 0.0)
    read = from_dict(Config, saved, "a checkpoint")
    assert (read.model.gate, read.model.depth, read.train.text_noise) == (0.0, 3, 0.0)
    assert from_dict(Newer, saved["model"], "a checkpoint") == read.model
    assert to_dict(read) == completed(saved) and completed(completed(saved)) == completed(saved)


def test_a_saved_option_that_is_unknown_is_told():
    saved = to_dict(Config())
    other = {**saved, "model": {**saved["model"], "old": "fancy"}, "new": 1}
    assert flat(completed(other))["model.old"] == "fancy" and completed(other)["new"] == 1, "so that they differ"
    with pytest.raises(UserError, match="model.old"):
        from_dict(Config, {"model": {"old": "fancy"}}, "a checkpoint")


def test_completing_changes_neither_what_is_given_nor_the_defaults():
    completed({})["model"]["replace_indices"].append(9)
    assert Config().model.replace_indices == [2, 3, 4] == completed({})["model"]["replace_indices"]


def test_an_option_says_whether_it_changes_numbers():
    assert all(map(changes_numbers, ("train.lr", "model.token_order", "eval.fit", "seed", "data.val_list", "weights",
                                     "precision", "train.batch_size", "unheard.of")))
    assert not any(map(changes_numbers, ("data.workers", "train.micro_batch", "train.checkpoint_blocks", "exp", "run",
                                         "device", "eval.batch_size", "eval.chunk", "compile", "train.log_every")))


@pytest.mark.parametrize("values", [None, 3, [], {"model": 3}, {"model": {"size": "big"}}, {"train": {"lr": None}},
                                    {"fold": [0]}, {3: 4}])
def test_saved_options_of_odd_types_are_named(values):
    with pytest.raises(UserError, match="last.pt"):
        from_dict(Config, values, "last.pt")


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


def test_a_missing_file_is_named(tmp_path):
    child = write(tmp_path / "child.yaml", "extends: nowhere.yaml\n")
    for file in (tmp_path / "nowhere.yaml", child):
        assert f"{tmp_path}/nowhere.yaml: no such file; give --config one of" in complaint(file=file)


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize("text, reason", [
    ("train: {epochs: 3", "not valid YAML"), ("a: b: c", "not valid YAML"), ("\tfold: 1", "not valid YAML"),
    (BOMB, "alias"), ("fold: &f 1\nseed: *f\n", "alias"), ("fold: 1\nseed: 2\nfold: 3\n", "'fold' stands twice"),
    ("train: {lr: 1, lr: 2}", "'lr' stands twice"), ("fold: 2001-13-45\n", "month"), ("fold: 0b2", ""),
    ("a: " + "[" * 5000, "deep"), ("fold: " + "9" * 5000, "digits"), ("? [a, b]\n: 1", ""),
    ("fold: !!python/name:os.system", ""), ("x" * 2_000_000, "too many for a config"),
    (b"\x80\x02\xff\x00binary", "not valid YAML"), ("- fold", "is a mapping"), ("just words", "is a mapping"),
    ("extends: [a.yaml]\n", "extends="), ("extends: 3\n", "extends=3"),
    ("train:\n  epohcs: 3\n", "unknown option 'train.epohcs'; did you mean 'train.epochs'")])
def test_a_file_that_is_no_config_is_named_in_one_line(tmp_path, text, reason):
    (tmp_path / "odd.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    message = complaint(file=tmp_path / "odd.yaml")
    assert "odd.yaml: " in message and reason in message and len(message) < 600


def test_a_file_that_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "pipe.yaml" in complaint(file=tmp_path / "pipe.yaml")
    assert "/dev/zero" in complaint(file=Path("/dev/zero"))
    assert str(tmp_path) in complaint(file=tmp_path)


@pytest.mark.parametrize("name, listed", [
    ("pascal/ESDA.yaml", "clsclip.yaml"), ("pascl/esda.yaml", "config/{coco, pascal, shapes}"),
    ("nowhere.yaml", "config/{coco, pascal, shapes}")])
def test_a_missing_config_lists_those_of_its_data_set(name, listed):
    assert listed in complaint(file=ROOT / "config" / name)


@pytest.mark.parametrize("name, override, needed", [
    ("esda", "model.map_kernel=7", "plus"), ("esda", "model.rivals=none", "plus"), ("esda", "model.maps=[kk]", "plus"),
    ("esda", "loss.presence=0.2", "plus"), ("esda", "model.guide_rounds=3", "guided"),
    ("naclip", "model.decoder=guided", "esda or plus"), ("released", "model.decoder=guided", "convolutions"),
    ("plus", "model.text_tokens=false", "kind=esda"), ("plus", "model.interactor=film", "kind=esda"),
    ("plus", "model.align_corners=true", "kind=esda"), ("plus", "model.cls_twice=true", "kind=esda"),
    ("esda", "model.prior_threshold=0.3", "clip_prior"), ("maskclip", "model.interactor_layers=1", "esda or plus"),
    ("without_blocks", "model.branch_indices=[1]", "branch_rank above 0"),
    ("esda", "eval.samples=50", "episodic"), ("esda", "eval.draws=5", "episodic"),
    ("maskclip", "model.prior_threshold=0.3", None), ("plus", "model.interactor_layers=1", None),
    ("esda", "model.decoder_channels=64", None), ("plus", "model.map_kernel=7", None),
    ("plus", "loss.presence=0.2", None), ("plus", "model.guide_rounds=3", None)])
def test_an_option_that_would_do_nothing_is_refused(name, override, needed, tmp_path):
    file = ROOT / f"config/shapes/{name}.yaml"
    if needed is None:
        load(Config, file, [override])
        return
    assert " has no effect without " in complaint(override, file=file) and needed in complaint(override, file=file)
    values = to_dict(load(Config, file))
    section, _, key = override.partition("=")[0].partition(".")
    values[section][key] = yaml.safe_load(override.partition("=")[2])
    saved = write(tmp_path / "config.yaml", yaml.safe_dump(values))  # a run that has it already is read all the same
    assert load(Config, saved, saved=True)


def test_kinds_of_models_are_those_that_are_built():
    assert TRAINED == build.TRAINED and set(CLIP_ALONE) == set(build.READINGS)


def test_an_empty_config_is_the_defaults(tmp_path):
    assert load(Config, write(tmp_path / "empty.yaml", "# nothing\n")) == load(Config, BASE)


def test_a_missing_option_is_named(tmp_path):
    with pytest.raises(UserError, match="jpeg_quality"):
        load(ShapesData, write(tmp_path / "data.yaml", "root: here\nclasses: c\nseed: 1\ntrain: 1\nval: 1\nside: 16\n"
                               "objects: [1, 2]\ndiameter: [4, 5]\nrotation: 0\noverlap: 0\n"))


# Values

@pytest.mark.parametrize("override, value", [
    ("train.lr=1e-3", 1e-3), ("train.lr=1.0e-3", 1e-3), ("train.lr=0.01", 0.01), ("train.lr=2", 2.0), ("run=", ""),
    ("model.branch_indices=[1, 2]", [1, 2]), ("model.branch_indices=null", None),
    *((f"model.same_word={text}", text) for text in (
        "a photo of a {}", "{}", "scene: {}", "007", "2025-01-01", "12:30:00", "no", "a #5", "exp/a=b"))])
def test_values_are_read_as_people_write_them(override, value):
    """Text as it stands: the shell has unquoted it, and that YAML would read a date there is no user's concern."""
    found = flat(to_dict(load(Config, ESDA, ["model.branch_indices=[0]", override])))[override.partition("=")[0]]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("wrong, said", [
    *((wrong, f"did you mean {nearest!r}") for wrong, nearest in (
        ("train.Ir=1", "train.lr"), ("modle.clip=x", "model.clip"), ("epoch=3", "train.epochs"),
        ("lr=1e-3", "train.lr"), ("eval.protocl=episodic", "eval.protocol"), ("Fold=1", "fold"),
        ("precision=fp31", "fp32"), ("model.kind=clip_pior", "clip_prior"), ("train.optimizer=adam", "adamw"),
        ("data.train_classes=seem", "seen"), ("eval.protocol=Exhaustive", "exhaustive"))),
    ("train.epochs=many", "whole number"), ("train.epochs=1.5", "whole number"), ("train.epochs=", "whole number"),
    ("fold=true", "whole number"), ("train.lr=fast", "a number"), ("train.lr=true", "a number"),
    ("model.text_tokens=1", "true or false"), ("augment.scale=1", "list"), ("augment.scale=[a, b]", "a number"),
    ("model.branch_indices=3", "list"), ("model.replace_indices=null", "list"), ("fold.x=1", "whole number"),
    ("train=3", "train.epochs"), ("fold", "'fold' on the command line is not of the form key=value")])
def test_a_wrong_key_value_or_type_names_what_was_meant(wrong, said):
    message = complaint(wrong)
    assert wrong.split("=")[0].removesuffix(".x") in message and said in message


def test_a_misspelt_key_in_another_schema_names_its_own_options(tmp_path):
    with pytest.raises(UserError, match="'jpeg_quality'"):
        load(ShapesData, ROOT / "config/shapes/data.yaml", ["jpg_quality=3"])


# The command line

def test_the_command_line_is_config_and_overrides_in_any_order():
    expected = load(Config, ESDA, ["fold=2", "train.lr=0.5"])
    assert from_command_line(["--config", str(ESDA), "fold=2", "train.lr=0.5"]) == expected
    assert from_command_line(["fold=2", "--config", str(ESDA), "train.lr=0.5"]) == expected


@pytest.mark.parametrize("arguments, said", [
    (["fold=1"], "--config"), (["--config"], "--config"), (["--config", str(ESDA), "--fold", "1"], "key=value"),
    (["--config", str(ESDA), "fold"], "key=value")])
def test_a_wrong_command_line_is_one_line(arguments, said):
    with pytest.raises(UserError, match=said):
        from_command_line(arguments)


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as left:
        from_command_line(["--help"], "Train.")
    said = capsys.readouterr().out
    assert left.value.code == 0 and "Train." in said
    for name, f in options(Config):
        assert f"\n{name}=" in said and f.metadata["help"].split()[0] in said


@pytest.mark.parametrize("override", [
    "data.workers=-1", "data.workers=1000000", "train.batch_size=0", "eval.batch_size=0", "train.log_every=0",
    "model.size=0", "model.size=1000000", "model.dropout=2", "model.pixel_mean=[0.5]", "model.pixel_std=[0, 1, 1]",
    "augment.blur=4", "seed=-1", "seed=4294967296", "seed=1e3", "train.lr=nan", "train.lr=.inf", "train.lr=1e300",
    f"train.lr={'9' * 400}", f"fold={'9' * 5000}", "model.prompt={} {}", "model.prompt={name}", "model.prompt={0.x}",
    "model.prompt={:9999999}", "model.prompt=a photo", "train.epochs=0", "train.epochs=1e10", "augment.scale=[1.0]",
    "augment.scale=[1.1, 0.9]", "augment.scale=[1, 1000]", "augment.scale=[0, 1]", "eval.samples=10000000000",
    "eval.draws=1000000", "eval.samples=1000000 and eval.draws=1000",
    "eval.pictures=100000", "model.replace_indices=[999999]", "model.branch_indices=[-1]",
    "model.interactor_layers=100000", "model.branch_rank=1000000", "fold=2001-13-45", "run=../../elsewhere", "run=..",
    "arch=a/b", "dataset=", "exp=a\0b", "run=caf\udce9", "eval.seed=9223372036854775808",
    f"model.branch_indices={'[' * 3000}", "model.branch_indices=[*a]"])
def test_a_value_that_cannot_work_is_refused_before_anything_starts(override):
    with pytest.raises(UserError, match=override.split("=")[0]) as caught:
        from_command_line(["--config", str(ROOT / "config/shapes/esda.yaml"), *override.split(" and ")])
    assert len(str(caught.value)) < 400
    str(caught.value).encode()  # can be printed anywhere

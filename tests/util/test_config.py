"""Configs and the command line: what is laid over what, and what a person types wrong."""
import dataclasses
from pathlib import Path

import pytest
import yaml

from data.shapes.make import ShapesData
from util import config
from util.config import CONFIGS, Config, changes_numbers, flat, from_dict, load, options, reference, to_dict
from util.config import from_command_line as read
from util.options import READ_BY
from util.runtime.errors import UserError

ESDA, BASE = CONFIGS / "shapes" / "esda.yaml", CONFIGS / "base.yaml"
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("*/*.yaml") if path.name != "pretrain.yaml")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def complaint(*overrides: str, file: Path = ESDA) -> str:
    with pytest.raises(UserError) as caught:
        load(Config, file, list(overrides))
    return str(caught.value)


# Files

def test_base_yaml_is_what_the_declarations_say():
    assert BASE.read_text(encoding="utf-8") == reference(), "run: python -m util.config > config/base.yaml"
    assert yaml.safe_load(reference()) == to_dict(Config()), "the page is a config that gives the defaults"


def test_the_list_of_options_is_frozen():
    """A new option has to replace one, or their number has to be raised with a reason (other heads: four)."""
    assert len(list(options(Config))) == 83


def test_every_option_is_explained_and_every_number_is_bounded():
    for name, f in options(Config):
        assert f.metadata["help"], name
        if config._kind(Config, name) in (int, float, list[float], list[int]):
            assert f.metadata["least"] is not None, name


@pytest.mark.parametrize("file", FILES)
def test_every_config_loads(file):
    assert load(ShapesData if file.endswith("/data.yaml") else Config, CONFIGS / file)


def test_an_option_says_whether_it_changes_numbers():
    assert all(map(changes_numbers, ("train.lr", "eval.fit", "data.val_list", "weights", "precision", "plus.maps")))
    assert not any(map(changes_numbers, ("data.workers", "train.micro_batch", "exp", "eval.batch_size", "compile")))


@pytest.mark.parametrize("text", ["010", "1e3", "yes", "null", "", "a: b", "a #5", "星\x1b", "<<", "{}"])
def test_resolved_options_survive_a_round_trip_through_yaml(text, tmp_path):
    cfg = load(Config, ESDA, ["train.lr=1e-5", "model.replace_indices=[0, 2]", "seed=4294967295", f"weights={text}"])
    assert from_dict(Config, yaml.safe_load(yaml.safe_dump(to_dict(cfg))), "a run") == cfg and cfg.weights == text
    assert load(Config, write(tmp_path / "config.yaml", yaml.safe_dump(to_dict(cfg))), saved=True) == cfg
    with pytest.raises(UserError, match="last.pt.*model.old"):
        from_dict(Config, {"model": {"old": "fancy"}}, "last.pt")


def test_extends_lays_a_file_over_another(tmp_path):
    write(tmp_path / "grandparent.yaml", "fold: 01\ntrain: {epochs: 5, lr: 5e-1}\nrun: 010\n")
    write(tmp_path / "deep" / "parent.yaml", "extends: ../grandparent.yaml\ntrain: {epochs: 6}\nloss:\nweights: ~\n")
    child = write(tmp_path / "child.yaml", "extends: deep/parent.yaml\nseed: 010\n")
    cfg = load(Config, child, ["train.warmup=3", "train.warmup=4"])
    assert (cfg.fold, cfg.train.epochs, cfg.train.lr, cfg.seed, cfg.train.warmup) == (1, 6, 0.5, 10, 4)
    assert cfg.dataset == load(Config, BASE).dataset and (cfg.run, cfg.weights) == ("010", "")


def test_of_several_files_each_lies_over_those_before_and_what_they_share_below_all(tmp_path):
    write(tmp_path / "shared.yaml", "fold: 1\nseed: 1\nrun: shared\n")
    write(tmp_path / "a.yaml", "extends: shared.yaml\nseed: 2\nfold: 2\n")
    write(tmp_path / "b.yaml", "extends: shared.yaml\nfold: 3\n")
    cfg = load(Config, write(tmp_path / "child.yaml", "extends: [a.yaml, b.yaml]\n"))
    assert (cfg.fold, cfg.seed, cfg.run) == (3, 2, "shared")


def test_files_that_extend_each_other_are_an_error(tmp_path):
    first = write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", f"extends: ../{tmp_path.name}/a.yaml\n")
    assert "extends itself" in complaint(file=first)
    (tmp_path / "loop").symlink_to("loop")
    assert "loop: no such file" in complaint(file=write(tmp_path / "c.yaml", "extends: loop\n"))


@pytest.mark.parametrize("name, listed", [
    ("pascal/ESDA.yaml", "clsclip.yaml"), ("pascl/esda.yaml", "config/{coco, emoji, emoji60, pascal, shapes}")])
def test_a_missing_config_lists_those_of_its_data_set(name, listed):
    assert listed in complaint(file=CONFIGS / name)


@pytest.mark.parametrize("text, reason", [
    ("train: {epochs: 3", "not valid YAML"), ("train: {lr: 1, lr: 2}", "'lr' stands twice"),
    ("fold: !!python/name:os.system", "fold=''"), ("a: &a {b: *a}", "not valid YAML"), ("[" * 4000, "not valid YAML"),
    ("train: {lr: 1}\ntrain.lr: 2", "'train.lr' stands twice"), ("model: {prompt: {}}", "model.prompt={}"),
    (b"\x80\x02\xff\x00binary", "not valid YAML"), ("- fold", "is a mapping"), ("seed: 1_000", "whole number"),
    ("train:\n  epohcs: 3\n", "unknown option 'train.epohcs'; did you mean 'train.epochs'")])
def test_a_file_that_is_no_config_is_named_in_one_line(tmp_path, text, reason):
    (tmp_path / "odd.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    message = complaint(file=tmp_path / "odd.yaml")
    assert "odd.yaml: " in message and reason in message


# Options that a kind of model does not read

@pytest.mark.parametrize("name, override, needed", [
    ("catseg", "peers.prompts=5", "zegclip"), ("zegclip", "peers.width=128", "lseg or clipseg or catseg"),
    ("plus", "peers.names=4", "catseg"), ("catseg", "peers.names=4", None), ("catseg", "model.decoder=guided", "esda"),
    ("esda", "plus.rivals=none", "plus"), ("esda", "plus.maps=[kk]", "plus"),
    ("naclip", "model.decoder=guided", "esda or plus"),
    ("plus", "model.text_tokens=false", "kind=esda"), ("plus", "model.branch_rank=1", "kind=esda"),
    ("plus", "model.cls_twice=true", "kind=esda"), ("plus", "train.text_noise=1", "kind=esda"),
    ("plus", "loss.last=0.5", "kind=esda"), ("maskclip", "model.interactor_layers=1", "esda or plus"),
    ("esda", "eval.samples=50", "episodic"), ("esda", "eval.draws=5", "episodic"),
    ("plus", "model.interactor_layers=1", None), ("plus", "plus.width=64", None), ("plus", "loss.last=0.2", None),
    ("esda", "model.decoder_channels=64", None)])
def test_an_option_that_would_do_nothing_is_refused(name, override, needed, tmp_path):
    file = CONFIGS / "shapes" / f"{name}.yaml"
    if needed is None:
        load(Config, file, [override])
        return
    assert " has no effect without " in complaint(override, file=file) and needed in complaint(override, file=file)
    section, _, key = override.partition("=")[0].partition(".")
    own = write(tmp_path / "own.yaml", f"extends: {file}\n{section}: {{{key}: {override.partition('=')[2]}}}\n")
    assert " has no effect without " in complaint(file=own), "in a file, too"
    values = to_dict(load(Config, file))
    values[section][key] = yaml.safe_load(override.partition("=")[2])
    saved = write(tmp_path / "config.yaml", yaml.safe_dump(values))  # a run that has it already is read all the same
    assert load(Config, saved, saved=True)


def test_what_a_file_inherits_for_another_kind_gets_its_default(tmp_path):
    cfg = load(Config, CONFIGS / "shapes/plus.yaml")    # shapes/esda.yaml has others
    assert cfg.model.replace_indices == Config().model.replace_indices and cfg.train.text_noise == 0
    again = write(tmp_path / "config.yaml", yaml.safe_dump(to_dict(cfg)))   # as a run keeps it
    assert load(Config, again) == cfg


def test_the_table_of_who_reads_what_names_options():
    assert set(READ_BY) <= {name for name, _ in options(Config)} | {f.name for f in dataclasses.fields(Config)}


# Values

@pytest.mark.parametrize("override, value", [
    ("train.lr=1e-3", 1e-3), ("train.lr=1.0e-3", 1e-3), ("train.lr=0.01", 0.01), ("train.lr=2", 2.0), ("run=", ""),
    ("model.replace_indices=[1, 02]", [1, 2]), ("train.clip_grad=+.5", 0.5), ("seed=010", 10), ("compile=true", True),
    *((f"model.same_word={text}", text) for text in (
        "a photo of a {}", "{}", "scene: {}", "007", "2025-01-01", "12:30:00", "no", "a #5", "exp/a=b"))])
def test_values_are_read_as_people_write_them(override, value):
    found = flat(to_dict(load(Config, ESDA, [override])))[override.partition("=")[0]]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("wrong, said", [
    *((wrong, f"did you mean {nearest!r}") for wrong, nearest in (
        ("train.Ir=1", "train.lr"), ("modle.clip=x", "model.clip"), ("epoch=3", "train.epochs"),
        ("lr=1e-3", "train.lr"), ("Fold=1", "fold"), ("precision=fp31", "fp32"), ("train.optimizer=adam", "adamw"),
        ("eval.protocol=Exhaustive", "exhaustive"))),
    ("train.epochs=many", "whole number"), ("train.epochs=1.5", "whole number"), ("train.epochs=", "whole number"),
    *((f"seed={text}", "whole number") for text in ("1_000", "1:30", "0x10", "٣", "null", "2025-01-01")),
    *((f"train.lr={text}", "a number") for text in ("1_0.5", "1:30", ".nan", "inf", "~")), ("compile=yes", "true or"),
    ("fold=true", "whole number"), ("train.lr=fast", "a number"), ("train.lr=true", "a number"),
    ("model.text_tokens=1", "true or false"), ("augment.scale=1", "list"), ("augment.scale=[a, b]", "a number"),
    ("model.replace_indices=3", "list"), ("model.replace_indices=null", "list"), ("fold.x=1", "'fold'"),
    ("train=3", "train.epochs"), ("fold", "'fold' on the command line is not of the form key=value")])
def test_a_wrong_key_value_or_type_names_what_was_meant(wrong, said):
    message = complaint(wrong)
    assert wrong.split("=")[0].removesuffix(".x") in message and said in message


def test_another_schema_names_its_own_options(tmp_path):
    with pytest.raises(UserError, match="'jpeg_quality'"):
        load(ShapesData, CONFIGS / "shapes/data.yaml", ["jpg_quality=3"])
    with pytest.raises(UserError, match="root is missing"):
        load(ShapesData, write(tmp_path / "data.yaml", "seed: 1\n"))


# The command line

def test_the_command_line_is_config_and_overrides_in_any_order():
    expected = load(Config, ESDA, ["fold=2", "train.lr=0.5"])
    assert expected == read(["--config", str(ESDA), "fold=2", "train.lr=0.5"])
    assert expected == read(["fold=2", "--config", str(ESDA), "train.lr=0.5"])


@pytest.mark.parametrize("arguments, said", [
    (["fold=1"], "--config"), (["--config"], "--config"), (["--config", str(ESDA), "--fold", "1"], "key=value"),
    (["--config", str(ESDA), "fold"], "key=value")])
def test_a_wrong_command_line_is_one_line(arguments, said):
    with pytest.raises(UserError, match=said):
        read(arguments)


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as left:
        read(["--help"], "Train.")
    said = capsys.readouterr().out
    assert left.value.code == 0 and "Train." in said and reference() in said


@pytest.mark.parametrize("override", [
    "data.workers=-1", "train.batch_size=0", "model.size=0", "model.pixel_mean=[0.5]", "model.pixel_std=[0, 1, 1]",
    "augment.blur=4", "seed=-1", "seed=1e3", "train.lr=nan", "train.lr=.inf", "model.prompt={} {}",
    "model.prompt={name}", "model.prompt=a photo", "train.epochs=0", "augment.scale=[1.0]",
    "model.replace_indices=[-1]", "plus.maps=[]", "plus.maps=[value, value]", "plus.maps=[kv]",
    "run=../../elsewhere", "run=..", "arch=a/b", "dataset="])
def test_a_value_that_cannot_work_is_refused_before_anything_starts(override):
    with pytest.raises(UserError, match=override.split("=")[0]):
        read(["--config", str(ESDA), override])


@pytest.mark.parametrize("config, overrides, named", [
    ("lseg", ["peers.blocks=[0, 1, 2]"], "4 blocks for lseg"), ("catseg", ["peers.blocks=[2, 1]"], "in order"),
    ("clipseg", ["peers.width=96"], "multiple of 64"),
    ("released", ["model.decoder=guided"], "model.align_corners"), ("plus", ["train.absent_names=0"], "presence_head"),
    *(("esda", ["eval.protocol=generalised", option], "eval.flip and eval.refine")
      for option in ("eval.flip=true", "eval.refine=10"))])
def test_what_does_not_go_together_is_refused(config, overrides, named):
    assert named in complaint(*overrides, file=CONFIGS / "shapes" / f"{config}.yaml")

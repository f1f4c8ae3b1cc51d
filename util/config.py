"""Every option of the project as typed fields; config/base.yaml gives each its default and its reason.

A config file is a few lines laid over config/base.yaml (or over the file it names with ``extends:``), and
``key=value`` on the command line, nested keys with dots, is laid over that. A key or a type that does not
fit stops the run and names the nearest key.
"""
import argparse
import dataclasses
import difflib
import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import yaml

from util.limits import check_limits
from util.runtime.errors import UserError, require_file

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "config" / "base.yaml"
Schema = TypeVar("Schema")


@dataclass
class Data:
    root: str
    classes: str
    folds: Literal["file", "contiguous", "interleaved"]
    train_list: str
    val_list: str
    min_pixels: int
    train_classes: Literal["seen", "ignore", "all"]
    names: Literal["words", "annotation"]
    workers: int


@dataclass
class Augment:
    scale: list[float]
    rotate: float
    rotate_p: float
    blur: int
    blur_p: float
    flip_p: float
    keep: float
    crop_tries: int


@dataclass
class Model:
    kind: Literal["esda", "clip_prior", "maskclip", "everything"]
    clip: str
    size: int
    pixel_mean: list[float]
    pixel_std: list[float]
    prompt: str
    same_word: str
    text_start: Literal["random", "clip"]
    replace_indices: list[int]
    branch_indices: list[int] | None
    branch_rank: int
    prior_indices: list[int] | None
    cls_twice: bool
    interactor_layers: int
    token_order: Literal["described", "released"]
    text_tokens: bool
    mask_padding: bool
    align_corners: bool
    dropout: float
    prior_threshold: float


@dataclass
class Loss:
    last: float
    others: float
    sign: Literal["described", "released"]
    ignored: Literal["ignore", "background"]


@dataclass
class Train:
    epochs: int
    epoch_samples: int
    batch_size: int
    micro_batch: int
    checkpoint_blocks: bool
    optimizer: Literal["sgd", "adamw", "muon"]
    lr: float
    muon_lr: float
    momentum: float
    weight_decay: float
    warmup: int
    power: float
    clip_grad: float
    text_noise: float
    patience: int
    select: Literal["unseen", "seen", "last"]
    checkpoint_minutes: float
    log_every: int


@dataclass
class Eval:
    protocol: Literal["exhaustive", "episodic", "generalised"]
    samples: int
    seed: int
    draws: int
    manifest: str
    images: int
    presence: float
    chunk: int
    batch_size: int
    fit: Literal["described", "cut", "released"]
    seen_samples: int
    name_check: bool
    pictures: int


@dataclass
class Config:
    dataset: str
    arch: str
    fold: int
    seed: int
    device: str
    precision: Literal["auto", "fp32", "tf32", "bf16"]
    compile: bool
    exp: str
    run: str
    resume: str
    weights: str
    data: Data
    augment: Augment
    model: Model
    loss: Loss
    train: Train
    eval: Eval


def load(schema: type[Schema], file: str | Path, overrides: list[str] = (), base: Path | None = BASE) -> Schema:
    """Read ``file`` over ``base``, then ``overrides`` such as ``train.lr=0.01``, into ``schema``.

    Raises UserError for a missing file, unreadable YAML, an unknown key, a wrong type or a missing option.
    """
    values: dict = {}
    for layer, options in ([(base, _read(base))] if base else []) + _chain(Path(file)):
        _merge(values, options, schema, str(layer))
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{text!r} on the command line is not of the form key=value")
        try:  # text is taken as it stands: YAML would read a date in 2025-01-01 and a mapping in the prompt {}
            leaf = value if _kind(schema, key) is str or not value else yaml.safe_load(value)
        except yaml.YAMLError:
            leaf = value
        for part in reversed(key.split(".")):
            leaf = {part: leaf}
        _merge(values, leaf, schema, "the command line")
    return _build(schema, values, str(file))


def to_dict(config) -> dict:
    """The resolved options as plain values, ready for yaml.safe_dump, a checkpoint or results.json."""
    return dataclasses.asdict(config)


def from_dict(schema: type[Schema], values: dict, where: str) -> Schema:
    """The inverse of :func:`to_dict`; raises UserError as :func:`load` does."""
    merged: dict = {}
    _merge(merged, values, schema, where)
    return _build(schema, merged, where)


def _kind(schema: type, key: str):
    """The type of the option with the dotted name ``key``, None if there is none."""
    kind = schema
    for part in key.split("."):
        kind = typing.get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    return kind


def _read(path: Path) -> dict:
    require_file(path, "give --config one of the files in config/*/")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}; give --config one of the files in config/*/") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config is a mapping of options, not a {type(values).__name__}")
    return values


def _chain(path: Path) -> list[tuple[Path, dict]]:
    """``path`` preceded by the files it extends, the most general first, each with its options."""
    chain: list[tuple[Path, dict]] = []
    while True:
        values = _read(path)
        parent = values.pop("extends", None)
        chain.insert(0, (path, values))
        if parent is None:
            return chain
        if not isinstance(parent, str):
            raise UserError(f"{path}: extends={parent!r} should be the path of another config, from this one's folder")
        parent = Path(os.path.normpath(path.parent / parent))
        if any(parent == Path(os.path.normpath(file)) for file, _ in chain):
            raise UserError(f"{path}: extends {parent.name}, which extends it in turn")
        path = parent


def _merge(into: dict, values: dict, schema: type, where: str, prefix: str = "") -> None:
    fields = typing.get_type_hints(schema)
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in fields:
            while isinstance(value, dict) and value:  # the whole of a dotted name tells better what was meant
                inner, value = next(iter(value.items()))
                name += f".{inner}"
            raise UserError(f"{where}: unknown option {name!r}; {_nearest(name, schema, prefix)}")
        if dataclasses.is_dataclass(fields[key]):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {name} is a group of options; set one of them, e.g. "
                                f"{name}.{next(iter(typing.get_type_hints(fields[key])))}")
            _merge(into.setdefault(key, {}), value, fields[key], where, f"{name}.")
        else:
            into[key] = _convert(value, fields[key], name, where)


def _nearest(name: str, schema: type, prefix: str) -> str:
    root = schema if not prefix else Config
    known = list(_paths(root))
    last = {path.rsplit(".", 1)[-1]: path for path in known}
    close = difflib.get_close_matches(name, known, 1, 0.6) or [
        last[key] for key in difflib.get_close_matches(name.rsplit(".", 1)[-1], last, 1, 0.6)]
    return f"did you mean {close[0]!r}?" if close else "config/base.yaml lists them all"


def _paths(schema: type, prefix: str = ""):
    for key, kind in typing.get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            yield from _paths(kind, f"{prefix}{key}.")
        else:
            yield prefix + key


def _convert(value, kind, name: str, where: str):
    """``value`` as the field's type. An int serves as float, and text such as 1e-3 too, which YAML takes for text."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(value, arguments[0], name, where)
    if origin is Literal:
        if value in arguments:
            return value
        close = difflib.get_close_matches(str(value), arguments, 1, 0)
        raise UserError(f"{where}: {name}={value!r} is none of {', '.join(arguments)}; did you mean {close[0]!r}?")
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return from_dict(kind, value, f"{where}: {name}")
    if origin is list:
        if isinstance(value, list):
            return [_convert(item, arguments[0], f"{name}[{i}]", where) for i, item in enumerate(value)]
    elif kind is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    wanted = f"a list of {arguments[0].__name__}" if origin is list else {
        "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}[kind.__name__]
    raise UserError(f"{where}: {name}={value!r} should be {wanted}")


def _build(schema: type[Schema], values: dict, where: str, prefix: str = "") -> Schema:
    arguments = {}
    for key, kind in typing.get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            arguments[key] = _build(kind, values.get(key, {}), where, f"{prefix}{key}.")
        elif key not in values:
            raise UserError(f"{where}: option {prefix}{key} is missing")
        else:
            arguments[key] = values[key]
    return schema(**arguments)


def from_command_line(arguments: list[str]) -> Config:
    """``--config FILE [key=value ...]`` to the resolved options."""
    parser = argparse.ArgumentParser(epilog="config/base.yaml lists and explains every option")
    parser.add_argument("--config", required=True, help="e.g. config/shapes/esda.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. fold=1 train.lr=1e-3")
    parsed = parser.parse_intermixed_args(arguments)  # overrides may stand before --config too
    config = load(Config, parsed.config, parsed.overrides)
    check_limits(config)
    return config

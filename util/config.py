"""Reads config files and the command line into the options of util/options.py.

A config file is a few lines laid over the defaults (or over the file it names with ``extends:``), and ``key=value``
on the command line, nested keys with dots, is laid over that. An unknown key, a wrong type or a value out of bounds
stops the run with a line that names the nearest key, the type or the bounds.
"""
import copy
import dataclasses
import difflib
import math
import textwrap
import typing
from contextlib import suppress
from dataclasses import MISSING
from pathlib import Path
from typing import TypeVar

import yaml

from util.options import Augment, Config, Data, Model  # noqa: F401  (the sections that other modules name)
from util.runtime.errors import Parser, UserError, require_file
from util.values import CONFIGS, convert, parse_yaml, read_chain, show

ROOT = Path(__file__).resolve().parent.parent
BASE = CONFIGS / "base.yaml"    # written by `python -m util.config`; nothing reads it to find defaults
Schema = TypeVar("Schema")


def load(schema: type[Schema], file: str | Path, overrides: list[str] = (), saved: bool = False) -> Schema:
    """Read ``file``, then ``overrides`` such as ``train.lr=0.01``, over the defaults of ``schema``.

    saved: the file holds the options of a run, perhaps of an older version (see :func:`completed`).
    Raises UserError for a missing file, unreadable YAML, an unknown key, a wrong type, a value out of bounds or an
    option without a default that is missing.
    """
    values: dict = {}
    for layer, options in read_chain(Path(file)):
        _merge(values, completed(options, schema) if saved else options, schema, str(layer))
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{show(text)} on the command line is not of the form key=value")
        # Text is taken as it stands: YAML would read a date in 2025-01-01 and a mapping in the prompt {}.
        if _kind(schema, key) is not str and value:
            with suppress(ValueError):  # then it stays text, and the option's type decides
                value = parse_yaml(value)
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(values, value, schema, "the command line")
    built = _build(schema, values, str(file))
    if isinstance(built, Config) and not saved:
        built.require_effect()
    return built


def from_command_line(arguments: list[str], description: str = "") -> Config:
    """``--config FILE [key=value ...]`` to the resolved options; ``resume=RUN`` alone takes that run's."""
    parser = Parser(description=description,
                    epilog=f"options (key=value) and their defaults:\n\n{reference(dotted=True)}")
    parser.remedy = "give --config FILE [key=value ...]; --help explains every option"
    parser.add_argument("--config", metavar="FILE", help="e.g. config/shapes/esda.yaml; resume=RUN does without")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. fold=1 train.lr=1e-3")
    parsed = parser.parse_intermixed_args(arguments)  # overrides may stand before --config too
    if parsed.config is not None:
        return load(Config, parsed.config, parsed.overrides)
    resumed = [text.removeprefix("resume=") for text in parsed.overrides if text.startswith("resume=")]
    if not resumed or resumed[-1] in ("", "auto"):
        parser.error("the following arguments are required: --config")
    run = Path(resumed[-1])
    file = (run.parent.parent if run.is_file() else run) / "config.yaml"
    require_file(file, "resume= names the folder of a run, whose config.yaml has its options; or give --config, too")
    return load(Config, file, parsed.overrides, saved=True)


# Saved options

def to_dict(config) -> dict:
    """The resolved options as plain values, ready for yaml.safe_dump, a checkpoint or results.json."""
    return dataclasses.asdict(config)


def from_dict(schema: type[Schema], values: dict, where: str, strict: bool = True) -> Schema:
    """The inverse of :func:`to_dict`, for options that may have been saved by an older version (see :func:`completed`).

    Raises UserError as :func:`load` does; unless ``strict``, unknown options are left out instead.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: its options are a {type(values).__name__}, not a mapping")
    merged: dict = {}
    _merge(merged, completed(values, schema), schema, where, strict=strict)
    return _build(schema, merged, where)


def completed(saved: dict, schema: type = Config) -> dict:
    """Saved options as nested plain values, with every option that the schema has today.

    One that ``saved`` lacks gets the value for the time before it existed. Unknown ones are kept, so that a comparison
    shows them.
    """
    out = dict(saved)
    for f in dataclasses.fields(schema):
        kind = _kind(schema, f.name)
        if dataclasses.is_dataclass(kind):
            section = out.get(f.name, {})
            out[f.name] = completed(section, kind) if isinstance(section, dict) else section
        elif f.name not in out and f.metadata.get("before", MISSING) is not MISSING:
            out[f.name] = copy.copy(f.metadata["before"])
    return out


def flat(values: dict, prefix: str = "") -> dict:
    """Nested options as {"train.lr": ...}."""
    out = {}
    for key, value in values.items():
        out.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return out


def differing(a: dict, b: dict) -> dict[str, tuple]:
    """{name: (of a, of b)} of the options in which two sets of flat ones differ, sorted; None where one lacks it."""
    missing = object()  # no option's value: None is one
    return {name: (a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys())
            if a.get(name, missing) != b.get(name, missing)}


def changes_numbers(name: str) -> bool:
    """Whether another value of the option ``name`` ("train.lr") gives other losses, weights or scores.

    True for an option that is not known: nothing can be said of it.
    """
    return all(f.metadata["numbers"] for path, f in options(Config) if path == name)


def options(schema: type, prefix: str = ""):
    """(dotted name, dataclass field) of every option of a schema, in order."""
    for f in dataclasses.fields(schema):
        kind = _kind(schema, f.name)
        if dataclasses.is_dataclass(kind):
            yield from options(kind, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f


# The reference page

def reference(dotted: bool = False) -> str:
    """Every option with its default and its reason: as a config file, or under the names of the command line."""
    lines = [] if dotted else [
        "# Generated: python -m util.config > config/base.yaml. Options are declared in util/options.py.",
        "# Every option, its default, unit and reason. The configs in config/*/ are a few lines laid over these",
        "# defaults, and key=value on the command line (train.lr=1e-3) over those. An unknown key stops the run."]
    section = None
    for name, f in options(Config):
        group, _, key = name.rpartition(".")
        if group != section:
            section = group
            lines += [""] if lines else []
            if group:
                about = _kind(Config, group).__doc__.strip()
                lines += _entry(f"# {group}: {about}", "") if dotted else _entry(f"{group}:", about)
        default = f.default if f.default_factory is MISSING else f.default_factory()
        value = yaml.safe_dump(default, default_flow_style=True, width=math.inf).removesuffix("\n...\n").strip()
        left = f"{name}={default}" if dotted and isinstance(default, str) else (
            f"{name}={value}" if dotted else f"{'  ' if group else ''}{key}: {value}")
        lines += _entry(left, f.metadata["help"])
    return "\n".join(lines) + "\n"


def _entry(left: str, about: str, column: int = 27, width: int = 120) -> list[str]:
    """``left``, and ``about`` beside it as a comment in a column of its own."""
    first = max(column, len(left) + 2)
    rows = textwrap.wrap(about, width - column - 2, initial_indent=" " * (first - column), break_on_hyphens=False)
    if not rows:
        return [left]
    return [f"{left:<{first}}# {rows[0].strip()}", *(f"{'':<{column}}# {row}" for row in rows[1:])]


# Values

def _kind(schema: type, key: str):
    """The type of the option with the dotted name ``key``, None if there is none."""
    kind = schema
    for part in key.split("."):
        kind = typing.get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    return kind


def _merge(into: dict, values: dict, schema: type, where: str, prefix: str = "", strict: bool = True) -> None:
    """Lay ``values`` over ``into``, each checked and converted to the type of its option."""
    fields = {f.name: f for f in dataclasses.fields(schema)}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in fields and not strict:
            continue
        if key not in fields:
            while isinstance(value, dict) and value:  # the whole of a dotted name tells better what was meant
                inner, value = next(iter(value.items()))
                name += f".{inner}"
            raise UserError(f"{where}: unknown option {show(name)}; {_nearest(name, schema, prefix)}")
        kind = _kind(schema, key)
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {name} is a group of options; set one of them, e.g. "
                                f"{name}.{dataclasses.fields(kind)[0].name}")
            _merge(into.setdefault(key, {}), value, kind, where, f"{name}.", strict)
        else:
            into[key] = convert(value, kind, name, where, fields[key].metadata, from_dict)


def _build(schema: type[Schema], values: dict, where: str, prefix: str = "") -> Schema:
    arguments = {}
    for f in dataclasses.fields(schema):
        kind = _kind(schema, f.name)
        if dataclasses.is_dataclass(kind):
            arguments[f.name] = _build(kind, values.get(f.name, {}), where, f"{prefix}{f.name}.")
        elif f.name in values:
            arguments[f.name] = values[f.name]
        elif f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{where}: option {prefix}{f.name} is missing")
    return schema(**arguments)


def _nearest(name: str, schema: type, prefix: str) -> str:
    known = [path for path, _ in options(schema if not prefix else Config)]
    last = {path.rsplit(".", 1)[-1]: path for path in known}
    close = difflib.get_close_matches(name, known, 1, 0.6) or [
        last[key] for key in difflib.get_close_matches(name.rsplit(".", 1)[-1], last, 1, 0.6)]
    return f"did you mean {close[0]!r}?" if close else "config/base.yaml lists them all"


if __name__ == "__main__":
    print(reference(), end="")

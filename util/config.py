"""Reads config files and the command line into the options of util/options.py.

A config file is a few lines laid over the defaults (or over the file it names with ``extends:``), and ``key=value``
on the command line, nested keys with dots, is laid over that. An unknown key, a wrong type or a value out of bounds
stops the run with a line that names the nearest key, the type or the bounds.
"""
import argparse
import copy
import dataclasses
import difflib
import math
import os
import textwrap
import types
import typing
from dataclasses import MISSING
from pathlib import Path
from typing import Literal, TypeVar

import yaml

from util.options import GONE, Augment, Config, Data, Model  # noqa: F401  (the sections that other modules name)
from util.runtime.errors import UserError, require_file

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "config" / "base.yaml"    # written by `python -m util.config`; nothing reads it to find defaults
LARGEST_FILE = 1_000_000                # bytes; a config has a few hundred
Schema = TypeVar("Schema")


def load(schema: type[Schema], file: str | Path, overrides: list[str] = ()) -> Schema:
    """Read ``file``, then ``overrides`` such as ``train.lr=0.01``, over the defaults of ``schema``.

    Raises UserError for a missing file, unreadable YAML, an unknown key, a wrong type, a value out of bounds or an
    option without a default that is missing.
    """
    values: dict = {}
    for layer, options in _chain(Path(file)):
        _merge(values, options, schema, str(layer))
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{text!r} on the command line is not of the form key=value")
        # Text is taken as it stands: YAML would read a date in 2025-01-01 and a mapping in the prompt {}.
        if _kind(schema, key) is not str and value:
            try:
                value = parse_yaml(value)
            except ValueError:
                pass  # then it stays text, and the option's type decides
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(values, value, schema, "the command line")
    return _build(schema, values, str(file))


def from_command_line(arguments: list[str], description: str = "") -> Config:
    """``--config FILE [key=value ...]`` to the resolved options."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                    epilog=f"options (key=value) and their defaults:\n\n{reference(dotted=True)}")
    parser.add_argument("--config", required=True, metavar="FILE", help="e.g. config/shapes/esda.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. fold=1 train.lr=1e-3")
    parsed = parser.parse_intermixed_args(arguments)  # overrides may stand before --config too
    return load(Config, parsed.config, parsed.overrides)


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other mistake is reported: in one line."""

    def error(self, message: str):
        raise UserError(f"{message}; give --config FILE [key=value ...], --help explains every option")


# Saved options

def to_dict(config) -> dict:
    """The resolved options as plain values, ready for yaml.safe_dump, a checkpoint or results.json."""
    return dataclasses.asdict(config)


def from_dict(schema: type[Schema], values: dict, where: str, strict: bool = True) -> Schema:
    """The inverse of :func:`to_dict`, for options that may have been saved by an older version (see completed).

    Raises UserError as :func:`load` does; unless ``strict``, unknown options are left out instead.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: its options are a {type(values).__name__}, not a mapping")
    merged: dict = {}
    _merge(merged, _completed(values, schema), schema, where, strict=strict)
    return _build(schema, merged, where)


def completed(saved: dict) -> dict:
    """The options of a saved ``Config`` as nested plain values, with every option that the schema has today.

    One that ``saved`` lacks gets the value for the time before it existed. One that no longer exists is dropped
    where the code still does what it did (GONE); anything else unknown is kept, so that a comparison shows it.
    """
    return _completed(saved, Config)


def _completed(saved: dict, schema: type, prefix: str = "") -> dict:
    out = {key: value for key, value in saved.items()
           if f"{prefix}{key}" not in GONE or GONE[f"{prefix}{key}"] != value}
    for f in dataclasses.fields(schema):
        kind = _kind(schema, f.name)
        if dataclasses.is_dataclass(kind):
            section = out.get(f.name, {})
            out[f.name] = _completed(section, kind, f"{prefix}{f.name}.") if isinstance(section, dict) else section
        elif f.name not in out and f.metadata.get("before", MISSING) is not MISSING:
            out[f.name] = copy.copy(f.metadata["before"])
    return out


def flat(values: dict, prefix: str = "") -> dict:
    """Nested options as {"train.lr": ...}."""
    out = {}
    for key, value in values.items():
        out.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return out


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


# Files

def parse_yaml(text: str):
    """Plain values from YAML. Raises ValueError, in words, for whatever cannot be read."""
    try:
        return yaml.load(text, _PlainYaml)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


class _PlainYaml(yaml.SafeLoader):
    """YAML without aliases, of which a few lines can stand for gigabytes, and without keys that stand twice."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*name) is not allowed here",
                                              self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key, yaml.ScalarNode) else False:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict:
    remedy = f"give --config one of {_configs_near(path)}"
    require_file(path, remedy)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path.stat().st_size:,} bytes are too many for a config")
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise UserError(f"{path}: not valid YAML: {error}; {remedy}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config is a mapping of options, not a {type(values).__name__}")
    return values


def _configs_near(path: Path) -> str:
    """The configs in the folder of ``path``, or the data sets that have some."""
    here = sorted(file.name for file in path.parent.glob("*.yaml") if file.is_file() and file != path)
    if here and path.parent.resolve() != BASE.parent:
        return f"{path.parent}/{{{', '.join(here)}}}"
    return f"config/{{{', '.join(sorted(file.parent.name for file in BASE.parent.glob('*/esda.yaml')))}}}/*.yaml"


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
            raise UserError(f"{path}: extends={_show(parent)} should be the path of another config, from this one's "
                            f"folder")
        parent = Path(os.path.normpath(path.parent / parent))
        if any(parent == Path(os.path.normpath(file)) for file, _ in chain):
            raise UserError(f"{path}: extends {parent.name}, which extends it in turn")
        path = parent


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
            raise UserError(f"{where}: unknown option {_show(name)}; {_nearest(name, schema, prefix)}")
        kind = _kind(schema, key)
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {name} is a group of options; set one of them, e.g. "
                                f"{name}.{dataclasses.fields(kind)[0].name}")
            _merge(into.setdefault(key, {}), value, kind, where, f"{name}.", strict)
        else:
            into[key] = _convert(value, kind, name, where, fields[key].metadata)


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


def _convert(value, kind, name: str, where: str, about: typing.Mapping):
    """``value`` as the option's type. An int serves as float, and text such as 1e-3 too, which YAML takes for text."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(value, arguments[0], name, where, about)
    if origin is Literal:
        if value in arguments:
            return value
        close = difflib.get_close_matches(str(value), arguments, 1, 0)
        raise UserError(f"{where}: {name}={_show(value)} is none of {', '.join(arguments)}; did you mean {close[0]!r}?")
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return from_dict(kind, value, f"{where}: {name}")
    if origin is list:
        wanted = f"a list of {arguments[0].__name__}"
        if isinstance(value, list):
            if about.get("length") not in (None, len(value)):
                raise UserError(f"{where}: {name}={_show(value)} should be {about['length']} numbers")
            return [_convert(item, arguments[0], f"{name}[{i}]", where, about) for i, item in enumerate(value)]
    elif kind is float:
        wanted = "a number"
        try:
            if not isinstance(value, bool):
                return _within(float(value), name, where, about)
        except (TypeError, ValueError, OverflowError):
            pass
    elif kind is int:
        wanted = "a whole number"
        if isinstance(value, int) and not isinstance(value, bool):
            return _within(value, name, where, about)
    elif kind is str:
        wanted = "text"
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return _plain(str(value), name, where)
    else:
        wanted = "true or false"
        if isinstance(value, bool):
            return value
    raise UserError(f"{where}: {name}={_show(value)} should be {wanted}")


def _within(value: float, name: str, where: str, about: typing.Mapping) -> float:
    """``value`` if it is finite and between its bounds."""
    least, most = about.get("least"), about.get("most")
    if not -math.inf < value < math.inf or least is not None and value < least or most is not None and value > most:
        bounds = (f"{least} to {most}" if None not in (least, most) else f"{least} or more" if least is not None
                  else "a finite number")
        raise UserError(f"{where}: {name}={_show(value)} should be {bounds}")
    return value


def _plain(text: str, name: str, where: str) -> str:
    """``text`` if it can stand in a file name, in YAML and in JSON alike."""
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise UserError(f"{where}: {name}={_show(text)} holds a NUL or bytes that are not UTF-8; write it without them")
    return text


def _show(value) -> str:
    """``value`` in a message, cut where it is long."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except (RecursionError, ValueError):  # a whole number of more digits than Python prints
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= 120 else f"{text[:100]}..."


if __name__ == "__main__":
    print(reference(), end="")

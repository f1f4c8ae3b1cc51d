"""Config files and the command line, read into the options of util/options.py.

A config file is laid over the defaults (or over the file that it names with ``extends:``; of several, each over those
before), and ``key=value`` on the command line, nested keys with dots, over that. An unknown key, a wrong type, a value
out of bounds or an option that the model does not read stops the run, with a line that says how to mend it.
"""
import dataclasses
import difflib
import math
import re
import textwrap
import typing
from contextlib import suppress
from dataclasses import MISSING
from pathlib import Path
from typing import Literal, TypeVar

import yaml

from util.options import Augment, Config, Data, Model, unread  # noqa: F401  (sections that other modules name)
from util.runtime.errors import Parser, UserError, require_file

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "config"
NUMBERS = {int: "[+-]?[0-9]+", float: r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"}    # as people write them
Schema = TypeVar("Schema")


def load(schema: type[Schema], file: str | Path, overrides: list[str] = (), saved: bool = False) -> Schema:
    """Load ``file``, then ``overrides`` such as ``train.lr=0.01``, over the defaults of ``schema``.

    saved: the file holds all options of a run, unread ones too. An inherited option that is not read gets its default.
    Raises UserError for a missing file, unreadable YAML, an unknown key, a wrong type, a value out of bounds, a missing
    option without a default, and one that changes nothing with the others.
    """
    chain = _read_chain(Path(file))
    values = {name: value for path, layer in chain for name, value in _checked(layer, schema, str(path)).items()}
    given = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{text!r} on the command line is not of the form key=value")
        # Text is taken as it stands: YAML would read a comment in a #5 and a mapping in the prompt {}.
        if _kind(schema, name) is not str and value:
            with suppress(ValueError):  # then it stays text, and the option's type decides
                value = parse_yaml(value)
        given[name] = value
    values |= _checked(given, schema, "the command line")
    built = _build(schema, values, str(file))
    if schema is not Config:
        return built
    if not saved:
        own = {} if "model.kind" in given else flat(chain[-1][1])  # of a file for another kind as if inherited
        _require_effect(built, [*own, *given])
    return _build(schema, {name: value for name, value in values.items() if not unread(name, built)}, str(file))


def from_command_line(arguments: list[str], description: str = "") -> Config:
    """Parse ``--config FILE [key=value ...]`` into options; ``resume=RUN`` alone takes that run's."""
    parser = Parser(description=description, epilog=f"options, such as train.lr=1e-3:\n\n{reference()}")
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


def _require_effect(cfg: Config, given: list[str]) -> None:
    """Raise UserError for an option of ``given`` that would change nothing in silence."""
    values, usual = flat(to_dict(cfg)), flat(to_dict(Config()))
    for name in given:
        if values.get(name) != usual.get(name) and (needed := unread(name, cfg)):
            raise UserError(f"{name}={values[name]} has no effect without {needed}; set that, or leave it away")


# Saved options

def to_dict(config) -> dict:
    """Convert options to plain values, ready for yaml.safe_dump, a checkpoint or results.json."""
    return dataclasses.asdict(config)


def from_dict(schema: type[Schema], values: dict, where: str) -> Schema:
    """Invert :func:`to_dict`. Raises UserError as :func:`load` does."""
    return _build(schema, _checked(values, schema, where), where)


def flat(values: dict, prefix: str = "") -> dict:
    """Flatten nested options to {"train.lr": ...}."""
    return dict(_leaves(values, prefix))


def _leaves(values: dict, prefix: str = ""):
    for key, value in values.items():
        yield from (_leaves(value, f"{prefix}{key}.") if value and isinstance(value, dict) else
                    [(f"{prefix}{key}", value)])


def differing(a: dict, b: dict) -> dict[str, tuple]:
    """Compare flat options: {name: (of a, of b)} where they differ, sorted; None where one lacks it."""
    return {name: (a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)}


def changes_numbers(name: str) -> bool:
    """Tell whether another value of an option ("train.lr") changes losses, weights or scores; True if unknown."""
    return all(f.metadata["numbers"] for path, f in options(Config) if path == name)


def options(schema: type, prefix: str = ""):
    """Yield (dotted name, dataclass field) of every option of a schema, in order."""
    for f in dataclasses.fields(schema):
        kind = _kind(schema, f.name)
        if dataclasses.is_dataclass(kind):
            yield from options(kind, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f


# The reference page

def reference() -> str:
    """Format every option with its default and its reason, as a config file."""
    lines = ["# Generated: python -m util.config > config/base.yaml. Options are declared in util/options.py.",
             "# Every option, its default, unit and reason. The configs in config/*/ are a few lines laid over these",
             "# defaults, and key=value on the command line (train.lr=1e-3) over those. An unknown key stops the run."]
    section = None
    for name, f in options(Config):
        group, _, key = name.rpartition(".")
        if group != section:
            section = group
            lines += ["", *(_entry(f"{group}:", _kind(Config, group).__doc__.strip()) if group else [])]
        default = f.default if f.default_factory is MISSING else f.default_factory()
        value = yaml.safe_dump(default, default_flow_style=True, width=math.inf).removesuffix("\n...\n").strip()
        lines += _entry(f"{'  ' if group else ''}{key}: {value}", f.metadata["help"])
    return "\n".join(lines) + "\n"


def _entry(left: str, about: str, column: int = 27, width: int = 120) -> list[str]:
    """Format ``left``, and ``about`` beside it as a comment in a column of its own."""
    first = max(column, len(left) + 2)
    rows = textwrap.wrap(about, width - column - 2, initial_indent=" " * (first - column), break_on_hyphens=False)
    return [f"{left:<{first}}# {rows[0].strip()}", *(f"{'':<{column}}# {row}" for row in rows[1:])]


# Files

def _read_chain(path: Path, children: tuple[Path, ...] = ()) -> list[tuple[Path, dict]]:
    """Read the config ``path`` and those that it extends, each once, the most general first. Raises UserError."""
    require_file(path, f"give --config one of {_configs_near(path)}")
    if any(path.samefile(child) for child in children):
        raise UserError(f"{path}: extends itself, by way of {children[-1]}")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8")) or {}
    except ValueError as error:  # UnicodeDecodeError is one
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config is a mapping of options, not a {type(values).__name__}")
    chain, parents = [], values.pop("extends", "") or []
    for parent in parents if isinstance(parents, list) else [parents]:
        chain += [layer for layer in _read_chain(path.parent / str(parent), (*children, path))
                  if not any(layer[0].samefile(there) for there, _ in chain)]
    return [*chain, (path, values)]


def _configs_near(path: Path) -> str:
    """List the configs in the folder of ``path``, or the data sets that have some."""
    here = sorted(file.name for file in path.parent.glob("*.yaml") if file != path)
    if here and path.parent.resolve() != CONFIGS:
        return f"{path.parent}/{{{', '.join(here)}}}"
    return f"config/{{{', '.join(sorted(file.parent.name for file in CONFIGS.glob('*/esda.yaml')))}}}/*.yaml"


class _PlainYaml(yaml.BaseLoader):
    """YAML loader of text, as 010 would be 8 and 1:30 90, that rejects a key given twice: one would be dropped."""

    def construct_scalar(self, node):
        value = super().construct_scalar(node)
        return "" if node.style is None and value in ("~", "null", "Null", "NULL") else value   # nothing, not a word

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str):
    """Parse YAML to text, lists and mappings. Raises ValueError, in words, for what is not YAML."""
    try:
        return yaml.load(text, _PlainYaml)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


# Values

def _kind(schema: type, name: str):
    """Look up the type of the option with the dotted name ``name``; None if there is none."""
    kind = schema
    for part in name.split("."):
        kind = typing.get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    return kind


def _checked(values: dict, schema: type, where: str) -> dict:
    """Convert nested or dotted ``values`` to dotted names and their options' types. Raises UserError."""
    known, out = dict(options(schema)), {}
    for name, value in _leaves(values):
        if not value and dataclasses.is_dataclass(_kind(schema, name)):
            continue    # a section's head alone
        if name not in known or name in out:
            problem = f"{name!r} stands twice" if name in out else f"unknown option {name!r}; {_nearest(name, known)}"
            raise UserError(f"{where}: {problem}")
        out[name] = _convert(value, _kind(schema, name), name, where, known[name].metadata)
    return out


def _build(schema: type[Schema], values: dict, where: str, prefix: str = "") -> Schema:
    """Build ``schema`` from ``values`` under dotted names. Raises UserError for a missing option."""
    arguments = {}
    for f in dataclasses.fields(schema):
        name, kind = f"{prefix}{f.name}", _kind(schema, f.name)
        if dataclasses.is_dataclass(kind):
            arguments[f.name] = _build(kind, values, where, f"{name}.")
        elif name in values:
            arguments[f.name] = values[name]
        elif f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{where}: option {name} is missing")
    return schema(**arguments)


def _nearest(name: str, known: dict) -> str:
    last = {path.rsplit(".", 1)[-1]: path for path in known}
    close = difflib.get_close_matches(name, known, 1, 0.6) or [
        last[key] for key in difflib.get_close_matches(name.rsplit(".", 1)[-1], last, 1, 0.6)]
    inside = [path for path in known if path.startswith(f"{name}.")]
    return f"did you mean {[*inside, *close][0]!r}?" if inside or close else "config/base.yaml lists them all"


def _convert(value, kind, name: str, where: str, about: typing.Mapping):
    """Convert ``value``, text or typed, to the type of ``name``, within the bounds of ``about``. Raises UserError."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        if value in arguments:
            return value
        close = difflib.get_close_matches(str(value), map(str, arguments), 1, 0)
        raise UserError(f"{where}: {name}={value!r} is none of {', '.join(map(str, arguments))}; did you mean "
                        f"{close[0]!r}?")
    if typing.get_origin(kind) is list and isinstance(value, list) and about.get("length") in (None, len(value)):
        return [_convert(item, arguments[0], f"{name}[{i}]", where, about) for i, item in enumerate(value)]
    if kind is str and isinstance(value, str):
        return value
    if kind is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    with suppress(KeyError, TypeError, ValueError, OverflowError):  # not a number, not written as one, too many digits
        return _within(kind(re.fullmatch(NUMBERS[kind], str(value))[0]), name, where, about)
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(
        kind, f"a list of {about.get('length') or 'some'} values")
    raise UserError(f"{where}: {name}={value!r} should be {wanted}")


def _within(value: float, name: str, where: str, about: typing.Mapping) -> float:
    """Return ``value`` if it is finite and between its bounds. Raises UserError."""
    least, most = about.get("least"), about.get("most")
    if not math.isfinite(value) or least is not None and value < least or most is not None and value > most:
        bounds = (f"{least} to {most}" if None not in (least, most) else f"{least} or more" if least is not None
                  else "a finite number")
        raise UserError(f"{where}: {name}={value!r} should be {bounds}")
    return value


if __name__ == "__main__":
    print(reference(), end="")

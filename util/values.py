"""What people write: YAML files to plain values, and those to the types and bounds of options."""
import dataclasses
import difflib
import math
import os
import types
import typing
from pathlib import Path
from typing import Literal

import yaml

from util.runtime.errors import UserError, require_file

CONFIGS = Path(__file__).resolve().parent.parent / "config"
LARGEST_FILE = 1_000_000    # bytes; a config has a few hundred


def read_chain(path: Path) -> list[tuple[Path, dict]]:
    """The options in the config ``path`` and in those that it extends, the most general first."""
    chain: list[tuple[Path, dict]] = []
    while True:
        values = _read(path)
        parent = values.pop("extends", None)
        chain.insert(0, (path, values))
        if parent is None:
            return chain
        if not isinstance(parent, str):
            raise UserError(f"{path}: extends={show(parent)} should be the path of another config, from this one's "
                            f"folder")
        parent = Path(os.path.normpath(path.parent / parent))
        if any(parent == Path(os.path.normpath(file)) for file, _ in chain):
            raise UserError(f"{path}: extends {parent.name}, which extends it in turn")
        path = parent


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
    if here and path.parent.resolve() != CONFIGS:
        return f"{path.parent}/{{{', '.join(here)}}}"
    return f"config/{{{', '.join(sorted(file.parent.name for file in CONFIGS.glob('*/esda.yaml')))}}}/*.yaml"


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


def convert(value, kind, name: str, where: str, about: typing.Mapping, nested: typing.Callable):
    """``value`` as the type of the option ``name``, within the bounds that ``about`` has of it (util.options.option).

    An int serves as float, and so does text such as 1e-3, which YAML takes for text. nested(kind, value, where) makes
    a dataclass of a mapping. Raises UserError.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else convert(value, arguments[0], name, where, about, nested)
    if origin is Literal:
        if value in arguments:
            return value
        close = difflib.get_close_matches(str(value), arguments, 1, 0)
        raise UserError(f"{where}: {name}={show(value)} is none of {', '.join(arguments)}; did you mean {close[0]!r}?")
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return nested(kind, value, f"{where}: {name}")
    if origin is list:
        wanted = f"a list of {getattr(arguments[0], '__name__', 'words')}"
        if isinstance(value, list):
            if about.get("length") not in (None, len(value)):
                raise UserError(f"{where}: {name}={show(value)} should be {about['length']} numbers")
            return [convert(item, arguments[0], f"{name}[{i}]", where, about, nested) for i, item in enumerate(value)]
    elif kind is float:
        wanted = "a number"
        try:
            if isinstance(value, (int, float, str)) and not isinstance(value, bool):
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
    raise UserError(f"{where}: {name}={show(value)} should be {wanted}")


def _within(value: float, name: str, where: str, about: typing.Mapping) -> float:
    """``value`` if it is finite and between its bounds."""
    least, most = about.get("least"), about.get("most")
    if not -math.inf < value < math.inf or least is not None and value < least or most is not None and value > most:
        bounds = (f"{least} to {most}" if None not in (least, most) else f"{least} or more" if least is not None
                  else "a finite number")
        raise UserError(f"{where}: {name}={show(value)} should be {bounds}")
    return value


def _plain(text: str, name: str, where: str) -> str:
    """``text`` if it can stand in a file name, in YAML and in JSON alike."""
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise UserError(f"{where}: {name}={show(text)} holds a NUL or bytes that are not UTF-8; write it without them")
    return text


def show(value) -> str:
    """``value`` in a message, cut where it is long."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except (RecursionError, ValueError):  # a whole number of more digits than Python prints
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= 120 else f"{text[:100]}..."

"""Classes and folds: which class ids are unseen in which fold. Only this file decides that.

    python -m data.folds --config FILE [key=value ...]      the numbers of the data set's folds
"""
import reprlib
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import yaml

from data.files import read_text
from util.config import Data, from_command_line
from util.runtime.errors import UserError, run_main

FOLDS = 4
MAX_BYTES = 1 << 20  # of a class file


@dataclass(frozen=True)
class Classes:
    """The names of a data set, class id = place + 1, and the unseen ids of each fold."""
    names: list[str]
    folds: tuple[tuple[int, ...], ...]

    @staticmethod
    def read(path: str | Path, rule: str = "file", naming: str = "words") -> "Classes":
        """Read a YAML file with ``classes`` (names in order of their ids) and ``folds``.

        folds: ``contiguous`` (fold i: the i-th quarter of the ids, PASCAL-5i), ``interleaved`` (every fourth id
        from i + 1, COCO-20i as HSNet, PFENet and BAM split it), or a list of lists of names.
        rule: another of the first two, instead of what the file says.
        naming: ``annotation`` takes the names of the annotation files. Where these differ, the file's
            ``annotation_names`` {name: name in the annotation files} lists them.
        """
        content = _read_yaml(path)
        names = content["classes"]
        check_names(path, names)
        folds = _folds(path, names, content["folds"] if rule == "file" else rule)
        if naming == "annotation":
            annotated = content.get("annotation_names", {})
            if not isinstance(annotated, dict) or not annotated.keys() <= set(names):
                raise UserError(f"{path}: 'annotation_names' should give another name to some of 'classes'")
            names = [annotated.get(name, name) for name in names]
            check_names(path, names)
        return Classes(names, folds)

    def unseen(self, fold: int) -> tuple[int, ...]:
        """Ids of the classes that fold ``fold`` holds back from training."""
        if not 0 <= fold < len(self.folds):
            raise UserError(f"fold={fold}: there are folds 0 to {len(self.folds) - 1}")
        return self.folds[fold]

    def seen(self, fold: int) -> tuple[int, ...]:
        """Ids of the classes whose masks fold ``fold`` trains on."""
        unseen = self.unseen(fold)
        return tuple(i for i in range(1, len(self.names) + 1) if i not in unseen)

    def name(self, class_id: int) -> str:
        return self.names[class_id - 1]


def _folds(path: str | Path, names: list[str], rule) -> tuple[tuple[int, ...], ...]:
    """The unseen ids of each fold, by one of the rules of Classes.read. Raises UserError."""
    ids = range(1, len(names) + 1)
    if rule in ("contiguous", "interleaved"):
        if len(names) % FOLDS:
            raise UserError(f"{path}: {len(names)} classes do not divide into {FOLDS} folds; list the folds by name")
        size = len(names) // FOLDS
        return tuple(tuple(ids[i * size:(i + 1) * size] if rule == "contiguous" else ids[i::FOLDS])
                     for i in range(FOLDS))
    if not (isinstance(rule, list) and rule and all(isinstance(fold, list) and fold for fold in rule)):
        raise UserError(f"{path}: 'folds' is {_short(rule)} and should be contiguous, interleaved or a list of lists "
                        f"of names, none of them empty")
    fold_of: dict[str, int] = {}
    for number, fold in enumerate(rule):
        for name in fold:
            if not isinstance(name, str) or name not in names:
                raise UserError(f"{path}: fold {number} names {_short(name)}, which is not in 'classes'")
            if name in fold_of:
                raise UserError(f"{path}: {name!r} is in fold {fold_of[name]} and in fold {number}; list it once")
            fold_of[name] = number
    return tuple(tuple(names.index(name) + 1 for name in fold) for fold in rule)


def _read_yaml(path: str | Path) -> dict:
    """The file's mapping with every value as text: `no`, `1` and dates are names here, too."""
    text = read_text(path, "data.classes should name a YAML file with the class names and folds", MAX_BYTES)
    try:
        top = yaml.compose(text, yaml.BaseLoader)
        keys = [key.value for key, _ in top.value] if isinstance(top, yaml.MappingNode) else []
        content = yaml.load(text, yaml.BaseLoader)
        if not {"classes", "folds"} <= set(keys):
            raise UserError(f"{path}: should hold 'classes' (a list of names) and 'folds'")
        if len(set(keys)) != len(keys):
            raise UserError(f"{path}: a key is given twice; keep one of them")
    except (yaml.YAMLError, RecursionError, TypeError) as error:
        raise UserError(f"{path}: not valid YAML: {str(error)[:300] or 'nested too deeply'}") from None
    return content


def _short(value) -> str:
    """``value`` for a message; YAML's aliases can make it huge."""
    return f"{reprlib.repr(value):.100}"


def check_names(path: str | Path, names) -> None:
    """Raise UserError unless these are 1 to 254 names, no two of which differ in case alone, which CLIP does not read.
    """
    if not isinstance(names, list) or not 1 <= len(names) <= 254:
        count = f"{len(names)} classes" if isinstance(names, list) else _short(names)
        raise UserError(f"{path}: {count} where 'classes' should list 1 to 254 names (0 is background, 255 ignored)")
    first = {}
    for number, name in enumerate(names, start=1):
        if not isinstance(name, str) or not any(map(str.isalnum, name)) or not name.isprintable():
            raise UserError(f"{path}: class {number} is {_short(name)} and should be a name")
        same = first.setdefault(" ".join(unicodedata.normalize("NFKC", name).lower().split()), number)
        if same != number:
            raise UserError(f"{path}: {_short(name)} is listed twice, as class {same} and as class {number}")


def classes_of(options: Data) -> Classes:
    """The classes and folds of a config's section ``data``."""
    return Classes.read(options.classes, options.folds, options.names)


def main() -> None:
    print(*range(len(classes_of(from_command_line(sys.argv[1:]).data).folds)))


if __name__ == "__main__":
    run_main(main)

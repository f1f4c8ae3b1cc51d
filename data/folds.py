"""Classes and folds: which class ids are unseen in which fold. The only place that knows.

    python -m data.folds --config FILE [key=value ...]      the numbers of the data set's folds
"""
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from util.config import Data, from_command_line
from util.runtime.errors import UserError, require_file, run_main

FOLDS = 4


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
        naming: ``annotation`` calls the classes of the file's ``annotation_names`` {name: name in the annotation
            files} so; where the file has none, its names are the annotation's own.
        """
        require_file(path, "data.classes should name a YAML file with the class names and folds")
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            names, written = [str(name) for name in content["classes"]], content["folds"]
            annotated = content.get("annotation_names", {})
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: should hold 'classes' (a list of names) and 'folds': {error}") from None
        if len(set(names)) != len(names):
            raise UserError(f"{path}: a class name stands twice in 'classes'")
        if not 1 <= len(names) <= 254:
            raise UserError(f"{path}: {len(names)} classes; a mask can hold 1 to 254 (0 is background, 255 ignored)")
        rule = written if rule == "file" else rule
        ids = range(1, len(names) + 1)
        if rule in ("contiguous", "interleaved"):
            if len(names) % FOLDS:
                raise UserError(f"{path}: {len(names)} classes do not divide into {FOLDS} folds; list the folds by name")
            size = len(names) // FOLDS
            folds = [ids[i * size:(i + 1) * size] if rule == "contiguous" else ids[i::FOLDS] for i in range(FOLDS)]
        elif isinstance(rule, list) and all(isinstance(fold, list) for fold in rule):
            for name in (name for fold in rule for name in fold):
                if name not in names:
                    raise UserError(f"{path}: 'folds' names {name!r}, which is not in 'classes'")
            folds = [[names.index(name) + 1 for name in fold] for fold in rule]
        else:
            raise UserError(f"{path}: folds={rule!r} should be contiguous, interleaved or a list of lists of names")
        if naming == "annotation":
            if not isinstance(annotated, dict) or not annotated.keys() <= set(names):
                raise UserError(f"{path}: 'annotation_names' should give names of 'classes' another: {annotated}")
            names = [str(annotated.get(name, name)) for name in names]
        return Classes(names, tuple(tuple(fold) for fold in folds))

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


def classes_of(options: Data) -> Classes:
    """The classes and folds of a config's section ``data``."""
    return Classes.read(options.classes, options.folds, options.names)


def main() -> None:
    print(*range(len(classes_of(from_command_line(sys.argv[1:]).data).folds)))


if __name__ == "__main__":
    run_main(main)

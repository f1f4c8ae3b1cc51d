"""Classes and folds: which class ids are unseen in which fold. Only this file decides that."""
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import ftfy
import regex

from data.files import read_file
from util.config import Data, parse_yaml
from util.runtime.errors import UserError

FOLDS = 4
OTHER_NAMES = {"annotation": "annotation_names", "synonyms": "synonyms"}    # keys of the classes' file


@dataclass(frozen=True)
class Classes:
    """Class names, id = place + 1, and the unseen ids of each fold."""
    names: list[str]
    folds: tuple[tuple[int, ...], ...]

    @staticmethod
    def read(path: str | Path, naming: str = "words") -> "Classes":
        """Read a YAML file with ``classes`` (names in order of their ids) and ``folds``.

        folds: ``contiguous`` (fold i: the i-th quarter of the ids, PASCAL-5i), ``interleaved`` (every fourth id from
            i + 1, COCO-20i as in HSNet, PFENet and BAM), or a list of lists of names.
        naming: ``annotation`` replaces names by the file's ``annotation_names`` {name: name in the annotation files},
            ``synonyms`` by its ``synonyms``; who has none keeps its name.
        Raises UserError for an invalid file; names must differ in more than case, which CLIP does not read.
        """
        text = read_file(path, "data.classes should name a YAML file with the class names and folds", text=True)
        return Classes.parse(text, path, naming)

    @staticmethod
    def parse(text: str, path: str | Path, naming: str = "words") -> "Classes":
        """Parse the text of such a file; path: for the error."""
        try:
            content = parse_yaml(text)  # all values are text: `no`, `1` and dates are names, too
            names, rule, annotated = content["classes"] + [], content["folds"], content.get(OTHER_NAMES.get(naming), {})
            read = [" ".join(name.lower().split()) for name in names]
            size, rest = divmod(len(names), FOLDS)
            rules = {} if rest else {"contiguous": [names[i * size:(i + 1) * size] for i in range(FOLDS)],
                                     "interleaved": [names[i::FOLDS] for i in range(FOLDS)]}
            folds = rule if isinstance(rule, list) else rules.get(str(rule), [])
            listed = [name for fold in folds for name in fold + []]     # a mapping or a word is no list, and has no +
            problem = ([name for name, same in zip(names, read)
                        if not any(map(str.isalnum, name)) or read.count(same) > 1]
                       or [name for name in listed if name not in names or listed.count(name) > 1]
                       or (f"{len(names)} names and the folds {rule}" if not listed or len(names) > 254 else ""))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = " ".join(repr(error).split())
        if problem:
            raise UserError(f"{path}: should be YAML with 'classes', 1 to 254 different names, and 'folds', lists of "
                            f"these that give each at most once, or contiguous or interleaved, {FOLDS} equal folds; "
                            f"not {problem!s:.200}")
        return Classes([annotated.get(name, name) for name in names],
                       tuple(tuple(names.index(name) + 1 for name in fold) for fold in folds))

    def unseen(self, fold: int) -> tuple[int, ...]:
        """Return the class ids that ``fold`` holds back from training. Raises UserError for no such fold."""
        if not 0 <= fold < len(self.folds):
            raise UserError(f"fold={fold}: there are folds 0 to {len(self.folds) - 1}")
        return self.folds[fold]

    def seen(self, fold: int) -> tuple[int, ...]:
        """Return the class ids whose masks ``fold`` trains on."""
        unseen = self.unseen(fold)
        return tuple(i for i in range(1, len(self.names) + 1) if i not in unseen)

    def name(self, class_id: int) -> str:
        return self.names[class_id - 1]


def classes_of(options: Data) -> Classes:
    """Read the classes and folds of config section ``data``."""
    return Classes.read(options.classes, options.names)


def hidden_marks(names: Iterable[str]) -> list[str]:
    """Describe characters that have no width of their own in names: CLIP reads those that ftfy leaves."""
    return [f"{ascii(name)} has characters that nobody sees and CLIP reads; leave them out unless they are meant"
            for name in names if regex.search(r"[\p{Cf}\p{DI}]", ftfy.fix_text(name))]

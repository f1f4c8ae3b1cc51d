"""Class files: what cannot be is named, in one line and at once."""
import time

import numpy as np
import pytest

from data.folds import Classes
from data.index import Index
from data.samples import exhaustive, train_images
from util.runtime.errors import UserError

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl"))


def written(tmp_path, text: str | bytes):
    path = tmp_path / "classes.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("text, named", [
    ("classes: [cat, '', dog]\nfolds: [[cat]]", "class 2 is ''"), ("classes: [cat, ' ']\nfolds: [[cat]]", "class 2 is"),
    ("classes: [cat,\n  ]\nfolds: [[dog]]", "'dog'"), ('classes: [cat, "a\\0b"]\nfolds: [[cat]]', "class 2 is"),
    ("classes:\n- cat\n-\nfolds: [[cat]]", "class 2 is ''"), ("classes: [cat, [dog]]\nfolds: [[cat]]", "class 2 is"),
    ("classes: [cat, ~]\nfolds: [[cat]]", "class 2 is '~'"), ('classes: [caf\u00e9, "cafe\u0301"]\nfolds: []', "twice"),
    ("classes: [cat, Cat]\nfolds: [[cat]]", "twice"), ("classes: cat dog\nfolds: [[cat]]", "should list"),
    ("classes: {1: cat}\nfolds: [[cat]]", "should list"),
    ("classes: [cat, dog]\nfolds: [[cat], [cat]]", "fold 0 and in fold 1"),
    ("classes: [cat, dog]\nfolds: [[cat, cat]]", "fold 0 and in fold 0"),
    ("classes: [cat, dog]\nfolds: []", "'folds' is []"), ("classes: [a, b, c]\nfolds: contiguous", "do not divide"),
    ("classes: [a, b, c, d]\nfolds: random", "random"), ("classes: []\nfolds: contiguous", "0 classes"),
    ("classes: [a, b]", "should hold"), ("folds: contiguous", "should hold"),
    ("classes: [cat, dog]\nfolds: [[cat], []]", "none of them empty"),
    ("classes: [cat]\nfolds: 1000000000", "1000000000"),
    ("classes: [cat, dog]\nfolds: [[[cat]]]", "names"), ("classes: [cat]\nfolds:", "'folds' is ''"),
    ("classes: [cat]\nfolds: [[cat]]\nclasses: [dog]", "twice"), ("- cat", "should hold"), ("", "should hold"),
    ("classes: [c" + ", c".join(map(str, range(255))) + "]\nfolds: [[c0]]", "255 classes"),
    ("[" * 1200, "not valid YAML"), ("classes: *nothing", "not valid YAML"), ("? [a]\n: b", "not valid YAML"),
    (BOMB + "classes: *l\nfolds: contiguous", "class 1 is"), (BOMB + "classes: [x]\nfolds: *l", "fold 0 names"),
    (BOMB + "classes: [x]\nfolds: {x: *l}", "'folds' is"),
    ("#" * 2_000_000, "2,000,000 bytes"), (b"\x89PNG\0", "binary")])
def test_a_class_file_that_cannot_be_is_named_in_a_short_line(tmp_path, text, named):
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        Classes.read(written(tmp_path, text))
    assert named in str(caught.value) and str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 600 and time.perf_counter() - start < 20


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_a_class_file_is_read_as_any_system_writes_it(tmp_path, encoding):
    """Every value is text, also what YAML takes for something else."""
    text = "classes: [caf\u00e9, no, 1, 2024-01-99, null]\r\nfolds: [[no], [1]]\r\n"
    classes = Classes.read(written(tmp_path, text.encode(encoding)))
    assert classes.names == ["caf\u00e9", "no", "1", "2024-01-99", "null"] and classes.folds == ((2,), (3,))


@pytest.mark.parametrize("names", [["cat"], ["cat", "dog"]])
def test_a_fold_that_leaves_no_class_to_train_on_is_told_so(names):
    """Its classes can still be tested."""
    index = Index("list.txt", [("a.jpg", "a.png")], np.array([[9] * (len(names) + 1)]))
    classes = Classes(names, (tuple(range(1, len(names) + 1)),))
    for which in ("seen", "ignore"):
        with pytest.raises(UserError, match="holds back every class"):
            train_images(index, classes, 0, 1, which)
    assert train_images(index, classes, 0, 1, "all").rows == [0]
    assert len(exhaustive(index, classes.unseen(0), 1)) == len(names)

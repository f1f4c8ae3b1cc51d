"""Folds and samples: which classes are unseen, what is trained on, and what the two protocols test."""
from collections import Counter

import numpy as np
import pytest

from data.files import read_list
from data.folds import Classes
from data.index import Index
from data.samples import Sample, episodic, eval_samples, exhaustive, spread, train_images
from util.config import ROOT, Config
from util.options import Eval
from util.runtime.errors import UserError

SETS = ("pascal", "coco", "shapes")
PRESENT = 2048  # px, from which the field counts a class as present


def classes_of(name: str) -> Classes:
    return Classes.read(ROOT / "lists" / name / "classes.yaml")


def index_of(pixels) -> Index:
    pixels = np.asarray(pixels, np.int64)
    return Index("some/list.txt", [(f"{i}.jpg", f"{i}.png") for i in range(len(pixels))], pixels)


def random_index(classes: Classes, images: int = 300, seed: int = 0) -> Index:
    """Few classes an image, with areas on both sides of the threshold."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((images, len(classes.names) + 1), np.int64)
    for row in pixels:
        chosen = rng.choice(np.arange(1, len(row)), size=rng.integers(0, 4), replace=False)
        row[chosen] = rng.choice([1, 300, 2047, 2048, 9000], size=len(chosen))
    pixels[:, 0] = 100_000
    return index_of(pixels)


# Folds

def test_folds_are_those_of_the_published_tables():
    """Names may be spelt as two words, because CLIP's captions do; VOC's are one."""
    published = ["aeroplane bicycle bird boat bottle", "bus car cat chair cow",
                 "diningtable dog horse motorbike person", "pottedplant sheep sofa train tvmonitor"]
    pascal, coco, shapes = map(classes_of, SETS)
    contiguous = Classes.read(ROOT / "lists/coco/classes_contiguous.yaml")
    assert len(coco.names) == 80 and contiguous.names == coco.names and len(shapes.names) == 20
    for fold, names in enumerate(published):
        assert [pascal.name(c).replace(" ", "") for c in pascal.unseen(fold)] == names.split()
        assert pascal.unseen(fold) == shapes.unseen(fold) == tuple(range(5 * fold + 1, 5 * fold + 6))
        assert coco.unseen(fold) == tuple(range(fold + 1, 81, 4))
        assert contiguous.unseen(fold) == tuple(range(20 * fold + 1, 20 * fold + 21))
        assert sorted(coco.unseen(fold) + coco.seen(fold)) == list(range(1, 81))
    for fold in (-1, 4):
        with pytest.raises(UserError, match=f"fold={fold}.*0 to 3"):
            pascal.unseen(fold)


def test_folds_may_be_listed_by_name_and_every_name_is_text(tmp_path):
    (tmp_path / "classes.yaml").write_text("classes: [a, no, 1, 2024-01-99]\nfolds: [[1], [a, no]]\n"
                                           "annotation_names: {a: b}\n")
    assert Classes.read(tmp_path / "classes.yaml") == Classes(["a", "no", "1", "2024-01-99"], ((3,), (1, 2)))
    assert Classes.read(tmp_path / "classes.yaml", "annotation").names == ["b", "no", "1", "2024-01-99"]


@pytest.mark.parametrize("text, named", [
    ("classes: [cat, '', dog]\nfolds: [[cat]]", "['']"), ("classes: [cat, Cat]\nfolds: [[cat]]", "'Cat'"),
    ("classes: [cat, dog]\nfolds: [[cat], [cat]]", "'cat'"), ("classes: [cat, dog]\nfolds: [[dig]]", "'dig'"),
    ("classes: [cat, dog]\nfolds: []", "folds []"), ("classes: [a, b, c]\nfolds: contiguous", "3 names"),
    ("classes: []\nfolds: contiguous", "0 names"), ("classes: [a, b]", "'folds'"), ("- cat", "'classes'"),
    (f"classes: {list(map(str, range(255)))}\nfolds: [['0']]", "255 names"), ("[", "YAML"),
    ("classes: {1: cat, 2: dog}\nfolds: [[cat]]", "list"), ("classes: [a, b]\nfolds: [ab]", "list")])
def test_a_class_file_that_cannot_be_is_named(tmp_path, text, named):
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        Classes.read(tmp_path / "classes.yaml")
    assert named in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_published_pascal_lists_are_whole_and_disjoint():
    train, val = (read_list(ROOT / f"lists/pascal/{part}.txt") for part in ("train", "val"))
    assert (len(train), len(val)) == (5953, 1449)
    assert all(set(ours).isdisjoint(theirs) for ours, theirs in zip(zip(*train), zip(*val)))
    for image, mask in train + val:
        name = image.removeprefix("JPEGImages/").removesuffix(".jpg")
        assert (image, mask) == (f"JPEGImages/{name}.jpg", f"SegmentationClassAug/{name}.png")


# Training images

@pytest.mark.parametrize("name, fold", [("pascal", 0), ("coco", 3), ("shapes", 1)])
def test_training_takes_every_image_that_qualifies_and_none_with_an_unseen_pixel(name, fold):
    classes = classes_of(name)
    index = random_index(classes)
    seen, unseen = list(classes.seen(fold)), list(classes.unseen(fold))
    images = train_images(index, classes, fold, PRESENT, "seen")
    assert images.rows == [row for row, areas in enumerate(index.pixels)
                           if not areas[unseen].any() and (areas[seen] >= PRESENT).any()]
    assert 0 < len(images.rows) < len(index.pixels)
    assert images.classes == [tuple(c for c in seen if index.pixels[row, c]) for row in images.rows]
    assert images.absent == [tuple(c for c in seen if not index.pixels[row, c]) for row in images.rows]


def test_ignoring_keeps_images_with_unseen_classes_for_their_seen_ones_and_all_trains_on_every_class():
    classes = classes_of("pascal")
    index = random_index(classes)
    unseen = set(classes.unseen(1))
    dropped, kept, every = (train_images(index, classes, 1, PRESENT, which) for which in ("seen", "ignore", "all"))
    assert every.rows == np.flatnonzero((index.pixels[:, 1:] >= PRESENT).any(axis=1)).tolist()
    assert every.classes == [tuple(np.flatnonzero(index.pixels[row, 1:]) + 1) for row in every.rows]
    assert set(dropped.rows) < set(kept.rows) and dropped.ignored == () and set(kept.ignored) == unseen
    assert all(ids and not unseen & set(ids) for ids in kept.classes), "an unseen class is never drawn"
    both = [row for row in kept.rows if index.pixels[row, list(unseen)].any()]
    assert both and len(kept.rows) == len(dropped.rows) + len(both)


# Test samples

def test_exhaustive_yields_each_image_and_present_class_once_in_order():
    index, unseen = random_index(classes_of("coco")), classes_of("coco").unseen(2)
    expected = [Sample(row, c) for row in range(len(index.pixels)) for c in unseen if index.pixels[row, c] >= PRESENT]
    assert exhaustive(index, unseen, PRESENT) == expected and expected


def test_episodic_goes_round_the_list_in_order_and_follows_the_seed():
    classes = classes_of("pascal")
    index, unseen = random_index(classes), classes.unseen(0)
    eligible = [row for row, areas in enumerate(index.pixels) if (areas[list(unseen)] >= PRESENT).any()]
    count = 2 * len(eligible) + 3
    samples, again, others = (episodic(index, unseen, PRESENT, count, seed) for seed in (321, 321, 322))
    assert [sample.row for sample in samples] == [sample.row for sample in others] == (3 * eligible)[:count]
    assert all(sample.class_id in unseen and index.pixels[sample] > 0 for sample in samples)
    assert samples == again != others
    assert samples[:40] == episodic(index, unseen, PRESENT, 40, 321), "more samples only add"
    pixels = np.zeros((1, 21), int)
    pixels[0, [1, 2, 3, 6]] = 3000, 5, 2047, 9000     # 2 and 3 come in with 1; 6 is not asked for, 4 not there
    drawn = Counter(s.class_id for s in episodic(index_of(pixels), (1, 2, 3, 4, 5), PRESENT, 600, 321))
    assert set(drawn) == {1, 2, 3} and min(drawn.values()) > 150, "small classes too, and all alike"


# Empty folds, and a few of many

def test_an_empty_fold_is_an_error_that_names_list_and_threshold():
    """Where every class is unseen there is nothing to train on, but its classes can still be tested."""
    small, whole = (index_of(np.full((5, 3), area)) for area in (PRESENT - 1, PRESENT))
    classes = Classes(["cat", "dog"], ((1,), (1, 2)))
    for empty, *arguments in ((train_images, small, classes, 0, PRESENT, "all"),
                              (train_images, whole, classes, 0, PRESENT, "seen"),
                              (train_images, whole, classes, 1, PRESENT, "ignore"),
                              *((eval_samples, Config(eval=Eval(protocol=protocol)), small, classes)
                                for protocol in ("exhaustive", "episodic", "generalised"))):
        with pytest.raises(UserError, match="some/list.txt.*empty.*2048"):
            empty(*arguments)
    assert train_images(whole, classes, 1, PRESENT, "all").rows == [0, 1, 2, 3, 4]
    assert len(exhaustive(whole, classes.unseen(1), PRESENT)) == 10


@pytest.mark.parametrize("count", [1, 2, 7, 99, 101])
def test_spread_takes_distinct_samples_from_the_whole_list_in_order(count):
    samples = [Sample(row, 1) for row in range(100)]
    some = spread(samples, count)
    assert len(some) == min(count, 100) and some == sorted(set(some))
    gaps = np.diff([sample.row for sample in some])
    assert count < 2 or (some[0], some[-1]) == (samples[0], samples[-1]) and gaps.max() - gaps.min() <= 1

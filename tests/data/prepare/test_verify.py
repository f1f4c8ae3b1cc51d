"""data.verify: counts by hand, files that cannot be used by name, figures from elsewhere, pictures."""
import hashlib
import shutil
from pathlib import Path

import cv2
import miniature
import numpy as np
import pytest
from runs import in_process

from data.files import read_list
from data.folds import Classes, classes_of
from data.index import Index
from data.prepare import published, verify
from data.prepare.published import Figure
from util.config import ROOT, Config, load


def options(root: Path) -> list[str]:
    return [f"data.root={root}", f"data.train_list={root}/lists/train.txt", f"data.val_list={root}/lists/val.txt",
            "data.min_pixels=32"]


@pytest.fixture
def copy(tiny_shapes, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_shapes, tmp_path / "set"))


def test_a_good_set(copy):
    done = in_process("data.verify", "shapes", *options(copy))
    assert done.returncode == 0 and "no problems" in done.stdout, done.stderr
    masks = [cv2.imread(str(f), cv2.IMREAD_UNCHANGED) for f in (copy / "SegmentationClassAug").glob("val_*.png")]
    pairs = sum(np.count_nonzero(m == c) >= 32 for m in masks for c in range(1, 6))
    images = sum(any(np.count_nonzero(m == c) >= 32 for c in range(1, 6)) for m in masks)
    row = next(line for line in done.stdout.splitlines() if line.startswith("| 0 |"))
    assert row.split("|")[3:5] == [f" {images} ", f" {pairs} "]
    report = (copy / "verify/report.md").read_text()
    circles = sum(np.count_nonzero(m == 1) >= 32 for m in masks)
    assert "| 1 | circle | 0 |" in report and f"| {circles} |" in report
    assert cv2.imread(str(copy / "verify/samples.png")).shape[1] > 600


def test_what_cannot_be_used_is_named_and_the_rest_is_still_read(copy):
    spoiled = [copy / "JPEGImages/train_000003.jpg", copy / "SegmentationClassAug/val_000002.png",
               copy / "SegmentationClassAug/val_000004.png", copy / "JPEGImages/val_000006.jpg"]
    spoiled[0].write_bytes(spoiled[0].read_bytes()[:300])
    spoiled[1].unlink()
    cv2.imwrite(str(spoiled[2]), np.full((64, 64), 77, np.uint8))
    cv2.imwrite(str(spoiled[3]), np.zeros((20, 30, 3), np.uint8))
    done = in_process("data.verify", "shapes", *options(copy))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    report = (copy / "verify/report.md").read_text()
    for file in spoiled:
        assert file.name in done.stderr and file.name in report
    assert done.stderr.splitlines()[-1].startswith("error: 4 problems")


def test_a_mask_in_both_lists_is_a_problem(copy):
    train, val = (copy / f"lists/{part}.txt" for part in ("train", "val"))
    train.write_text(train.read_text() + val.read_text().splitlines()[0])
    done = in_process("data.verify", "shapes", *options(copy))
    assert done.returncode == 2 and "1 images are in the training and in the validation list" in done.stderr


def test_the_digest_follows_the_pixels_and_nothing_else(copy):
    def digest():
        return verify.check_list(str(copy), str(copy / "lists/val.txt"), 20).digest
    first = digest()
    file = copy / "SegmentationClassAug/val_000001.png"
    mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(file), mask, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert digest() == first, "other bytes, the same mask"
    mask[0, 0] ^= 1
    cv2.imwrite(str(file), mask)
    assert digest() != first


def test_what_is_often_a_mistake_is_noted(tmp_path):
    """EXIF rotations by name, classes that no mask shows, masks without background."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.txt").write_text("a.jpg a.png\n")
    (tmp_path / "lists/val.txt").write_text("b.jpg b.png\n")
    for name, kind in (("a", "colour"), ("b", "exif")):
        (tmp_path / f"{name}.jpg").write_bytes(miniature.jpeg(miniature.Picture(name, (1,), kind=kind)))
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.ones((90, 120), np.uint8))
    train, val = (verify.check_list(str(tmp_path), str(tmp_path / f"lists/{part}.txt"), 2) for part in ("train", "val"))
    assert not train.problems and not val.problems
    turned, never, ground = verify.notes(train, val, Classes(["cat", "dog"], ((1,),)))
    assert "1 images have an EXIF rotation" in turned and turned.endswith("b.jpg")
    assert "no mask shows dog" in never and "no mask has a pixel of 0" in ground


def test_the_report_lies_elsewhere_where_the_data_cannot_be_written_to(copy, tmp_path, capsys):
    (copy / "verify").write_text("a file stands for a folder that cannot be written to")
    cfg = load(Config, ROOT / "config/shapes/esda.yaml", [*options(copy), f"exp={tmp_path / 'exp'}"])
    assert verify.verify("shapes", cfg) == []
    assert (tmp_path / "exp/verify/shapes/report.md").is_file() and str(tmp_path / "exp") in capsys.readouterr().out


def test_a_figure_is_held_against_the_published_one():
    right, off, wrong, none = (str(Figure("pairs", n, known, exact, "other masks")) for n, known, exact in (
        (100, 100, False), (103, 100, False), (99, 100, True), (7, 0, True)))
    assert right == "ok    pairs: 100" and off.startswith("note") and "+3, +3.0 %" in off and "other masks" in off
    assert wrong.startswith("WRONG") and "-1, -1.0 %" in wrong and none.startswith("WRONG") and "(+7)" in none


def by_what(figures: list[Figure]) -> dict[str, Figure]:
    assert len({figure.what for figure in figures}) == len(figures)
    return {figure.what: figure for figure in figures}


@pytest.fixture(scope="module")
def coco_set(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    return miniature.prepared("coco", miniature.write_tree(miniature.coco(), folder / "unpacked"), folder / "made")


def coco_figures(root: Path, *options) -> dict[str, Figure]:
    lists = [f"data.{part}_list={root}/lists/{part}.txt" for part in ("train", "val")]
    cfg = load(Config, ROOT / "config/coco/esda.yaml", [f"data.root={root}", *lists, *options])
    classes = classes_of(cfg.data)
    train, val = (verify.check_list(str(root), f"{root}/lists/{part}.txt", 80).index for part in ("train", "val"))
    folds = [published.fold_of(train, val, classes, fold, cfg) for fold in range(4)]
    return by_what(published.coco_figures(cfg, train, val, folds, 0))


def by_hand(root: Path) -> tuple[published.CocoFold, ...]:
    """What the published facts would be, were the miniature the published set."""
    def pixels(split: str) -> dict[int, np.ndarray]:
        masks = {published.image_id(file.stem): miniature.read_png(file) for file in (root / "masks" / split).iterdir()}
        return {number: np.bincount(mask.ravel(), minlength=81) for number, mask in masks.items()}

    def digest(ids: list[int]) -> str:
        return hashlib.sha256("".join(f"{number}\n" for number in ids).encode()).hexdigest()

    train, val, facts = pixels("train2014"), pixels("val2014"), []
    order = [73, 74, 42, 208, 133, *(i for i in (207, 206, 205, 204, 203, 202, 201))]  # published, then the file's
    for fold in range(4):
        unseen = list(range(fold + 1, 81, 4))
        seen = [c for c in range(1, 81) if c not in unseen]
        test = [i for i in order if (val[i][unseen] >= 2048).any()]
        learnt = sorted(i for i, n in train.items() if (n[seen] >= 2048).any() and not n[unseen].any())
        facts.append(published.CocoFold(len(test), sum(int((val[i][unseen] >= 2048).sum()) for i in test), digest(test),
                                        *((len(learnt), digest(learnt)) if fold < 3 else ())))
    return tuple(facts)


def test_cocos_fold_lists_are_held_against_counts_and_hashes(coco_set, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "COCO_FOLDS", by_hand(coco_set))
    assert all(fold.images for fold in published.COCO_FOLDS)
    figures = coco_figures(coco_set)
    of_folds = {what: figure for what, figure in figures.items() if "fold" in what}
    assert len(of_folds) == 4 * 3 + 3 * 2, "nothing is known of the training list of fold 3"
    assert all(str(figure).startswith("ok") and figure.exact for figure in of_folds.values())
    assert str(figures["order of the validation list"]).startswith("ok")
    assert str(figures["lines of the validation list"]).startswith("WRONG"), "a miniature has not 40,504 images"

    other = Path(shutil.copytree(coco_set, tmp_path / "other"))
    (other / "masks/val2014/COCO_val2014_000000000073.png").write_bytes(  # class 5, of fold 0, is gone
        (other / "masks/val2014/COCO_val2014_000000000205.png").read_bytes())
    first, second, *rest = (other / "lists/val.txt").read_text().splitlines()
    (other / "lists/val.txt").write_text("".join(f"{line}\n" for line in (second, first, *rest)))
    figures = coco_figures(other)
    wrong = {what for what, figure in figures.items() if str(figure).startswith("WRONG")}
    assert wrong == {"lines of the training list", "lines of the validation list", "order of the validation list",
                     "test images of fold 0", "test pairs of fold 0", "SHA-256 of the test ids of fold 0"}
    (other / published.STAMP).write_text('{"made_with": {"dataset": "coco", "overlap": "larger_first"}}')
    assert str(coco_figures(other)["test pairs of fold 0"]).startswith("note"), "pycocotools' masks are not published"


def test_cocos_facts_are_the_published_ones():
    assert [fold[:2] for fold in published.COCO_FOLDS] == [(26_052, 35_783), (15_305, 17_912), (13_138, 14_563),
                                                           (12_640, 14_315)]
    assert [fold.train for fold in published.COCO_FOLDS] == [21_917, 41_809, 43_045, 0]
    hashes = [h for fold in published.COCO_FOLDS for h in (fold.test_hash, fold.train_hash) if h]
    assert [h[:8] for h in hashes] == ["6ea77dcb", "76799a81", "96f94cc8", "5514a5c2", "fac79cff", "063e5f18",
                                       "f5367f28"]
    assert all(len(h) == 64 for h in hashes)


@pytest.mark.parametrize("option", ["data.folds=contiguous", "data.min_pixels=1", "data.train_classes=all"])
def test_published_fold_lists_are_of_the_published_options_only(coco_set, option):
    assert not [what for what in coco_figures(coco_set, option) if "fold" in what]


@pytest.fixture(scope="module")
def pascal_set(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pascal")
    return miniature.prepared("pascal", miniature.write_tree(miniature.pascal(), folder / "unpacked"), folder / "made")


def pascal_figures(root: Path, *options, outlined: int = 2913) -> dict[str, Figure]:
    """Of the published lists, whose files are not there: every count of a fold is 0."""
    cfg = load(Config, ROOT / "config/pascal/esda.yaml", [f"data.root={root}", *options])
    train, val = (Index(file, read_list(file), np.zeros((1, 21))) for file in (cfg.data.train_list, cfg.data.val_list))
    return by_what(published.pascal_figures(cfg, train, val, [published.Fold([], [], 0)] * 4, outlined))


def test_pascals_lists_are_held_against_the_published_ones(pascal_set):
    first = pascal_figures(pascal_set)
    assert first["lines of the training list"][1:4] == (5953, 5953, True)
    assert first["lines of the validation list"][1:4] == (1449, 1449, True)
    assert first["masks with the value 255"][1:4] == (2913, 2913, True)
    known = {what: figure.known for what, figure in first.items() if "fold" in what}
    assert [known[f"training images of fold {k}"] for k in range(4)] == [4208, 3726, 2752, 4510]
    assert [known[f"test images of fold {k}"] for k in range(4)] == [364, 445, 592, 336]
    assert [known[f"test pairs of fold {k}"] for k in range(4)] == [365, 467, 734, 357]
    assert first["masks in SegmentationClassAug"][1:4] == (16, 12_031, True) and first["SBD's train"][1:3] == (7, 8498)
    own = pascal_figures(pascal_set, f"data.train_list={pascal_set}/lists/train_aug.txt")
    assert not [what for what in own if "training list" in what or "fold" in what], "figures are of the published list"


def test_pascals_rule_is_held_against_the_published_list_in_both_directions(pascal_set):
    """A list of a few names, as an incomplete archive makes it, differs though each of its names is published."""
    figures = pascal_figures(pascal_set)
    listed, ours = ({line.split("/")[-1] for line in file.read_text().splitlines()}
                    for file in (ROOT / "lists/pascal/train.txt", pascal_set / "lists/train.txt"))
    lacking, extra = figures["names that only the published training list has"], figures[
        "names that only its rule gives from the archives"]
    assert lacking[1:4] == (len(listed - ours), 0, True) and str(lacking).startswith("WRONG")
    assert extra[1:4] == (len(ours - listed), 0, True) and extra.found < len(ours) and lacking.found > 5000


def test_the_masks_with_outlines_are_counted(pascal_set):
    """VOC's own have them, SBD's have none."""
    names = sorted(file.stem for file in (pascal_set / "JPEGImages").iterdir())
    (pascal_set / "lists/every.txt").write_text("".join(
        f"JPEGImages/{name}.jpg SegmentationClassAug/{name}.png\n" for name in names))
    checked = verify.check_list(str(pascal_set), str(pascal_set / "lists/every.txt"), 20)
    assert checked.outlined == len(miniature.VOC_TRAIN + miniature.VOC_VAL)
    assert len(checked.turned) == 2 and not checked.problems


def test_without_data_nothing_is_read_or_made(tmp_path):
    done = in_process("data.verify", "pascal", f"data.root={tmp_path / 'nosuch'}")
    assert done.returncode == 2 and "no such folder; python -m data.prepare pascal makes it" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "nosuch").exists()


@pytest.mark.parametrize("arguments", [[], ["fold=0"], ["nosuch"]])
def test_bad_arguments_end_in_a_line(arguments):
    done = in_process("data.verify", *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1

"""data.verify: counts by hand, files that cannot be used by name, figures from elsewhere, pictures."""
import hashlib
import shutil
from pathlib import Path

import cv2
import miniature
import numpy as np
import pytest
from runs import in_process

from data import verify
from data.files import read_list
from data.folds import classes_of
from data.index import Index
from data.prepare import published
from util.config import ROOT, Config, load


def options(root: Path) -> list[str]:
    return [f"data.root={root}", f"data.train_list={root}/lists/train.txt", f"data.val_list={root}/lists/val.txt",
            "data.min_pixels=32", f"exp={root}/exp"]


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
    report = (copy / "exp/verify/shapes/report.md").read_text()
    circles = sum(np.count_nonzero(m == 1) >= 32 for m in masks)
    assert "| 1 | circle | 0 |" in report and f"| {circles} |" in report
    assert cv2.imread(str(copy / "exp/verify/shapes/samples.png")).shape[1] > 600


def test_what_cannot_be_used_is_named_and_the_rest_is_still_read(copy):
    spoiled = [copy / "JPEGImages/train_000003.jpg", copy / "SegmentationClassAug/val_000002.png",
               copy / "SegmentationClassAug/val_000004.png", copy / "JPEGImages/val_000006.jpg"]
    spoiled[0].write_bytes(spoiled[0].read_bytes()[:300])
    spoiled[1].unlink()
    cv2.imwrite(str(spoiled[2]), np.full((64, 64), 77, np.uint8))
    cv2.imwrite(str(spoiled[3]), np.zeros((20, 30, 3), np.uint8))
    train, val = (copy / f"lists/{part}.txt" for part in ("train", "val"))
    train.write_text(train.read_text() + val.read_text().splitlines()[0])
    done = in_process("data.verify", "shapes", *options(copy))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    report = (copy / "exp/verify/shapes/report.md").read_text()
    for file in spoiled:
        assert file.name in done.stderr and file.name in report
    assert "1 images are in the training and in the validation list" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: 5 problems")


def test_the_digest_follows_the_pixels_and_rotations_are_noted(copy, capsys):
    def report() -> list[str]:
        assert verify.verify("shapes", cfg) == []
        return capsys.readouterr().out.split("masks of the validation list")

    cfg = load(Config, ROOT / "config/shapes/esda.yaml", options(copy))
    first, file = report(), copy / "SegmentationClassAug/val_000001.png"
    mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(file), mask, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert report() == first, "other bytes, the same mask"
    mask[0, 0] ^= 1
    cv2.imwrite(str(file), mask)
    turned = miniature.Picture("a", (1,), mask.shape, kind="exif")
    (copy / "JPEGImages/val_000001.jpg").write_bytes(miniature.jpeg(turned))
    above, below = report()
    assert below != first[1] and "1 images have an EXIF rotation" in above


def coco_lines(root: Path, *options) -> list[str]:
    lists = [f"data.{part}_list={root}/lists/{part}.txt" for part in ("train", "val")]
    cfg = load(Config, ROOT / "config/coco/esda.yaml", [f"data.root={root}", *lists, *options])
    classes = classes_of(cfg.data)
    train, val = (verify.check_list(str(root), f"{root}/lists/{part}.txt", 80, "")[0] for part in ("train", "val"))
    folds = [published.fold_of(train, val, classes, fold, cfg) for fold in range(len(classes.folds))]
    return published.compare("coco", cfg, classes, val, len(train.pairs), folds, 0)


def wrong(lines: list[str]) -> set[str]:
    return {line.split(":")[0] for line in lines if line.startswith("WRONG")}


def by_hand(root: Path) -> tuple[tuple, ...]:
    """What the published facts would be, were the miniature the published set."""
    def pixels(split: str) -> dict[int, np.ndarray]:
        masks = {published.image_id(file.stem): miniature.read_png(file) for file in (root / "masks" / split).iterdir()}
        return {number: np.bincount(mask.ravel(), minlength=81) for number, mask in masks.items()}

    def digest(ids: list[int]) -> str:
        return hashlib.sha256("".join(f"{number}\n" for number in ids).encode()).hexdigest()

    train, val, facts = pixels("train2014"), pixels("val2014"), []
    order = [73, 74, 42, 208, 133, 207, 205]  # published, then the file's
    for fold in range(4):
        unseen = list(range(fold + 1, 81, 4))
        seen = [c for c in range(1, 81) if c not in unseen]
        test = [i for i in order if (val[i][unseen] >= 2048).any()]
        learnt = sorted(i for i, n in train.items() if (n[seen] >= 2048).any() and not n[unseen].any())
        pairs = sum(int((val[i][unseen] >= 2048).sum()) for i in test)
        known = (len(learnt), digest(learnt)) if fold < 3 else (None, None)
        facts.append((known[0], len(test), pairs, digest(test), known[1]))
    return tuple(facts)


def test_cocos_fold_lists_are_held_against_counts_and_hashes(sets, tmp_path, monkeypatch):
    _, coco_set = sets("coco")
    monkeypatch.setitem(published.FOLDS, "coco", by_hand(coco_set))
    monkeypatch.setitem(published.LINES, "coco", (10, 7))
    assert all(tests for _, tests, *_ in published.FOLDS["coco"])
    lines = coco_lines(coco_set)
    assert all(line.startswith("ok") for line in lines)
    assert len(lines) == 3 + 3 * 5 + 3, "nothing is known of the training list of fold 3"
    for option in ("data.min_pixels=1", "data.train_classes=all"):
        assert len(coco_lines(coco_set, option)) == 3, "fold lists are of the published options only"

    other = Path(shutil.copytree(coco_set, tmp_path / "other"))
    (other / "masks/val2014/COCO_val2014_000000000073.png").write_bytes(  # class 5, of fold 0, is gone
        (other / "masks/val2014/COCO_val2014_000000000205.png").read_bytes())
    first, second, *rest = (other / "lists/val.txt").read_text().splitlines()
    (other / "lists/val.txt").write_text("".join(f"{line}\n" for line in (second, first, *rest[:-1])))
    assert wrong(coco_lines(other)) == {
        "WRONG lines of the validation list", "WRONG order of the validation list", "WRONG test images of fold 0",
        "WRONG test pairs of fold 0", "WRONG SHA-256 of the test ids of fold 0"}


def pascal_lines(root: Path, *options, outlined: int = 2913) -> list[str]:
    """Of the published lists, whose files are not there: every count of a fold is 0."""
    cfg = load(Config, ROOT / "config/pascal/esda.yaml", [f"data.root={root}", *options])
    val = Index(cfg.data.val_list, read_list(ROOT / cfg.data.val_list), np.zeros((1449, 21)))
    return published.compare("pascal", cfg, classes_of(cfg.data), val, 5953, [([], [])] * 4, outlined)


def test_pascals_lists_are_held_against_the_published_ones(sets):
    _, pascal_set = sets("pascal")
    lines = pascal_lines(pascal_set)
    assert lines[:3] == ["ok    lines of the training list: 5953", "ok    lines of the validation list: 1449",
                         "ok    masks with the value 255, which are VOC's: 2913"]
    made, known = (set(read_list(root / file)) for root, file in ((pascal_set, "lists/train.txt"),
                                                                  (ROOT, "lists/pascal/train.txt")))
    assert lines[3].startswith("WRONG") and lines[3].endswith(f" differ: {len(made ^ known)}, published 0")
    assert lines[4] == "WRONG training images of fold 0: 0, published 4208" and len(lines) == 4 + 4 * 3
    assert pascal_lines(pascal_set, outlined=2912)[2].startswith("WRONG")
    assert not pascal_lines(pascal_set, f"data.train_list={pascal_set}/lists/train_aug.txt")
    checked = [check for part in ("train", "val") for check in verify.check_list(
        str(pascal_set), str(pascal_set / f"lists/{part}.txt"), 20, "")[1]]
    assert sum(c.outlined for c in checked) == len(miniature.VOC_TRAIN + miniature.VOC_VAL), "SBD's have no outlines"
    assert sum(c.turned for c in checked) == 2 and not any(c.problem for c in checked)


def test_without_data_nothing_is_read_or_made(tmp_path):
    done = in_process("data.verify", "pascal", f"data.root={tmp_path / 'nosuch'}")
    assert done.returncode == 2 and "no such folder; python -m data.prepare pascal makes it" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "nosuch").exists()

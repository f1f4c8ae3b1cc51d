"""data.verify: counts by hand, files that cannot be used by name, figures from elsewhere, pictures."""
import shutil
from pathlib import Path

import cv2
import miniature
import numpy as np
import pytest

from data.prepare import coco, pascal, verify
from util.config import ROOT, Config, load


def options(root: Path) -> list[str]:
    return [f"data.root={root}", f"data.train_list={root}/lists/train.txt", f"data.val_list={root}/lists/val.txt",
            "data.min_pixels=32"]


@pytest.fixture
def copy(tiny_shapes, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_shapes, tmp_path / "set"))


def test_a_good_set(copy, run_script):
    done = run_script("data.verify", "shapes", *options(copy))
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


def test_what_cannot_be_used_is_named_and_the_rest_is_still_read(copy, run_script):
    spoiled = [copy / "JPEGImages/train_000003.jpg", copy / "SegmentationClassAug/val_000002.png",
               copy / "SegmentationClassAug/val_000004.png", copy / "JPEGImages/val_000006.jpg"]
    spoiled[0].write_bytes(spoiled[0].read_bytes()[:300])
    spoiled[1].unlink()
    cv2.imwrite(str(spoiled[2]), np.full((64, 64), 77, np.uint8))
    cv2.imwrite(str(spoiled[3]), np.zeros((20, 30, 3), np.uint8))
    done = run_script("data.verify", "shapes", *options(copy))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    report = (copy / "verify/report.md").read_text()
    for file in spoiled:
        assert file.name in done.stderr and file.name in report
    assert done.stderr.splitlines()[-1].startswith("error: 4 problems")


def test_a_mask_in_both_lists_is_a_problem(copy, run_script):
    lists = copy / "lists"
    (lists / "train.txt").write_text((lists / "train.txt").read_text() + (lists / "val.txt").read_text().splitlines()[0])
    done = run_script("data.verify", "shapes", *options(copy))
    assert done.returncode == 2 and "1 masks are in the training and in the validation list" in done.stderr


def test_the_digest_follows_the_pixels_and_nothing_else(copy):
    def digest():
        return verify.check_list(str(copy), str(copy / "lists/val.txt"), 20)[2]
    first = digest()
    file = copy / "SegmentationClassAug/val_000001.png"
    mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(file), mask, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert digest() == first, "other bytes, the same mask"
    mask[0, 0] ^= 1
    cv2.imwrite(str(file), mask)
    assert digest() != first


def test_a_known_figure_is_held_against_ours():
    right, off, wrong = (verify.told(verify.Figure("pairs", n, 100, exact, "their lists; other masks"))
                         for n, exact in ((100, False), (103, False), (99, True)))
    assert right.startswith("ok") and off.startswith("note") and "+3, +3.0 %" in off and "other masks" in off
    assert wrong.startswith("WRONG") and "-1, -1.0 %" in wrong


def test_cocos_figures_of_hsnet_are_for_interleaved_folds_only():
    cfg = load(Config, ROOT / "config/coco/esda.yaml")
    folds = [[k, 0, images, pairs, 0] for k, (images, pairs) in enumerate(coco.HSNET)]
    lines = [verify.told(verify.Figure(*f)) for f in coco.known(Path("x"), cfg, 82_783, 40_504, folds)]
    assert len(lines) == 10 and all(line.startswith("ok") for line in lines)
    cfg.data.folds = "contiguous"
    assert len(coco.known(Path("x"), cfg, 82_783, 40_504, folds)) == 2


def test_pascals_figures_are_counted_from_the_sources(tmp_path):
    made = miniature.prepared("pascal", miniature.write_tree(miniature.pascal(), tmp_path / "unpacked"), tmp_path / "made")

    def figures(*options):
        cfg = load(Config, ROOT / "config/pascal/esda.yaml", [f"data.root={made}", *options])
        return {what: (found, known, exact) for what, found, known, exact, _ in pascal.known(made, cfg, 5953, 1449, [])}
    first = figures()
    assert first["lines of the training list"] == (5953, 5953, True)
    masks = len(list((made / "SegmentationClassAug").glob("*.png")))
    assert first["masks in SegmentationClassAug"] == (masks, masks, True) and first["SBD's train"][1] == 8498
    together, listed, exact = next(v for k, v in first.items() if "made by its rule" in k)
    both = {line.split("/")[-1] for file in (made / "lists/train.txt", ROOT / "lists/pascal/train.txt")
            for line in file.read_text().splitlines()}
    assert (together, listed, exact) == (len(both), 5953, False) and len(both) > 5953, "some are in no published list"
    next((made / "SegmentationClassAug").glob("*.png")).unlink()
    assert figures()["masks in SegmentationClassAug"] == (masks - 1, masks, True)
    own = figures(f"data.train_list={made}/lists/train_aug.txt")
    assert not any("training list" in what for what in own), "published figures are of the published list"


def test_without_data_nothing_is_read_or_made(run_script, tmp_path):
    done = run_script("data.verify", "pascal", f"data.root={tmp_path / 'nosuch'}")
    assert done.returncode == 2 and "no such folder" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "nosuch").exists()


@pytest.mark.parametrize("arguments", [[], ["fold=0"], ["nosuch"]])
def test_bad_arguments_end_in_a_line(run_script, arguments):
    done = run_script("data.verify", *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1

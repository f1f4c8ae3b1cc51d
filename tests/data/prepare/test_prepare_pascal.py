"""data.prepare pascal on miniature archives: which mask, which image, which list, and what a bad source is told."""
from pathlib import Path

import miniature as mini
import numpy as np
import pytest
from miniature import contents
from runs import complains, in_process

from data.prepare.pascal import MASKS, paint
from util.runtime.errors import UserError

NAME = "pascal"  # the set that the fixtures make
TGZ = "benchmark.tgz"
VOC, SBD = "VOCdevkit/VOC2012/", "benchmark_RELEASE/dataset/"


def mask_in(root: Path, picture) -> np.ndarray:
    return mini.read_png(root / MASKS / f"{picture.name}.png")


# Masks, images and lists

def test_an_archive_with_a_stray_member_and_an_unpacked_folder_make_one_set(archives, made, tmp_path):
    """The folder may lack the images of 2012: no mask is of one, and copies trimmed to segmentation lack them."""
    stray = {TGZ: {**archives[TGZ], "train.txt": b"2008_000001\n", "cls/2008_000001.mat": b"stray"}}
    packed = mini.write_archives(stray, tmp_path / "packed")
    voc = archives["VOCtrainval_11-May-2012.tar"]
    trimmed = {name: data for name, data in voc.items() if "/2012_" not in name}
    assert len(trimmed) < len(voc)
    mini.write_tree({"voc": trimmed}, tmp_path / "a/b", "VOCdevkit/")
    out = mini.prepared("pascal", packed, tmp_path / "out", "--source", packed, tmp_path / "a")
    assert contents(out) == contents(made)


def test_every_image_is_vocs_where_it_has_one_and_a_hard_link(made, unpacked):
    pictures = {p.name: p for p in [*mini.SBD_TRAIN, *mini.SBD_VAL, *mini.VOC_TRAIN, *mini.VOC_VAL]}
    for name, picture in pictures.items():
        expected = mini.jpeg(picture, quality=60 if picture == mini.SBD_ALONE else 90)
        assert (made / "JPEGImages" / f"{name}.jpg").read_bytes() == expected, name
    assert {path.stem for path in (made / "JPEGImages").iterdir()} == set(pictures), "and no image without a mask"
    ours, theirs = ({path.stat().st_ino for path in folder.rglob("*.jpg")} for folder in (made, unpacked))
    assert len(ours) == 16 and ours <= theirs


def test_vocs_palette_becomes_class_ids_and_sbds_masks_stand_where_voc_has_none(made):
    """VOC's have an ignored border, SBD's have none."""
    for picture in mini.VOC_TRAIN + mini.VOC_VAL:
        assert np.array_equal(mask_in(made, picture), mini.mask_of(picture, border=2)), picture.name
    of_voc = {p.name for p in mini.VOC_TRAIN + mini.VOC_VAL}
    alone = [p for p in mini.SBD_TRAIN + mini.SBD_VAL if p.name not in of_voc]
    assert mini.IN_BOTH not in alone and len(alone) == 8
    for picture in alone:
        assert np.array_equal(mask_in(made, picture), mini.mask_of(picture)), picture.name


def test_no_list_to_train_on_shows_what_is_held_out(made):
    train, more, val = (mini.listed(made, part, "JPEGImages", MASKS) for part in ("train", "train_aug", "val"))
    assert val == [p.name for p in mini.VOC_VAL]
    assert not set(val) & set(train + more)
    assert mini.HELD_OUT_BY_SEGMENTATION.name in val and mini.HELD_OUT_BY_DETECTION.name not in train
    everything = {p.name for p in mini.VOC_TRAIN + mini.SBD_TRAIN + mini.SBD_VAL} - {mini.HELD_OUT_BY_SEGMENTATION.name}
    assert set(more) == everything and len(more) == len(everything)
    assert set(train) == everything - {mini.HELD_OUT_BY_DETECTION.name} and len(train) == len(set(train))
    assert train[:-1] == sorted(train[:-1]) and train[-1] == mini.VOC_TRAIN[0].name, "then what only VOC has"


def test_a_second_run_makes_what_is_missing_or_changed_and_touches_nothing_else(spoilt, made, tmp_path):
    """Also after a process that was killed amidst everything; VOC may lack the images of 2012, of which no mask is."""
    def times() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}

    for image in spoilt.rglob("2012_*.jpg"):
        image.unlink()
    root = mini.prepared("pascal", spoilt, tmp_path / "out")
    assert contents(root) == contents(made)
    before, picture = times(), mini.VOC_VAL[0]
    file = spoilt / f"{VOC}SegmentationClass/{picture.name}.png"
    file.unlink()
    file.write_bytes(mini.palette_png(mini.mask_of(picture)[::-1]))
    mini.prepared("pascal", spoilt, root)
    after = times()
    assert {path.stem for path in after if after[path] != before[path]} == {picture.name}
    assert np.array_equal(mask_in(root, picture), mini.mask_of(picture)[::-1])
    expected = contents(root)
    for name in [name for name in expected if name.endswith((".png", ".jpg", ".txt"))][::2]:
        (root / name).unlink()
    rest = next(root.glob("JPEGImages/*.jpg"))
    rest.unlink()  # which may be a link to the source
    rest.write_bytes(b"half")
    assert contents(mini.prepared("pascal", spoilt, root)) == expected


# Sources with a fault

@pytest.mark.parametrize("name", [
    f"{SBD}img/{mini.SBD_ALONE.name}.jpg", f"{VOC}SegmentationClass/{mini.VOC_VAL[0].name}.png",
    f"{SBD}cls/{mini.SBD_VAL[0].name}.mat", "evil.mat"])
def test_a_missing_image_or_mask_is_named_before_masks_are_made(spoilt, prepare, tmp_path, name):
    if name == "evil.mat":  # is there, but outside: a list leads there
        (spoilt / name).write_bytes(mini.gt_mat(np.ones((4, 4), np.uint8)))
        (spoilt / SBD / "val.txt").write_text("../../../../evil\n")
    else:
        (spoilt / name).unlink()
    complains(prepare(spoilt), Path(name).name, "not in the source")
    assert not (tmp_path / "out" / MASKS).exists() and not (tmp_path / "out" / "lists").exists()


def test_an_archive_of_another_size_or_hash_is_refused(archives, tmp_path):
    packed = mini.write_archives({TGZ: archives[TGZ]}, tmp_path / "packed")
    voc = mini.write_tree({"voc": archives["VOCtrainval_11-May-2012.tar"]}, tmp_path / "voc")
    other, command = mini.write_archives(archives, tmp_path / "other"), ("data.prepare", "pascal", "--out")
    complains(in_process(*command, tmp_path / "out", "--source", packed, voc), packed / TGZ, "has MD5 ",
              "82b4d87ceb2ed10f6038a1cba92111cb", "--any-archive")
    complains(in_process(*command, tmp_path / "out", "--source", voc), f"neither packed nor unpacked in {voc}", TGZ)
    complains(in_process(*command, tmp_path / "out", "--source", other), "bytes, not 1999639040")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name, data", [
    ("a.png", mini.jpeg(mini.IN_BOTH)), ("a.png", mini.palette_png(np.full((4, 4), 254, np.uint8))),
    *(("a.mat", mini.gt_mat(values)) for values in (
        np.full((4, 4), 21, np.uint8), np.full((4, 4), -1, np.int16), np.full((4, 4), 0.5),
        np.zeros((2, 2, 2), np.uint8)))])
def test_what_is_no_mask_of_pascal_is_named(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: no mask of PASCAL"):
        paint(tmp_path / name)


# The folder that the set is made in

@pytest.mark.parametrize("theirs", ["lists/train.txt", f"{MASKS}/a.png", "prepared.json"])
def test_another_data_set_is_not_overwritten(unpacked, prepare, tmp_path, theirs):
    file = tmp_path / "out" / theirs
    file.parent.mkdir(parents=True)
    file.write_text('{"dataset": "coco"}')
    complains(prepare(unpacked), "another data set", "--out")
    assert contents(tmp_path / "out") == {theirs: file.read_bytes()}

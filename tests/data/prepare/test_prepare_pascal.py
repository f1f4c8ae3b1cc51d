"""data.prepare pascal on miniature archives: which mask, which image, which list, and what a bad source is told."""
import io
import shutil
from pathlib import Path

import miniature
import numpy as np
import pytest
from miniature import (
    COLOUR_MAP,
    HELD_OUT_BY_DETECTION,
    HELD_OUT_BY_SEGMENTATION,
    IN_BOTH,
    SBD_ALONE,
    SBD_TRAIN,
    SBD_VAL,
    VOC_TRAIN,
    VOC_VAL,
    complains,
    contents,
    gt_mat,
    jpeg,
    mask_of,
    palette_png,
    prepared,
    read_png,
)
from scipy.io import savemat

from data.files import read_list
from data.prepare.pascal import MASKS, draw
from util.runtime.errors import UserError

NAME = "pascal"  # the set that the fixtures make
TGZ = "benchmark.tgz"
VOC, SBD = "VOCdevkit/VOC2012/", "benchmark_RELEASE/dataset/"


def names_in(root: Path, part: str) -> list[str]:
    """The images of a list, each line of which names the image's own mask."""
    pairs = read_list(root / "lists" / f"{part}.txt")
    names = [Path(image).stem for image, _ in pairs]
    assert pairs == [(f"JPEGImages/{name}.jpg", f"{MASKS}/{name}.png") for name in names]
    return names


# Masks, images and lists

def test_a_member_outside_the_archives_own_folder_is_none_of_it(archives, made, tmp_path):
    with_a_stray = {**archives, TGZ: {**archives[TGZ], "train.txt": b"2008_000001\n", "cls/2008_000001.mat": b"stray"}}
    source = miniature.write_archives(with_a_stray, tmp_path / "archives")
    assert contents(prepared("pascal", source, tmp_path / "out")) == contents(made)


@pytest.mark.parametrize("below, strip", [("", VOC), ("downloads/voc", ""), ("a/b", "VOCdevkit/"), ("", SBD)],
                         ids=["VOC2012 itself", "deeper", "parent of VOC2012, deeper", "SBD's dataset itself"])
def test_unpacked_folders_are_found_in_the_usual_places(archives, made, tmp_path, below, strip):
    source = miniature.write_tree(archives, tmp_path / "source" / below, strip)
    out = prepared("pascal", tmp_path / "source", tmp_path / "out")
    assert contents(out) == contents(made)
    assert source.is_dir()


def test_two_sources_make_one_set(archives, unpacked, made, tmp_path):
    packed = miniature.write_archives({TGZ: archives[TGZ]}, tmp_path / "packed")
    shutil.copytree(unpacked / "VOCdevkit", tmp_path / "voc")
    out = prepared("pascal", packed, tmp_path / "out", "--source", packed, tmp_path / "voc")
    assert contents(out) == contents(made)


def test_other_years_of_voc_beside_2012_are_passed_over(unpacked, made, tmp_path):
    source = Path(shutil.copytree(unpacked, tmp_path / "source"))
    other = source / "VOCdevkit" / "VOC2007"
    for name, data in (("ImageSets/Segmentation/train.txt", b"000032\n"), ("ImageSets/Main/val.txt", b"000033\n"),
                       ("ImageSets/Segmentation/val.txt", b"000033\n"), ("JPEGImages/000032.jpg", b""),
                       ("JPEGImages/000033.jpg", b""), ("SegmentationClass/000032.png", b""),
                       ("SegmentationClass/000033.png", b"")):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes(data)
    assert contents(prepared("pascal", source, tmp_path / "out")) == contents(made)


def test_every_image_is_vocs_where_it_has_one(made):
    pictures = {p.name: p for p in [*SBD_TRAIN, *SBD_VAL, *VOC_TRAIN, *VOC_VAL]}
    for name, picture in pictures.items():
        expected = jpeg(picture, quality=60 if picture == SBD_ALONE else 90)
        assert (made / "JPEGImages" / f"{name}.jpg").read_bytes() == expected, name
    assert {path.stem for path in (made / "JPEGImages").iterdir()} == set(pictures), "and no image without a mask"


def test_the_miniature_has_vocs_colours():
    assert COLOUR_MAP[[0, 1, 15, 20, 255]].tolist() == [[0, 0, 0], [128, 0, 0], [192, 128, 128], [0, 64, 128],
                                                        [224, 224, 192]]


def test_vocs_palette_becomes_class_ids_with_the_border_ignored(made):
    for picture in VOC_TRAIN + VOC_VAL:
        mask = read_png(made / MASKS / f"{picture.name}.png")
        assert set(np.unique(mask)) == {0, 255, *picture.classes}
        assert np.array_equal(mask, mask_of(picture, border=2)), picture.name


def test_sbds_masks_have_no_border_and_stand_only_where_voc_has_none(made):
    of_voc = {p.name for p in VOC_TRAIN + VOC_VAL}
    alone = [p for p in SBD_TRAIN + SBD_VAL if p.name not in of_voc]
    assert IN_BOTH not in alone and len(alone) == 8
    for picture in alone:
        assert np.array_equal(read_png(made / MASKS / f"{picture.name}.png"), mask_of(picture)), picture.name


def test_no_list_to_train_on_shows_what_is_held_out(made):
    train, more, val = (names_in(made, part) for part in ("train", "train_aug", "val"))
    assert val == [p.name for p in VOC_VAL]
    assert not set(val) & set(train + more)
    assert HELD_OUT_BY_SEGMENTATION.name in val and HELD_OUT_BY_DETECTION.name not in train
    everything = {p.name for p in VOC_TRAIN + SBD_TRAIN + SBD_VAL} - {HELD_OUT_BY_SEGMENTATION.name}
    assert set(more) == everything and len(more) == len(everything)
    assert set(train) == everything - {HELD_OUT_BY_DETECTION.name} and len(train) == len(set(train))


def test_the_train_list_is_sbd_in_order_and_then_what_only_voc_has(made):
    train = names_in(made, "train")
    assert train[:-1] == sorted(train[:-1]) and train[-1] == VOC_TRAIN[0].name


@pytest.mark.parametrize("encode", [
    lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    lambda text: text.replace("\n", " \n\n").encode("utf-16")], ids=["windows", "utf-16"])
def test_the_sources_lists_are_read_as_any_system_writes_them(spoilt, made, tmp_path, encode):
    for file in [*spoilt.rglob("Segmentation/*.txt"), spoilt / SBD / "train.txt"]:
        file.write_bytes(encode(file.read_text()))
    out = prepared("pascal", spoilt, tmp_path / "out")
    assert contents(out / "lists") == contents(made / "lists") and contents(out / MASKS) == contents(made / MASKS)


def test_masks_are_made_again_exactly_where_their_source_changes(spoilt, tmp_path):
    root = prepared("pascal", spoilt, tmp_path / "out")
    before = miniature.times(root)
    first, second = VOC_VAL[0], SBD_VAL[0]
    for file, data in ((f"{VOC}SegmentationClass/{first.name}.png", palette_png(mask_of(first)[::-1])),
                       (f"{SBD}cls/{second.name}.mat", gt_mat(mask_of(second)[::-1]))):
        (spoilt / file).unlink()
        (spoilt / file).write_bytes(data)
    prepared("pascal", spoilt, root)
    after = miniature.times(root)
    assert {Path(name).stem for name in after if name.startswith(MASKS) and after[name] != before[name]} == {
        first.name, second.name}
    assert np.array_equal(read_png(root / MASKS / f"{first.name}.png"), mask_of(first)[::-1])
    assert np.array_equal(read_png(root / MASKS / f"{second.name}.png"), mask_of(second)[::-1])


@pytest.mark.parametrize("at", [10, 200, -1])
def test_a_mask_that_was_damaged_is_made_again(spoilt, tmp_path, at):
    root = prepared("pascal", spoilt, tmp_path / "out")
    mask = root / MASKS / f"{VOC_VAL[0].name}.png"
    whole = mask.read_bytes()
    damaged = bytearray(whole)
    damaged[at] ^= 1
    mask.write_bytes(damaged)
    prepared("pascal", spoilt, root)
    assert mask.read_bytes() == whole


# Sources with a fault

@pytest.mark.parametrize("file, text, named", [
    (f"{SBD}train.txt", "2008_000008\n2008_000101 -1\n", "train.txt:2: '2008_000101 -1'"),
    (f"{SBD}train.txt", "2008_000008\n2008_000008\n", "twice"),
    (f"{VOC}ImageSets/Segmentation/train.txt", f"{VOC_VAL[0].name}\n", VOC_VAL[0].name)])
def test_a_list_of_the_sources_that_cannot_be_is_named(spoilt, prepare, file, text, named):
    (spoilt / file).write_text(text)
    complains(prepare(spoilt), named, "again")


def test_an_image_that_no_source_holds_is_named(spoilt, prepare, tmp_path):
    (spoilt / SBD / f"img/{SBD_ALONE.name}.jpg").unlink()
    complains(prepare(spoilt), SBD_ALONE.name, "no image", "again")
    assert not (tmp_path / "out" / MASKS).exists() and not (tmp_path / "out" / "lists").exists()


@pytest.mark.parametrize("name", [f"{VOC}SegmentationClass/{VOC_VAL[0].name}.png", f"{SBD}cls/{SBD_VAL[0].name}.mat",
                                  f"{VOC}ImageSets/Main/val.txt", f"{SBD}val.txt"])
def test_a_missing_mask_or_list_is_named(spoilt, prepare, name):
    (spoilt / name).unlink()
    complains(prepare(spoilt), Path(name).name, "unpack or fetch it again")


@pytest.mark.parametrize("name, data", [
    (f"{SBD}cls/{SBD_VAL[0].name}.mat", b"not a struct of MATLAB's at all" * 9),
    (f"{VOC}ImageSets/Main/val.txt", b"\xff\xfe\0"), (f"{VOC}SegmentationClass/{VOC_VAL[0].name}.png", b"")],
    ids=["mat", "list", "png"])
def test_a_garbled_file_is_named_and_leaves_no_lists(spoilt, prepare, tmp_path, name, data):
    (spoilt / name).write_bytes(data)
    complains(prepare(spoilt), Path(name).name, "again")
    assert not (tmp_path / "out" / "lists").exists() and not list((tmp_path / "out").rglob("*.part"))


def mat(values: np.ndarray) -> bytes:
    """An SBD struct of any values."""
    buffer = io.BytesIO()
    savemat(buffer, {"GTcls": {"Segmentation": values}})
    return buffer.getvalue()


WHOLE = mask_of(IN_BOTH)
PNG, MAT = palette_png(WHOLE), gt_mat(WHOLE)


@pytest.mark.parametrize("name, data, named", [
    ("a.mat", MAT[:len(MAT) // 2], "not readable"), ("a.mat", b"", "not readable"),
    ("a.png", PNG[:len(PNG) // 2], "not readable"), ("a.mat", gt_mat(WHOLE, "GTinst"), "GTcls"),
    ("a.mat", gt_mat(np.full((4, 4), 21, np.uint8)), "class 21"),
    ("a.mat", mat(np.full((4, 4), 257, np.uint16)), "class 257"),
    ("a.mat", mat(np.full((4, 4), -1, np.int16)), "class -1"),
    ("a.mat", mat(np.full((4, 4), 0.5)), "class 0.5"), ("a.mat", mat(np.full((4, 4), np.nan)), "class nan"),
    ("a.mat", mat(np.full((4, 4), 1j)), "complex"), ("a.mat", mat(np.zeros((2, 2, 2), np.uint8)), "3-dimensional"),
    ("a.png", palette_png(np.full((4, 4), 254, np.uint8)), "class 254"), ("a.png", jpeg(IN_BOTH), "palette")])
def test_what_is_no_mask_of_pascal_is_named(tmp_path, name, data, named):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=named) as caught:
        draw(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)

"""Miniature archives of VOC 2012, SBD and COCO 2014: a few dozen small pictures in the official formats.

A set is a dict {archive's name: {member's name: bytes}}, which is written as an archive or as what was unpacked from
one. In fold 0 eight training pictures of each set show seen classes only: enough for two batches of four.
"""
import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from runs import signals_kept

from data.prepare.__main__ import main
from util.config import ROOT
from util.runtime.errors import run_main

TURNED = 6  # EXIF orientation: a viewer shows the stored pixels turned by a quarter


class Picture(NamedTuple):
    """Each class fills an upright strip of the picture. kind: colour, grey, cmyk, or exif (stored turned)."""
    name: str
    classes: tuple[int, ...]
    size: tuple[int, int] = (120, 90)
    kind: str = "colour"


def boxes(picture: Picture) -> list[tuple[int, int, int, int, int]]:
    """(class, left, top, right, bottom) of each strip, right and bottom exclusive."""
    (width, height), count = picture.size, len(picture.classes)
    return [(c, k * width // count + 2, 4, (k + 1) * width // count - 2, height - 4)
            for k, c in enumerate(picture.classes)]


def mask_of(picture: Picture, border: int = 0) -> np.ndarray:
    """(H, W) uint8, each strip within ``border`` pixels of 255."""
    mask = np.zeros(picture.size[::-1], np.uint8)
    for c, left, top, right, bottom in boxes(picture):
        mask[top:bottom, left:right] = 255
        mask[top + border:bottom - border, left + border:right - border] = c
    return mask


def jpeg(picture: Picture, quality: int = 90) -> bytes:
    width, height = picture.size
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, 40 + 9 * mask_of(picture) % 200], axis=-1)
    mode = {"grey": "L", "cmyk": "CMYK"}.get(picture.kind, "RGB")
    exif = Image.Exif()
    if picture.kind == "exif":
        exif[0x0112] = TURNED
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()


# PASCAL

COLOUR_MAP = np.array([[(i >> c & 1) << 7 | (i >> c + 3 & 1) << 6 | (i >> c + 6 & 1) << 5 for c in range(3)]
                       for i in range(256)])  # VOC's: the bits of an index dealt out to red, green and blue

IN_BOTH = Picture("2008_000008", (13, 15))
HELD_OUT_BY_SEGMENTATION = Picture("2010_000004", (5, 20))  # in SBD and in VOC's Segmentation/val
HELD_OUT_BY_DETECTION = Picture("2008_000101", (8,))        # in SBD and in VOC's Main/val
VOC_TRAIN = [Picture("2007_000032", (6, 15), kind="grey"), IN_BOTH, Picture("2009_000010", (3, 15), (90, 120))]
VOC_VAL = [Picture("2007_000033", (1, 15)), Picture("2007_000042", (2,), (131, 97), "grey"),
           Picture("2008_000002", (3, 9), kind="cmyk"), Picture("2011_000003", (4, 5), kind="exif"),
           HELD_OUT_BY_SEGMENTATION]
SBD_TRAIN = [Picture("2008_000008", (7,)), HELD_OUT_BY_DETECTION, VOC_TRAIN[2], HELD_OUT_BY_SEGMENTATION,
             Picture("2008_000201", (10, 12), kind="grey"), Picture("2008_000202", (11,), (97, 131), "cmyk"),
             Picture("2008_000203", (14, 16), kind="exif")]
SBD_VAL = [Picture("2010_000204", (17,)), Picture("2010_000205", (18, 19)), Picture("2010_000206", (4,)),
           Picture("2010_000207", (20, 6), (140, 90))]
SBD_ALONE = SBD_VAL[-1]  # VOC's archive has no JPEG of it
DETECTION_ONLY = Picture("2012_000001", (15,))  # a JPEG in VOC's archive that no mask belongs to


def palette_png(mask: np.ndarray) -> bytes:
    image = Image.fromarray(mask)
    image.putpalette(COLOUR_MAP.ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def gt_mat(mask: np.ndarray, variable: str = "GTcls") -> bytes:
    """The struct of SBD's cls/ and inst/: each class's outline (sparse), the segmentation, the classes that occur."""
    from scipy.io import savemat
    from scipy.sparse import csc_matrix
    outlines = np.empty((20, 1), object)
    for c in range(20):
        region = (mask == c + 1).astype(np.uint8)
        outlines[c, 0] = csc_matrix((region - cv2.erode(region, np.ones((3, 3), np.uint8))).astype(bool))
    present = np.setdiff1d(mask, [0])[:, None]
    buffer = io.BytesIO()
    savemat(buffer, {variable: {"Boundaries": outlines, "Segmentation": mask, "CategoriesPresent": present}},
            do_compression=True)
    return buffer.getvalue()


def names_of(pictures: list[Picture]) -> bytes:
    return "".join(f"{p.name}\n" for p in pictures).encode()


def pascal() -> dict[str, dict[str, bytes]]:
    """Both archives of PASCAL-5i."""
    voc, sbd = {}, {}
    masked, outlined = VOC_TRAIN + VOC_VAL, SBD_TRAIN + SBD_VAL
    for p in {p.name: p for p in [*outlined, *masked, DETECTION_ONLY]}.values():
        if p != SBD_ALONE:
            voc[f"JPEGImages/{p.name}.jpg"] = jpeg(p)
        voc[f"Annotations/{p.name}.xml"] = f"<annotation><filename>{p.name}.jpg</filename></annotation>\n".encode()
    for p in masked:
        voc[f"SegmentationClass/{p.name}.png"] = palette_png(mask_of(p, border=2))
        voc[f"SegmentationObject/{p.name}.png"] = palette_png(np.uint8(mask_of(p) > 0))
    main_val = [p for p in VOC_VAL if p != HELD_OUT_BY_SEGMENTATION] + [HELD_OUT_BY_DETECTION]
    main_train = [p for p in VOC_TRAIN + SBD_TRAIN[4:] + SBD_VAL]
    for folder, train, val in (("Segmentation", VOC_TRAIN, VOC_VAL), ("Main", main_train, main_val)):
        for part, pictures in (("train", train), ("val", val), ("trainval", train + val)):
            voc[f"ImageSets/{folder}/{part}.txt"] = names_of(pictures)
    voc["ImageSets/Main/aeroplane_val.txt"] = b"".join(b"%s -1\n" % p.name.encode() for p in main_val)
    for p in outlined:
        sbd[f"img/{p.name}.jpg"] = jpeg(p, quality=60)  # unlike VOC's, so that a test can tell them apart
        sbd[f"cls/{p.name}.mat"] = gt_mat(mask_of(p))
        sbd[f"inst/{p.name}.mat"] = gt_mat(np.uint8(mask_of(p) > 0), "GTinst")
    sbd["train.txt"], sbd["val.txt"] = names_of(SBD_TRAIN), names_of(SBD_VAL)
    return {"VOCtrainval_11-May-2012.tar": {f"VOCdevkit/VOC2012/{name}": data for name, data in voc.items()},
            "benchmark.tgz": {f"benchmark_RELEASE/dataset/{name}": data for name, data in sbd.items()}}


# COCO

IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
NAMES = yaml.safe_load((ROOT / "lists/coco/classes.yaml").read_text())["classes"]
COCO_TRAIN = [Picture("9", (2, 3)), Picture("25", (4,), kind="grey"), Picture("30", (6, 7), (131, 97), "cmyk"),
              Picture("34", (8, 10), kind="exif"), Picture("36", (80,), (90, 120)), Picture("49", (11, 12)),
              Picture("61", (14,)), Picture("64", (79, 2)), Picture("71", (1, 2))]
COCO_VAL = [Picture("42", (1, 2)), Picture("73", (5,), kind="grey"), Picture("74", (9, 3), kind="cmyk"),
            Picture("133", (13, 77), kind="exif")]
UNANNOTATED_IN_TRAINING = Picture("72", ())
# Pictures of the validation set whose annotations are spelt out in peculiar_annotations()
SQUARE, OVERLAP, CROWD, COMPRESSED, UNANNOTATED, NO_AREA, LARGE_ENOUGH, TOO_SMALL = (
    Picture(str(number), ()) for number in range(201, 209))
PECULIAR = [SQUARE, OVERLAP, CROWD, COMPRESSED, UNANNOTATED, NO_AREA, LARGE_ENOUGH, TOO_SMALL]
CLASS_OF_2048 = 16  # the only pictures that show it are LARGE_ENOUGH and TOO_SMALL


def coco_name(picture: Picture, split: str) -> str:
    return f"COCO_{split}_{int(picture.name):012}.jpg"


def rectangle(left: int, top: int, right: int, bottom: int) -> list[float]:
    """A polygon that OpenCV fills from ``left`` and ``top`` up to but without ``right`` and ``bottom``: the corners'
    own pixels, too. pycocotools fills a row and a column less.
    """
    return outline(left, top, right - 1, bottom - 1)


def outline(left: int, top: int, right: int, bottom: int) -> list[float]:
    """A polygon that pycocotools fills from ``left`` and ``top`` up to but without ``right`` and ``bottom``."""
    return [left, top, right, top, right, bottom, left, bottom]


def counts_of(mask: np.ndarray) -> list[int]:
    """Uncompressed RLE: the lengths of runs of 0 and 1 in turn, down the columns, starting with 0."""
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    return np.diff([0, *edges, flat.size]).tolist()


def peculiar_annotations() -> list[tuple[Picture, int, int, list | dict]]:
    """(picture, category id, iscrowd, segmentation) in the order of the file."""
    from pycocotools import mask as rle
    width, height = SQUARE.size
    crowd, angle = np.zeros((2, height, width), np.uint8)
    crowd[10:40, 20:60] = 1
    angle[5:80, 5:30] = angle[60:80, 5:100] = 1
    code = rle.encode(np.asfortranarray(angle))
    return [
        (SQUARE, 1, 0, [rectangle(10, 20, 50, 60)]),
        (OVERLAP, 3, 0, [rectangle(40, 30, 60, 50)]),            # the smaller comes first and lies within the larger
        (OVERLAP, 90, 0, [rectangle(20, 10, 100, 80)]),
        (CROWD, 18, 0, [rectangle(40, 10, 110, 80)]),            # the crowd comes last and is the smaller
        (CROWD, 1, 1, {"counts": counts_of(crowd), "size": [height, width]}),
        (COMPRESSED, 90, 0, {"counts": code["counts"].decode(), "size": [height, width]}),
        (NO_AREA, 13, 0, []), (NO_AREA, 13, 0, [[10, 10, 90, 80]]), (NO_AREA, 14, 0, [rectangle(0, 0, 30, 20)]),
        (LARGE_ENOUGH, IDS[CLASS_OF_2048 - 1], 0, [rectangle(8, 8, 72, 40)]),  # 64 x 32
        (TOO_SMALL, IDS[CLASS_OF_2048 - 1], 0, [rectangle(8, 8, 97, 31)]),     # 89 x 23
    ]


def instances(split: str, pictures: list[Picture]) -> bytes:
    annotated = [(p, IDS[c - 1], 0, [rectangle(*box)]) for p in pictures for c, *box in boxes(p)]
    annotated += [a for a in peculiar_annotations() if a[0] in pictures]
    return json.dumps({
        "info": {"description": "COCO 2014 Dataset", "version": "1.0", "year": 2014},
        "images": [{"license": 5, "file_name": coco_name(p, split), "height": p.size[1], "width": p.size[0],
                    "date_captured": "2013-11-14 16:28:13", "id": int(p.name)} for p in reversed(pictures)],
        "licenses": [{"id": 5, "name": "Attribution-ShareAlike License"}],
        "annotations": [{"segmentation": segmentation, "area": 1.0, "iscrowd": crowd, "image_id": int(p.name),
                         "bbox": [0, 0, 1, 1], "category_id": category, "id": number}
                        for number, (p, category, crowd, segmentation) in enumerate(annotated, start=1)],
        "categories": [{"supercategory": "thing", "id": i, "name": name} for i, name in zip(IDS, NAMES)],
    }).encode()


def coco() -> dict[str, dict[str, bytes]]:
    """The three archives of COCO-20i."""
    archives, annotations = {}, {}
    for split, pictures in (("train2014", [*COCO_TRAIN, UNANNOTATED_IN_TRAINING]), ("val2014", COCO_VAL + PECULIAR)):
        archives[f"{split}.zip"] = {f"{split}/{coco_name(p, split)}": jpeg(p) for p in pictures}
        annotations[f"annotations/instances_{split}.json"] = instances(split, pictures)
        for kind in ("captions", "person_keypoints"):
            annotations[f"annotations/{kind}_{split}.json"] = b'{"images": [], "annotations": []}'
    return {**archives, "annotations_trainval2014.zip": annotations}


# Files

def write_archives(archives: dict[str, dict[str, bytes]], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for archive, members in archives.items():
        (_write_zip if archive.endswith(".zip") else _write_tar)(folder / archive, members)
    return folder


def write_tree(archives: dict[str, dict[str, bytes]], folder: Path, strip: str = "") -> Path:
    """The members as files below ``folder``, less ``strip`` where their names start with it."""
    for members in archives.values():
        for name, data in members.items():
            path = folder / name.removeprefix(strip)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder


def _folders(members) -> list[str]:
    """The official archives name each folder before what lies in it."""
    return sorted({str(parent) for name in members for parent in Path(name).parents} - {"."})


def _write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for folder in _folders(members):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, data in sorted(members.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def _write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for folder in _folders(members):
            archive.writestr(f"{folder}/", b"")
        for name, data in members.items():
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if name.endswith(".json") else zipfile.ZIP_STORED)


def contents(folder: Path) -> dict[str, bytes]:
    """{name below ``folder``: bytes} of every file, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def times(folder: Path) -> dict[str, tuple[int, int]]:
    """{name below ``folder``: (inode, time of the last change)} of every file."""
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in folder.rglob("*") if path.is_file()}


def read_png(path: Path) -> np.ndarray:
    """What the file holds, without any conversion."""
    with Image.open(path) as image:
        assert image.mode == "L", f"{path} has mode {image.mode}"
        return np.array(image)


# Commands

def run_prepare(*arguments, capfd=None) -> subprocess.CompletedProcess:
    """`python -m data.prepare ...` within this process, which spares a start; what it printed only with ``capfd``."""
    if capfd:
        capfd.readouterr()
    with mock.patch.object(sys, "argv", ["data.prepare", *map(str, arguments)]), signals_kept(), \
            pytest.raises(SystemExit) as left:
        run_main(main)
    said = capfd.readouterr() if capfd else ("", "")
    return subprocess.CompletedProcess("data.prepare", left.value.code or 0, *said)


def prepared(name: str, source: Path, root: Path, *options) -> Path:
    """``root`` with the set made there from ``source``."""
    done = run_prepare(name, "--source", source, "--out", root, "--any-archive", *options)
    assert done.returncode == 0
    return root


def complains(result: subprocess.CompletedProcess, *expected) -> None:
    """Status 2 and nothing on stderr but one line "error: ..." that holds all of ``expected``."""
    assert result.returncode == 2, f"{result.stdout}\n{result.stderr}"
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for text in expected:
        assert str(text) in result.stderr


# Fixtures of the two sets' own tests, which import them and name their set in NAME

@pytest.fixture(scope="module")
def archives(request) -> dict[str, dict[str, bytes]]:
    return {"pascal": pascal, "coco": coco}[request.module.NAME]()


@pytest.fixture(scope="module")
def unpacked(archives, tmp_path_factory) -> Path:
    """All archives unpacked beside each other. Tests that spoil files do so in a copy."""
    return write_tree(archives, tmp_path_factory.mktemp("unpacked"))


@pytest.fixture(scope="module")
def made(request, unpacked, tmp_path_factory) -> Path:
    """The set made from what was unpacked, with the options that are the default."""
    return prepared(request.module.NAME, unpacked, tmp_path_factory.mktemp("made") / request.module.NAME)


@pytest.fixture
def spoilt(unpacked, tmp_path) -> Path:
    """A copy of the unpacked archives for a test to spoil."""
    return Path(shutil.copytree(unpacked, tmp_path / "spoilt"))


@pytest.fixture
def prepare(request, capfd, tmp_path):
    """prepare(source, ...) makes the set in tmp_path/out."""
    def run(source, *options):
        arguments = ["--source", source, "--out", tmp_path / "out", "--any-archive", *options]
        return run_prepare(request.module.NAME, *arguments, capfd=capfd)
    return run

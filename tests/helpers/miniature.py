"""Miniature archives of VOC 2012, SBD and COCO 2014: a few dozen small pictures in the official formats.

A set is a dict {archive's name: {member's name: bytes}}, which is written as an archive or as what was unpacked from
one. In fold 0 eight training pictures of each set show seen classes only: enough for two batches of four.
"""
import functools
import io
import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image
from runs import in_process

from data.files import read_list
from util.config import ROOT

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
    """The struct of SBD's cls/: the segmentation and the classes that occur."""
    from scipy.io import savemat
    buffer = io.BytesIO()
    savemat(buffer, {variable: {"Segmentation": mask, "CategoriesPresent": np.unique(mask)[:, None]}},
            do_compression=True)
    return buffer.getvalue()


def names_of(pictures: list[Picture]) -> bytes:
    return "".join(f"{p.name}\n" for p in pictures).encode()


@functools.cache     # a .mat says when it was written
def pascal() -> dict[str, dict[str, bytes]]:
    """Both archives of PASCAL-5i."""
    voc, sbd = {}, {}
    masked, outlined = VOC_TRAIN + VOC_VAL, SBD_TRAIN + SBD_VAL
    for p in {p.name: p for p in [*outlined, *masked, DETECTION_ONLY]}.values():
        if p != SBD_ALONE:
            voc[f"JPEGImages/{p.name}.jpg"] = jpeg(p)
    for p in masked:
        voc[f"SegmentationClass/{p.name}.png"] = palette_png(mask_of(p, border=2))
    main_val = [p for p in VOC_VAL if p != HELD_OUT_BY_SEGMENTATION] + [HELD_OUT_BY_DETECTION]
    for file, pictures in (("Segmentation/train", VOC_TRAIN), ("Segmentation/val", VOC_VAL), ("Main/val", main_val)):
        voc[f"ImageSets/{file}.txt"] = names_of(pictures)
    voc["ImageSets/Main/aeroplane_val.txt"] = b"".join(b"%s -1\n" % p.name.encode() for p in main_val)
    for p in outlined:
        sbd[f"img/{p.name}.jpg"] = jpeg(p, quality=60)  # unlike VOC's, so that a test can tell them apart
        sbd[f"cls/{p.name}.mat"] = gt_mat(mask_of(p))
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
UNANNOTATED, UNANNOTATED_IN_TRAINING = Picture("205", ()), Picture("72", ())
COCO_VAL += [UNANNOTATED, Picture("207", (16,), (68, 40)), Picture("208", (16,), (93, 31))]  # 2,048 px and one fewer


def coco_name(picture: Picture, split: str) -> str:
    return f"COCO_{split}_{int(picture.name):012}.jpg"


def counts_of(mask: np.ndarray) -> list[int]:
    """Uncompressed RLE: the lengths of runs of 0 and 1 in turn, down the columns, starting with 0."""
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    return np.diff([0, *edges, flat.size]).tolist()


def rectangle(left: int, top: int, right: int, bottom: int) -> list[float]:
    """A polygon that OpenCV fills up to but without ``right`` and ``bottom``: the corners' own pixels, too."""
    return [left, top, right - 1, top, right - 1, bottom - 1, left, bottom - 1]


def instances(split: str, pictures: list[Picture]) -> bytes:
    annotated = [(p, IDS[c - 1], rectangle(*box)) for p in pictures for c, *box in boxes(p)]
    return json.dumps({
        "info": {"description": "COCO 2014 Dataset", "version": "1.0", "year": 2014},
        "images": [{"license": 5, "file_name": coco_name(p, split), "height": p.size[1], "width": p.size[0],
                    "date_captured": "2013-11-14 16:28:13", "id": int(p.name)} for p in reversed(pictures)],
        "licenses": [{"id": 5, "name": "Attribution-ShareAlike License"}],
        "annotations": [{"segmentation": [polygon], "area": 1.0, "iscrowd": 0, "image_id": int(p.name),
                         "bbox": [0, 0, 1, 1], "category_id": category, "id": number}
                        for number, (p, category, polygon) in enumerate(annotated, start=1)],
        "categories": [{"supercategory": "thing", "id": i, "name": name} for i, name in zip(IDS, NAMES)],
    }).encode()


@functools.cache
def coco() -> dict[str, dict[str, bytes]]:
    """The three archives of COCO-20i."""
    archives, annotations = {}, {}
    for split, pictures in (("train2014", [*COCO_TRAIN, UNANNOTATED_IN_TRAINING]), ("val2014", COCO_VAL)):
        archives[f"{split}.zip"] = {f"{split}/{coco_name(p, split)}": jpeg(p) for p in pictures}
        annotations[f"annotations/instances_{split}.json"] = instances(split, pictures)
        annotations[f"annotations/captions_{split}.json"] = b"{}"
    return {**archives, "annotations_trainval2014.zip": annotations}


SETS = {"pascal": pascal, "coco": coco}


# Files

def write_tree(archives: dict[str, dict[str, bytes]], folder: Path, strip: str = "") -> Path:
    """The members as files below ``folder``, less ``strip`` where their names start with it."""
    for members in archives.values():
        for name, data in members.items():
            path = folder / name.removeprefix(strip)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder


def write_archives(archives: dict[str, dict[str, bytes]], folder: Path) -> Path:
    """Zips and tars with an entry for each folder and file, as the official ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for archive, members in archives.items():
        with tempfile.TemporaryDirectory() as tree:
            write_tree({archive: members}, Path(tree))
            entries = [(path, path.relative_to(tree)) for path in sorted(Path(tree).rglob("*"))]
            if archive.endswith(".zip"):
                with zipfile.ZipFile(folder / archive, "w") as file:
                    for path, name in entries:
                        file.write(path, name)
            else:
                with tarfile.open(folder / archive, "w:gz" if archive.endswith(".tgz") else "w") as file:
                    for path, name in entries:
                        file.add(path, name, recursive=False)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """{name below ``folder``: bytes} of every file, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def listed(root: Path, part: str, images: str, masks: str) -> list[str]:
    """The stems of a list, each line of which names an image and the image's own mask in these folders."""
    pairs = read_list(root / "lists" / f"{part}.txt")
    names = [Path(image).stem for image, _ in pairs]
    assert pairs == [(f"{images}/{name}.jpg", f"{masks}/{name}.png") for name in names]
    return names


def read_png(path: Path) -> np.ndarray:
    """What the file holds, without any conversion."""
    with Image.open(path) as image:
        assert image.mode == "L", f"{path} has mode {image.mode}"
        return np.array(image)


def prepared(name: str, source: Path, root: Path, *options) -> Path:
    """``root`` with the set made there from ``source``."""
    done = in_process("data.prepare", name, "--source", source, "--out", root, "--any-archive", *options)
    assert done.returncode == 0, done.stderr
    return root


# Fixtures of the tests of data.prepare; those of one set name it in NAME

@pytest.fixture(scope="session")
def sets(tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """sets("coco") -> its archives unpacked beside each other, and the set made of that. Tests spoil copies."""
    @functools.cache
    def make(name: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp(name)
        unpacked = write_tree(SETS[name](), folder / "unpacked")
        return unpacked, prepared(name, unpacked, folder / "made")
    return make


@pytest.fixture
def archives(request) -> dict[str, dict[str, bytes]]:
    return SETS[request.module.NAME]()


@pytest.fixture
def unpacked(request, sets) -> Path:
    return sets(request.module.NAME)[0]


@pytest.fixture
def made(request, sets) -> Path:
    return sets(request.module.NAME)[1]


@pytest.fixture
def spoilt(unpacked, tmp_path) -> Path:
    """A copy of the unpacked archives for a test to spoil."""
    return Path(shutil.copytree(unpacked, tmp_path / "spoilt"))


@pytest.fixture
def prepare(request, tmp_path):
    """prepare(source, ...) makes the set in tmp_path/out."""
    return lambda source, *options: in_process("data.prepare", request.module.NAME, "--source", source,
                                               "--out", tmp_path / "out", "--any-archive", *options)

"""PASCAL-5i's masks and lists from VOC 2012 and SBD: the SegmentationClassAug that PFENet and BAM train on."""
from pathlib import Path

import numpy as np
from PIL import Image

from data.files import write_lists, write_masks
from data.prepare.archives import Archive, Members, extract
from model import IGNORE
from util.runtime.errors import UserError

VOC = Archive("https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar", 1_999_639_040,
              "md5:6cd6e144f989b92b3379bac3b3de84fd", "VOCdevkit/VOC2012/",
              ("JPEGImages/*.jpg", "JPEGImages/2011_*.jpg",     # earlier years lack those; trimmed copies those of 2012
               "SegmentationClass/*.png", "ImageSets/Segmentation/*.txt", "ImageSets/Main/val.txt"))
SBD = Archive("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz", 0,
              "md5:82b4d87ceb2ed10f6038a1cba92111cb", "benchmark_RELEASE/dataset/",
              ("img/*.jpg", "cls/*.mat", "train.txt", "val.txt"))
ARCHIVES = (VOC, SBD)
MASKS = "SegmentationClassAug"
CLASSES = 20
LISTS = {"voc_train": "VOC2012/ImageSets/Segmentation/train.txt", "voc_val": "VOC2012/ImageSets/Segmentation/val.txt",
         "main_val": "VOC2012/ImageSets/Main/val.txt",      # of detection
         "sbd_train": "SBD/train.txt", "sbd_val": "SBD/val.txt"}


def prepare(root: Path, voc: Members, sbd: Members) -> None:
    """Write images, masks (VOC's where it has one) and lists of PASCAL-5i under ``root``. Raises UserError."""
    import scipy.io  # noqa: F401  (paint needs it: better missed before the work than in it)
    both = {f"VOC2012/{name}": member for name, member in voc.items()}
    both |= {f"SBD/{name}": member for name, member in sbd.items()}
    extract(both, {file: root / file for file in LISTS.values()}, "lists", exact=True)
    names = {key: (root / file).read_text().split() for key, file in LISTS.items()}
    source = {name: f"SBD/cls/{name}.mat" for name in names["sbd_train"] + names["sbd_val"]}
    source |= {name: f"VOC2012/SegmentationClass/{name}.png" for name in names["voc_train"] + names["voc_val"]}
    extract(both, {file: root / file for file in source.values()}, "masks", exact=True)
    places = [f"VOC2012/JPEGImages/{name}.jpg" for name in source]  # both archives hold the same pictures
    places = [place if place in both else f"SBD/img/{Path(place).name}" for place in places]
    extract(both, {place: root / "JPEGImages" / Path(place).name for place in places}, "images")
    write_masks(paint, {root / MASKS / f"{name}.png": root / file for name, file in source.items()})
    write_lists(root, {part: [(f"JPEGImages/{name}.jpg", f"{MASKS}/{name}.png") for name in chosen]
                       for part, chosen in lists(names).items()})


def lists(names: dict[str, list[str]]) -> dict[str, list[str]]:
    """Select the names of each list. train: SBD's in no val list of VOC 2012 (its ``train_noval``, 5,623), then those
    of VOC's training masks that SBD lacks: 5,953. train_aug: SBD and VOC's training masks but for VOC's segmentation
    val, 10,582, as in most ZS3 papers. val: VOC's 1,449."""
    sbd = sorted(set(names["sbd_train"] + names["sbd_val"]))
    held_out = set(names["voc_val"])
    any_val = held_out | set(names["main_val"])
    noval = [n for n in sbd if n not in any_val]
    return {"train": noval + sorted(set(names["voc_train"]) - set(noval)),
            "train_aug": sorted((set(sbd) | set(names["voc_train"])) - held_out),
            "val": names["voc_val"]}


def paint(path: Path) -> np.ndarray:
    """Read VOC's palette PNG or SBD's GTcls struct: (H, W) uint8 of 0, 1..20 and 255. Raises UserError."""
    from scipy.io import loadmat
    if path.suffix == ".mat":
        mask = loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
    else:
        mask = np.array(Image.open(path))  # cv2 would give the palette's colours, not the indices
    if mask.ndim != 2 or not np.isin(mask, [*range(CLASSES + 1), IGNORE]).all():
        raise UserError(f"{path}: no mask of PASCAL, of 0 to {CLASSES} and 255; unpack or fetch it again")
    return np.ascontiguousarray(mask, np.uint8)

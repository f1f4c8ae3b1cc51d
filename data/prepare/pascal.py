"""PASCAL-5i's masks and lists from VOC 2012 and SBD (PROTOCOL: SegmentationClassAug, as PFENet and BAM train on)."""
import io
from pathlib import Path

import numpy as np
from PIL import Image

from data.files import read_list
from data.prepare.archives import Archive, Piece
from data.prepare.download import Remote
from data.prepare.workers import make_masks, write_lists
from util.runtime.errors import UserError

VOC = Piece(
    Remote("https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar", 1_999_639_040,
           "md5:6cd6e144f989b92b3379bac3b3de84fd"),
    "VOCdevkit/VOC2012/", ("SegmentationClass", "ImageSets/Segmentation/train.txt",
                           "JPEGImages/2012_*.jpg"))  # which tells it from the years before, often unpacked beside it
SBD = Piece(
    Remote("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
           hash="md5:82b4d87ceb2ed10f6038a1cba92111cb"),
    "benchmark_RELEASE/dataset/", ("cls/*.mat", "img", "train.txt"))
OPTIONS = {}
PIECES = (VOC, SBD)
CLASSES = 20
MASKS = "SegmentationClassAug"
PUBLISHED_TRAIN = "lists/pascal/train.txt"


def prepare(root: Path, archives: list[Archive], options: dict[str, str]) -> None:
    """Images, masks and lists of PASCAL-5i under ``root``. Raises UserError for a file that is missing or wrong.

    Where both have an image, VOC's mask stands. SBD's masks have no ignored pixels, VOC's have a border of 255.
    """
    voc, sbd = archives
    own_voc, own_sbd = root / "VOC2012", root / "SBD"
    voc.extract({n: own_voc / n for n in voc.sizes if n.startswith(("ImageSets/Segmentation/", "ImageSets/Main/trainval",
                                                                    "ImageSets/Main/train.", "ImageSets/Main/val."))
                 or n.startswith("SegmentationClass/")}, "VOC's masks")
    sbd.extract({n: own_sbd / n for n in sbd.sizes if n in ("train.txt", "val.txt") or n.startswith("cls/")}, "SBD's masks")
    names = read_names(root)
    voc_masks = names["voc_train"] + names["voc_val"]
    of_voc = set(voc_masks)
    sbd_masks = [n for n in names["sbd_train"] + names["sbd_val"] if n not in of_voc]
    _images(root, voc, sbd, voc_masks + sbd_masks)
    jobs = [(root / MASKS / f"{n}.png", own_voc / f"SegmentationClass/{n}.png") for n in voc_masks]
    jobs += [(root / MASKS / f"{n}.png", own_sbd / f"cls/{n}.mat") for n in sbd_masks]
    make_masks(draw, jobs, "PASCAL masks")
    write_lists(root, {part: [(f"JPEGImages/{n}.jpg", f"{MASKS}/{n}.png") for n in chosen]
                       for part, chosen in lists(names).items()})


def _images(root: Path, voc: Archive, sbd: Archive, names: list[str]) -> None:
    """VOC's own JPEG where it has one; the two archives hold the same pictures."""
    targets = {n: root / "JPEGImages" / f"{n}.jpg" for n in names}
    in_voc = {n for n in names if f"JPEGImages/{n}.jpg" in voc.sizes}
    in_sbd = {n for n in names if n not in in_voc and f"img/{n}.jpg" in sbd.sizes}
    lacking = [n for n in names if n not in in_voc and n not in in_sbd]
    if lacking:
        raise UserError(f"the sources hold no image for {lacking[0]}" + f" and {len(lacking) - 1} more" * (len(lacking) > 1)
                        + "; unpack or fetch the archives again")
    voc.extract({f"JPEGImages/{n}.jpg": targets[n] for n in names if n in in_voc}, "images")
    sbd.extract({f"img/{n}.jpg": targets[n] for n in names if n in in_sbd}, "images of SBD alone")


def read_names(root: Path) -> dict[str, list[str]]:
    """Image names of VOC's and SBD's own lists, as unpacked under ``root``; main_val is VOC's detection val list."""
    files = {"voc_train": "VOC2012/ImageSets/Segmentation/train.txt", "voc_val": "VOC2012/ImageSets/Segmentation/val.txt",
             "main_val": "VOC2012/ImageSets/Main/val.txt", "sbd_train": "SBD/train.txt", "sbd_val": "SBD/val.txt"}
    out = {}
    for key, file in files.items():
        if not (root / file).is_file():
            raise UserError(f"{root / file}: not there; the source is incomplete: unpack or fetch it again")
        try:
            out[key] = (root / file).read_text(encoding="utf-8").split()
        except UnicodeDecodeError:
            raise UserError(f"{root / file}: not a list but a binary file; unpack or fetch it again") from None
    return out


def lists(names: dict[str, list[str]]) -> dict[str, list[str]]:
    """The image names of each list.

    train: SBD's images that no val list of VOC 2012 holds (its published ``train_noval``: 5,623), then those of VOC's
    training masks that SBD lacks: 5,953. train_aug: all of SBD and VOC's training masks but for VOC's segmentation
    val, 10,582, which most ZS3 papers train on. val: VOC's 1,449.
    """
    sbd = sorted(set(names["sbd_train"] + names["sbd_val"]))
    held_out = set(names["voc_val"])
    any_val = held_out | set(names["main_val"])
    noval = [n for n in sbd if n not in any_val]
    return {"train": noval + sorted(set(names["voc_train"]) - set(noval)),
            "train_aug": sorted((set(sbd) | set(names["voc_train"])) - held_out),
            "val": names["voc_val"]}


def known(root: Path, cfg, train: int, val: int, folds: list[list]) -> list[tuple]:
    """Counts of what is under ``root`` beside the published ones, as data.verify's figures."""
    published = "PFENet, BAM and ESDA"
    figures = []
    if cfg.data.train_list == PUBLISHED_TRAIN:
        figures.append(("lines of the training list", train, 5953, True, published))
    figures.append(("lines of the validation list", val, 1449, True, published))
    try:
        names = read_names(root)
    except UserError:
        return figures  # masks made elsewhere: there is nothing of the sources to count
    why = "its own list; an incomplete or other release of the archive"
    made = lists(names)
    figures += [("VOC's training masks", len(names["voc_train"]), 1464, True, why),
                ("VOC's validation masks", len(names["voc_val"]), 1449, True, why),
                ("SBD's train", len(names["sbd_train"]), 8498, True, why),
                ("SBD's val", len(names["sbd_val"]), 2857, True, why),
                (f"masks in {MASKS}", sum(1 for _ in (root / MASKS).glob("*.png")),
                 len(set().union(*(names[k] for k in ("voc_train", "voc_val", "sbd_train", "sbd_val")))), True,
                 "one for each name of these four lists; data.prepare goes on with what is missing"),
                ("names of train_aug.txt", len(made["train_aug"]), 10582, False, "what most ZS3 papers train on")]
    if cfg.data.train_list == PUBLISHED_TRAIN:
        listed = {Path(mask).stem for _, mask in read_list(cfg.data.train_list)}
        figures.append(("names in the published training list or in the one made by its rule", len(listed | set(made["train"])),
                        len(listed), False, "those of the published list, if the rule (SBD without VOC 2012's val images, "
                        "and VOC's own) makes the same; training reads the published one in any case"))
    return figures


def draw(path: Path) -> np.ndarray:
    """VOC's palette PNG or SBD's GTcls struct to (H, W) uint8 of 0, 1..20 and 255. Raises UserError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the source is incomplete: unpack or fetch it again") from None
    try:
        mask = _from_mat(data) if path.suffix == ".mat" else _from_palette(data)
    except Exception as error:  # PIL and scipy raise many kinds for a file that is not theirs
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not readable as a mask ({reason}); unpack or fetch it again") from None
    wrong = mask[(mask > CLASSES) & (mask < 255)]
    if mask.ndim != 2 or wrong.size:
        what = f"holds class {wrong[0]}" if wrong.size else f"is {mask.ndim}-dimensional"
        raise UserError(f"{path}: {what}; a mask of PASCAL has 0 to {CLASSES} and 255")
    return mask


def _from_palette(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"mode {image.mode}, where VOC has a palette")
        return np.array(image, np.uint8)  # cv2 would give the palette's colours, not the indices


def _from_mat(data: bytes) -> np.ndarray:
    from scipy.io import loadmat
    return np.ascontiguousarray(loadmat(io.BytesIO(data), variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0], np.uint8)

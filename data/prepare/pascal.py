"""PASCAL-5i's masks and lists from VOC 2012 and SBD (PROTOCOL: SegmentationClassAug, as PFENet and BAM train on)."""
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from data.files import read_bytes, read_lines, shown, write_lists
from data.prepare.archives import Archive, Piece, inside
from data.prepare.download import Remote
from data.prepare.masks import make_masks
from util.runtime.errors import UserError, reason_of

VOC = Piece(
    Remote("https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar", 1_999_639_040,
           "md5:6cd6e144f989b92b3379bac3b3de84fd"),
    "VOCdevkit/VOC2012/", ("SegmentationClass", "ImageSets/Segmentation/train.txt",
                           "JPEGImages/2011_*.jpg"),    # no mask is of an image 2012_*; trimmed copies leave those out
    r"VOC(200\d|201[01])")                              # the years before, often unpacked beside it
SBD = Piece(
    Remote("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
           hash="md5:82b4d87ceb2ed10f6038a1cba92111cb"),
    "benchmark_RELEASE/dataset/", ("cls/*.mat", "img", "train.txt"))
PIECES = (VOC, SBD)
CLASSES = 20
MASKS = "SegmentationClassAug"


def choose(given: dict[str, str | None]) -> dict[str, str]:
    """There are no options: the masks are VOC's and SBD's own."""
    for name, value in given.items():
        if value:
            raise UserError(f"--{name} is a choice of COCO's masks only; leave it out")
    return {}


def require(options: dict[str, str]) -> None:
    """Raise UserError where a package is missing."""
    try:
        import scipy  # noqa: F401
    except ImportError:
        raise UserError(f"scipy reads SBD's .mat files and is not installed; {sys.executable} -m pip install -r "
                        f"data/requirements.txt") from None


def prepare(root: Path, archives: list[Archive], options: dict[str, str]) -> None:
    """Images, masks and lists of PASCAL-5i under ``root``. Raises UserError for a file that is missing or wrong.

    Where both have an image, VOC's mask is taken. SBD's masks have no ignored pixels, VOC's have a border of 255.
    """
    voc, sbd = archives
    wanted = [n for n in voc.sizes if n.startswith(("SegmentationClass/", "ImageSets/Segmentation/"))
              or n == "ImageSets/Main/val.txt"]
    voc.extract(root, {n: f"VOC2012/{n}" for n in wanted}, "VOC's masks", exact=True)
    wanted = [n for n in sbd.sizes if n in ("train.txt", "val.txt") or n.startswith("cls/")]
    sbd.extract(root, {n: f"SBD/{n}" for n in wanted}, "SBD's masks", exact=True)
    names = read_names(root)
    source = {n: f"VOC2012/SegmentationClass/{n}.png" for n in names["voc_train"] + names["voc_val"]}
    source = {n: f"SBD/cls/{n}.mat" for n in names["sbd_train"] + names["sbd_val"] if n not in source} | source
    _images(root, voc, sbd, list(source))
    jobs = [(inside(root, f"{MASKS}/{n}.png"), inside(root, file)) for n, file in source.items()]
    make_masks(draw, _read, "PASCAL", jobs, "PASCAL masks")
    write_lists(root, {part: [(f"JPEGImages/{n}.jpg", f"{MASKS}/{n}.png") for n in chosen]
                       for part, chosen in lists(names).items()})


def _images(root: Path, voc: Archive, sbd: Archive, names: list[str]) -> None:
    """VOC's own JPEG where it has one; the two archives hold the same pictures."""
    in_voc = [n for n in names if f"JPEGImages/{n}.jpg" in voc.sizes]
    others = sorted(set(names) - set(in_voc))
    lacking = [n for n in others if f"img/{n}.jpg" not in sbd.sizes]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UserError(f"the sources hold no image for {lacking[0]}{more}; unpack or fetch the archives again")
    voc.extract(root, {f"JPEGImages/{n}.jpg": f"JPEGImages/{n}.jpg" for n in in_voc}, "images")
    sbd.extract(root, {f"img/{n}.jpg": f"JPEGImages/{n}.jpg" for n in others}, "images of SBD alone")


def read_names(root: Path) -> dict[str, list[str]]:
    """Image names of VOC's and SBD's own lists, as unpacked under ``root``; main_val is VOC's detection val list.

    Raises UserError for a list that is missing, holds more than one name a line, or a name twice.
    """
    sets = "VOC2012/ImageSets"
    files = {"voc_train": f"{sets}/Segmentation/train.txt", "voc_val": f"{sets}/Segmentation/val.txt",
             "main_val": f"{sets}/Main/val.txt", "sbd_train": "SBD/train.txt", "sbd_val": "SBD/val.txt"}
    out = {}
    for key, file in files.items():
        lines = read_lines(root / file, "the source is incomplete: unpack or fetch it again")
        for number, line in lines:
            if len(line.split()) != 1:
                raise UserError(f"{root / file}:{number}: {shown(line)} should be the name of one image; unpack or "
                                f"fetch it again")
        out[key] = [line for _, line in lines]
        if len(set(out[key])) != len(out[key]):
            raise UserError(f"{root / file}: names an image twice; unpack or fetch it again")
    both = set(out["voc_train"]) & set(out["voc_val"])
    if both:
        raise UserError(f"{root / files['voc_val']}: {min(both)} is in train.txt beside it, too; unpack both again")
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


def draw(path: Path) -> np.ndarray:
    """VOC's palette PNG or SBD's GTcls struct to (H, W) uint8 of 0, 1..20 and 255. Raises UserError."""
    data = _read(path)
    try:
        mask = _from_mat(data) if path.suffix == ".mat" else _from_palette(data)
    except Exception as error:  # PIL and scipy raise many kinds for a file that is not theirs
        raise UserError(f"{path}: not readable as a mask ({reason_of(error):.200}); unpack or fetch it again") from None
    if mask.ndim != 2 or mask.dtype.kind not in "uif":
        raise UserError(f"{path}: is {mask.ndim}-dimensional {mask.dtype}, where a mask is 2-dimensional, of numbers")
    right = np.isin(mask, [*range(CLASSES + 1), 255])   # before the cast, which would make 0 of 256 and of 0.5
    if not right.all():
        raise UserError(f"{path}: holds class {mask[~right][0]}; a mask of PASCAL has 0 to {CLASSES} and 255")
    return np.ascontiguousarray(mask, np.uint8)


def _read(path: Path) -> bytes:
    return read_bytes(path, "the source is incomplete: unpack or fetch it again")


def _from_palette(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"mode {image.mode}, where VOC has a palette")
        return np.array(image)  # cv2 would give the palette's colours, not the indices


def _from_mat(data: bytes) -> np.ndarray:
    from scipy.io import loadmat
    return np.asarray(loadmat(io.BytesIO(data), variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0])

"""COCO-20i's masks and lists from the instance annotations of COCO 2014."""
import json
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.prepare.archives import Archive, Piece
from data.prepare.download import Remote
from data.prepare.workers import make_masks, write_lists
from util.runtime.errors import UserError

SPLITS = ("train2014", "val2014")

HSNET = ((26_052, 35_783), (15_305, 17_912), (13_138, 14_563), (12_640, 14_315))  # its interleaved validation lists
HSNET_WHY = ("HSNet's lists; its masks are not ours: public scripts differ in what they paint where instances overlap and "
             "for crowds, and in the area from which a class counts, which moves both images and pairs")


def _images_piece(split: str, size: int) -> Piece:
    return Piece(Remote(f"http://images.cocodataset.org/zips/{split}.zip", size), f"{split}/", (f"COCO_{split}_*.jpg",))


ANNOTATIONS = Piece(Remote("http://images.cocodataset.org/annotations/annotations_trainval2014.zip", 252_872_794),
                    "annotations/", tuple(f"instances_{split}.json" for split in SPLITS))
OPTIONS = {"overlap": ("larger_first", "file_order"), "crowd": ("ignore", "class")}  # the first is the default
PIECES = (_images_piece("train2014", 13_510_573_713), _images_piece("val2014", 6_645_013_297), ANNOTATIONS)
CLASSES = 80


class Annotated(NamedTuple):
    """An image and its instances, each (class 1..80, whether it is a crowd, segmentation)."""
    name: str
    height: int
    width: int
    instances: list[tuple[int, bool, list | dict]]


def prepare(root: Path, archives: list[Archive], options: dict[str, str]) -> None:
    """Images, masks and lists of COCO-20i under ``root``: every image of a split, those without annotation too.

    options: overlap and crowd, see :func:`draw`. Raises UserError for a file that is missing or wrong.
    """
    train, val, annotations = archives
    files = {split: root / "annotations" / f"instances_{split}.json" for split in SPLITS}
    for split, file in files.items():
        if file.name not in annotations.sizes:
            raise UserError(f"{ANNOTATIONS.remote.name}: holds no {file.name}; fetch it again")
    annotations.extract({file.name: file for file in files.values()}, "annotations")
    for split, archive, part in zip(SPLITS, (train, val), ("train", "val")):
        images = read_instances(files[split])
        lacking = sorted(name for name in images if name not in archive.sizes)
        if lacking:
            raise UserError(f"{split}: {len(lacking)} of {len(images)} images are not in the source, such as {lacking[0]}; "
                            f"unpack or fetch it again")
        archive.extract({name: root / split / name for name in images}, f"{split} images")
        jobs = [(root / "masks" / split / f"{Path(name).stem}.png", image) for name, image in sorted(images.items())]
        make_masks(partial(draw, overlap=options["overlap"], crowd=options["crowd"]), jobs, f"{split} masks")
        write_lists(root, {part: [(f"{split}/{name}", f"masks/{split}/{Path(name).stem}.png") for name in sorted(images)]})


def read_instances(file: Path) -> dict[str, Annotated]:
    """{file name: Annotated} of an instances JSON. A class is the rank of its category's id, so that ids with gaps
    become 1..80. Raises UserError for a file of another kind.
    """
    try:
        content = json.loads(file.read_bytes())
        ranks = {c: rank for rank, c in enumerate(sorted(c["id"] for c in content["categories"]), start=1)}
        instances = defaultdict(list)
        for a in content["annotations"]:
            instances[a["image_id"]].append((ranks[a["category_id"]], bool(a.get("iscrowd", 0)), a["segmentation"]))
        return {image["file_name"]: Annotated(image["file_name"], image["height"], image["width"], instances[image["id"]])
                for image in content["images"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{file}: not the instance annotations of COCO ({reason}); fetch the archive again") from None


def known(root: Path, cfg, train: int, val: int, folds: list[list]) -> list[tuple]:
    """Counts of what is under ``root`` beside the published ones, as data.verify's figures."""
    why = "COCO 2014; an incomplete archive"
    figures = [("lines of the training list", train, 82_783, True, why), ("lines of the validation list", val, 40_504, True, why)]
    if cfg.data.folds != "contiguous":
        for fold, (images, pairs) in enumerate(HSNET):
            _, _, our_images, our_pairs, _ = folds[fold]
            figures += [(f"test images of fold {fold}", our_images, images, False, HSNET_WHY),
                        (f"test pairs of fold {fold}", our_pairs, pairs, False, HSNET_WHY)]
    return figures


def draw(image: Annotated, overlap: str, crowd: str) -> np.ndarray:
    """One image's instances to (H, W) uint8 of 0, 1..80 and 255.

    overlap: where instances overlap, larger_first paints the larger first, so that the smaller stays visible (of
        equal ones the later in the file); file_order paints as the file has them, as some public scripts do.
    crowd: ignore paints regions that annotate a crowd as 255, below every instance; class paints them as instances.
    """
    from pycocotools import mask as rle
    painted = []
    for class_id, is_crowd, segmentation in image.instances:
        try:
            code = _encode(segmentation, image.height, image.width, rle)
            shape = code and tuple(code["size"])
        except Exception as error:  # pycocotools raises many kinds for what is not an annotation
            raise _unreadable(image, error) from None
        if code is None:  # nothing is annotated, or too little to have an area
            continue
        if shape != (image.height, image.width):
            raise UserError(f"{image.name}: an annotation is {shape[1]}x{shape[0]}, the image {image.width}x{image.height}; "
                            f"fetch the archive again")
        ignored = is_crowd and crowd == "ignore"
        rank = -int(rle.area(code)) if overlap == "larger_first" else 0
        painted.append((not ignored, rank, 255 if ignored else class_id, code))
    painted.sort(key=lambda item: item[:2])  # crowds to be ignored first; a stable sort keeps the file's order
    mask = np.zeros((image.height, image.width), np.uint8, order="F")  # as pycocotools decodes: twice as fast
    for *_, label, code in painted:
        try:
            mask[rle.decode(code).view(bool)] = label
        except ValueError as error:
            raise _unreadable(image, error) from None
    return np.ascontiguousarray(mask)


def _unreadable(image: Annotated, error: Exception) -> UserError:
    return UserError(f"{image.name}: an annotation is not readable ({error}); fetch the archive again")


def _encode(segmentation, height: int, width: int, rle):
    """Polygons, uncompressed or compressed RLE to compressed RLE; None where nothing is annotated."""
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return rle.frPyObjects(segmentation, height, width)
        return segmentation
    polygons = [p for p in segmentation if len(p) >= 6]  # three corners; pycocotools takes four numbers for a box
    return rle.merge(rle.frPyObjects(polygons, height, width)) if polygons else None

"""COCO-20i's masks and lists from the instance annotations of COCO 2014."""
import gzip
import json
import re
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.files import write_lists, write_masks
from data.folds import Classes
from data.prepare.archives import Archive, Members, extract
from util.config import ROOT
from util.runtime import rle
from util.runtime.errors import UserError, require_file

SERVER = "http://images.cocodataset.org"
ARCHIVES = (
    Archive(f"{SERVER}/zips/train2014.zip", 13_510_573_713, "", "train2014/", ("COCO_train2014_*.jpg",)),
    Archive(f"{SERVER}/zips/val2014.zip", 6_645_013_297, "", "val2014/", ("COCO_val2014_*.jpg",)),
    Archive(f"{SERVER}/annotations/annotations_trainval2014.zip", 252_872_794, "", "annotations/",
            ("instances_train2014.json", "instances_val2014.json")))
MASKS = "masks"
OUTSIDE = 0.1           # of the longer side: a corner farther outside its image belongs to another image


class Annotated(NamedTuple):
    """Image and its instances, each (category id, iscrowd, segmentation), in the file's order."""
    id: int
    name: str
    height: int
    width: int
    instances: list[tuple[int, int, list | dict]]


def prepare(root: Path, train: Members, val: Members, annotations: Members) -> None:
    """Write images, masks and lists of COCO-20i under ``root``, images without annotation too. Raises UserError.

    The validation list has the published order, which the episodic protocol's samples depend on; images that it lacks
    come last, in the annotations' order. The training list is sorted by name.
    """
    extract(annotations, {name: root / "annotations" / name for name in ARCHIVES[2].files}, "annotations", exact=True)
    place = {number: place for place, number in enumerate(val_order())}
    for part, members, order in (("train", train, lambda image: image.name),
                                 ("val", val, lambda image: place.get(image.id, len(place)))):
        split, file = f"{part}2014", root / f"annotations/instances_{part}2014.json"
        categories, images = read_instances(file, Classes.read(ROOT / "lists/coco/classes.yaml").names)
        class_of = {number: rank for rank, number in enumerate(categories, start=1)}  # ids 1..90 have gaps
        images.sort(key=order)
        pairs = [(f"{split}/{image.name}", f"{MASKS}/{split}/{Path(image.name).stem}.png") for image in images]
        extract(members, {image.name: root / split / image.name for image in images}, f"{split} images")
        write_masks(partial(paint, class_of, None), {root / mask: image for (_, mask), image in zip(pairs, images)})
        write_lists(root, {part: pairs})


def val_order() -> list[int]:
    """Read the 40,137 image ids of BAM's val.txt, in its order. Each fold's list is a part of it."""
    return [int(line) for line in gzip.decompress((ROOT / "lists/coco/val_order.txt.gz").read_bytes()).split()]


def read_instances(file: Path, names: list[str] | None = None) -> tuple[dict[int, str], list[Annotated]]:
    """Read an instances JSON: categories {id: name} sorted by id, and images in the file's order.

    Folders in file names are dropped. Raises UserError for another kind of file, duplicates, and other ``names``.
    """
    require_file(file, "it should be COCO's instance annotations, a JSON")
    try:
        content = json.loads(file.read_bytes())
        categories = {c["id"]: str(c["name"]) for c in sorted(content["categories"], key=lambda c: c["id"])}
        instances = defaultdict(list)
        for a in content["annotations"]:
            instances[a["image_id"]].append((a["category_id"], a.get("iscrowd", 0), a["segmentation"]))
        images = [Annotated(i["id"], re.split(r"[/\\]", i["file_name"])[-1], i["height"], i["width"],
                            instances.get(i["id"], [])) for i in content["images"]]
        problem = ("categories are not COCO's 80" if names and list(categories.values()) != names else
                   "two categories have one id" if len(categories) < len(content["categories"]) else
                   "two images have one id" if len({image.id for image in images}) < len(images) else
                   "two images have one name" if len({Path(image.name).stem for image in images}) < len(images) else "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = repr(error)[:200]
    if problem:
        raise UserError(f"{file}: not COCO's instance annotations: {problem}; fetch or export it again")
    return categories, images


def paint(class_of: dict[int, int], crowd: int | None, image: Annotated) -> np.ndarray:
    """Paint an image's instances to (H, W) uint8 class ids, as the published masks: in file order, by cv2.fillPoly.

    class_of: {category id: class}; crowd: value of crowd regions, below all instances; None leaves them out. Raises
    UserError where an annotation does not fit.
    """
    mask = np.zeros((image.height, image.width), np.uint8)
    try:
        for category, is_crowd, segmentation in sorted(image.instances, key=lambda instance: not instance[1]):
            value = crowd if is_crowd else class_of[category]
            if value is None:
                continue
            if isinstance(segmentation, dict):
                mask[rle.decode(segmentation, mask.shape)] = value
                continue
            for polygon in segmentation:  # one by one: together, they leave holes where two overlap
                corners = np.array(polygon, float).reshape(-1, 2)
                beyond = np.maximum(-corners, corners - [image.width, image.height])
                if not (beyond <= OUTSIDE * max(mask.shape)).all():  # nor where a corner is no number
                    raise ValueError("a corner lies outside")
                if len(corners) >= 3:  # fewer have no area
                    cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], value)
    except Exception as error:  # numpy and OpenCV raise many kinds for what is no annotation
        raise UserError(f"{image.name}: an annotation is not readable or does not fit the image of "
                        f"{image.width}x{image.height} ({error!s:.200}); fetch or export it again") from None
    return mask

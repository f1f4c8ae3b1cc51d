"""COCO-20i's masks and lists from the instance annotations of COCO 2014."""
import gzip
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
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
    """Image and its instances, each (category id, iscrowd, outline), in the file's order.

    An outline is a list of polygons, (N, 2) int32 corners each, and of run-length codes.
    """
    id: int
    name: str
    height: int
    width: int
    instances: list[tuple[int, bool, list[np.ndarray | dict]]]


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


def read_instances(file: Path, names: list[str] | None = None, objects: bool = False) -> tuple[dict, list[Annotated]]:
    """Read an instances JSON: categories {id: name} sorted by id, and images in the file's order.

    names: of the categories of COCO's own files; without, categories that are mere headings are left out.
    objects: take crowds as objects. Folders in file names are dropped. Notes say what is not drawn, or ignored.
    Raises UserError for another kind of file, duplicates, what does not fit its image, and where nothing can be drawn.
    """
    require_file(file, "it should be COCO's instance annotations, a JSON")
    where, images, undrawn, crowds = "", {}, defaultdict(list), []
    try:
        content = json.loads(file.read_bytes())
        if isinstance(content, list):
            raise ValueError("a list, as Label Studio's own JSON is, and not COCO's")
        annotations, used = content["annotations"], {a.get("category_id") for a in content["annotations"]}
        every = content["categories"]
        roots = [c for c in every if not names and c["id"] not in used and (
            c.get("name") in ("background", "_background_")
            or any(other is not c and other.get("supercategory") == c.get("name") for other in every))]
        listed = [c for c in every if c not in roots]
        where = f"categories of the ids {[c['id'] for c in listed]!s:.200}, which should be numbers: "
        categories = {c["id"]: " ".join(str(c["name"]).split()) for c in sorted(listed, key=lambda c: c["id"])}
        for i in content["images"]:
            where = f"image {i.get('id')} ({i.get('file_name')}): "
            images[_plain(i["id"])] = Annotated(i["id"], re.split(r"[/\\]", i["file_name"])[-1],
                                                int(_plain(i["height"])), int(_plain(i["width"])), [])
        for place, a in enumerate(annotations):
            where = f"annotation {a.get('id', f'at place {place}')}: "
            image = images.get(_plain(a["image_id"]))
            if a["category_id"] not in categories:
                raise ValueError(f"there is no category {a['category_id']!r}")
            outline, lack = read_outline(a.get("segmentation"), image, published=bool(names))
            if outline:
                crowds.append(not objects and _plain(a.get("iscrowd")).lower() in ("1", "true"))
                image.instances.append((a["category_id"], crowds[-1], outline))
            if lack and not (names and outline):
                undrawn[lack].append(str(a.get("id", place)))
        notes = [f"{len(ids)} of {len(annotations)} annotations {lack}; what is not drawn is background: "
                 f"{', '.join(ids[:5])}" for lack, ids in undrawn.items()]
        same = _twice(name.lower() for name in categories.values())
        faults = {
            "categories are not COCO's 80": names not in (None, found := list(categories.values())) and found,
            "categories have one id": _twice(c["id"] for c in listed),
            "categories have one name": [f"{c}: {name}" for c, name in categories.items() if name.lower() in same],
            "images have one id": _twice(_plain(i["id"]) for i in content["images"]),
            "images have one name": _twice(Path(image.name).stem for image in images.values()),
            "images have no size": [image.name for image in images.values() if min(image.height, image.width) < 1],
            "nothing can be drawn": not names and not crowds and ("; ".join(notes) or "no annotations")}
        problem = next((f"{fault} ({found!s:.300})" for fault, found in faults.items() if found), "")
    except Exception as error:  # what other tools write fails in many ways
        problem = where + (f"there is no {error}" if isinstance(error, KeyError) else f"{error!s:.200}")
    if problem:
        raise UserError(f"{file}: {problem}; fetch or export it again as COCO's instance annotations")
    notes += [f"category {c['id']}, {c['name']}, is left out: no annotation has it, it is a heading" for c in roots]
    notes += [f"{sum(crowds)} of {len(annotations)} annotations are crowds (iscrowd 1) and become 255, ignored; "
              f"--crowds objects takes them as objects, which CVAT's brush means"] * (any(crowds) and not names)
    for note in notes:
        print(f"note: {file}: {note}", file=sys.stderr)
    return categories, list(images.values())


def read_outline(segmentation: list | dict | None, image: Annotated | None, published: bool = False
                 ) -> tuple[list[np.ndarray | dict], str]:
    """Read a segmentation to an outline, as in Annotated, and what it lacks to be drawn as meant, "" for nothing.

    published: COCO's own, of which all is drawn, however small. Corners are cut to whole pixels, toward zero. Raises
    ValueError for what is no outline or does not fit the image.
    """
    if not image or not segmentation or segmentation != segmentation:  # NaN is pandas' null
        return [], "have no outline" if image else "have an image_id that no image has"
    size, slack = (image.height, image.width), OUTSIDE * max(image.height, image.width)
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    parts = parts if isinstance(parts[0], list | dict) else [parts]
    codes = [part for part in parts if isinstance(part, dict) and rle.runs(part, size)[1::2].any()]
    polygons = [np.array(part, float) for part in parts if not isinstance(part, dict)]
    good = all(xy.ndim == 1 and xy.size % 2 == 0 or xy.shape[1:] == (2,) for xy in polygons)     # x, y, ... or pairs
    polygons = [xy.reshape(-1, 2) for xy in polygons] if good else []
    inside = all((np.maximum(-xy, xy - size[::-1]) <= slack).all() for xy in polygons)  # NaN is not
    if not good or not inside or len(polygons) > 2 and max(map(len, polygons)) == 1:
        raise ValueError(f"not polygons [[x, y, x, y, ...], ...] inside the image of {image.width}x{image.height}")
    shares = not codes and all(np.abs(xy).max() <= 1.01 for xy in polygons if xy.size)
    polygons = [xy.astype(np.int32) for xy in polygons]
    drawn = [xy for xy in polygons if len(xy) >= 3 and (    # fewer have no area
        published or not shares and (xy.max(axis=0) >= 0).all() and (xy.min(axis=0) < size[::-1]).all())]
    lack = ("" if polygons and len(drawn) == len(polygons) or codes and not polygons else
            "cover no pixel" if not polygons else "have a part without three corners in the image")
    if shares and any(len(xy) >= 3 for xy in polygons):
        lack = "have corners in 0..1 alone, shares of the image in place of pixels"
    return codes + drawn, lack


def paint(class_of: dict[int, int], crowd: int | None, image: Annotated) -> np.ndarray:
    """Paint an image's instances to (H, W) uint8 class ids, as the published masks: in file order, by cv2.fillPoly.

    class_of: {category id: class}; crowd: value of crowd regions, below all instances; None leaves them out.
    """
    mask = np.zeros((image.height, image.width), np.uint8)
    for category, is_crowd, outline in sorted(image.instances, key=lambda instance: not instance[1]):
        value = crowd if is_crowd else class_of[category]
        for part in outline if value is not None else []:
            if isinstance(part, dict):
                mask[rle.decode(part, mask.shape)] = value
            else:  # one by one: together, they leave holes where two overlap
                cv2.fillPoly(mask, [part], value)
    return mask


def _plain(value: object) -> str:
    """Write a number as text, also where pandas made 64.0 or "64" of 64."""
    return str(value).removesuffix(".0")


def _twice(keys: Iterable) -> list:
    return [key for key, count in Counter(keys).items() if count > 1]

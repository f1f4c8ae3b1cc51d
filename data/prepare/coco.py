"""COCO-20i's masks and lists from the instance annotations of COCO 2014."""
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.files import MAX_PIXELS, read_bytes, write_lists
from data.folds import Classes
from data.prepare.archives import Archive, Piece, inside
from data.prepare.download import Remote
from data.prepare.masks import make_masks
from data.prepare.published import coco_val_order
from model import IGNORE
from util.config import ROOT
from util.runtime import rle
from util.runtime.errors import UserError, reason_of

SPLITS = ("train2014", "val2014")
CLASSES = ROOT / "lists/coco/classes.yaml"


def _images_piece(split: str, size: int) -> Piece:
    return Piece(Remote(f"http://images.cocodataset.org/zips/{split}.zip", size), f"{split}/", (f"COCO_{split}_*.jpg",))


ANNOTATIONS = Piece(Remote("http://images.cocodataset.org/annotations/annotations_trainval2014.zip", 252_872_794),
                    "annotations/", tuple(f"instances_{split}.json" for split in SPLITS))
PIECES = (_images_piece("train2014", 13_510_573_713), _images_piece("val2014", 6_645_013_297), ANNOTATIONS)
OPTIONS = {"masks": ("published", "pycocotools"),       # the first is the default
           "overlap": ("larger_first", "file_order"), "crowd": ("ignore", "class")}     # of pycocotools' masks
JSON_LIMIT = 1 << 32    # bytes; the official training annotations have 332 MB
OUTSIDE = 0.1           # of the longer side: a corner farther outside its image belongs to another image
PIP = "python -m pip install 'pycocotools>=2.0.8,<3'"


class Annotated(NamedTuple):
    """An image and its instances, each (class 1..80, whether it is a crowd, segmentation), in the file's order."""
    name: str
    height: int
    width: int
    instances: list[tuple[int, bool, list | dict]]
    id: int = 0


def choose(given: dict[str, str | None]) -> dict[str, str]:
    """The options of :func:`draw` from those of the command line; overlap or crowd alone mean pycocotools' masks."""
    asked = [name for name in ("overlap", "crowd") if given[name]]
    masks = given["masks"] or ("pycocotools" if asked else "published")
    if masks == "published":
        if asked:
            raise UserError(f"--{asked[0]} is a choice of --masks pycocotools; the published masks leave none")
        return {"masks": masks}
    return {"masks": masks, **{name: given[name] or OPTIONS[name][0] for name in ("overlap", "crowd")}}


def require(options: dict[str, str]) -> None:
    """Raise UserError where a package is missing."""
    if options["masks"] == "pycocotools":
        _pycocotools()


def prepare(root: Path, archives: list[Archive], options: dict[str, str]) -> None:
    """Images, masks and lists of COCO-20i under ``root``: every image of a split, those without annotation too.

    The validation list has the published order (lists/coco/val_order.txt.gz), on which the episodic protocol's samples
    depend; images that it lacks come after, in the annotations' order. The training list goes by name.
    options: see :func:`choose`. Raises UserError for a file that is missing or wrong.
    """
    train, val, annotations = archives
    names = {split: f"instances_{split}.json" for split in SPLITS}
    for name in names.values():
        if name not in annotations.sizes:
            raise UserError(f"{ANNOTATIONS.remote.name}: holds no {name}; fetch it again")
    annotations.extract(root, {name: f"annotations/{name}" for name in names.values()}, "annotations", exact=True)
    order = {number: place for place, number in enumerate(coco_val_order())}
    for split, archive, part in zip(SPLITS, (train, val), ("train", "val")):
        images = read_instances(root / "annotations" / names[split])
        lacking = sorted(name for name in images if name not in archive.sizes)
        if lacking:
            raise UserError(f"{split}: {len(lacking)} of {len(images)} images are not in the source, such as "
                            f"{lacking[0]}; unpack or fetch it again")
        archive.extract(root, {name: f"{split}/{name}" for name in images}, f"{split} images")
        masks = {name: f"masks/{split}/{Path(name).stem}.png" for name in images}
        make_masks(partial(draw, **options), source_of, json.dumps(options),
                   [(inside(root, masks[name]), image) for name, image in images.items()], f"{split} masks")
        listed = sorted(images)
        if part == "val":
            listed = sorted(images, key=lambda name: order.get(images[name].id, len(order)))
        write_lists(root, {part: [(f"{split}/{name}", masks[name]) for name in listed]})


def source_of(image: Annotated) -> bytes:
    """Everything that a mask is made from."""
    return json.dumps([image.height, image.width, image.instances]).encode()


def read_instances(file: Path, ranks: Callable[[list[dict]], dict[int, int]] | None = None,
                   complaint: str = "not the instance annotations of COCO ({}); fetch the archive again",
                   folders: bool = False) -> dict[str, Annotated]:
    """{file name: Annotated} of an instances JSON, in its order.

    A class is the rank of its category's id, so that ids with gaps become 1..80; ranks: makes {category id: class} of
    other categories than COCO's own. folders: names may hold a folder, which is ignored.
    Raises UserError, worded by ``complaint``, for a file of another kind and for one whose parts contradict each other.
    """
    try:
        content = json.loads(read_bytes(file, limit=JSON_LIMIT))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not a mapping")
        for part in ("categories", "annotations", "images"):
            if not (isinstance(content[part], list) and content[part]):
                raise ValueError(f"its {part} are not a list, or an empty one")
        class_of = (ranks or _ranks)(content["categories"])
        instances = defaultdict(list)
        for annotation in content["annotations"]:
            instance = _instance(annotation, class_of)
            instances[annotation["image_id"]].append(instance)
        images, stems, ids = {}, set(), set()
        for entry in content["images"]:
            name, height, width, number = (entry[key] for key in ("file_name", "height", "width", "id"))
            if folders and isinstance(name, str):
                name = name.replace("\\", "/").rpartition("/")[2]
            if not all(type(v) is int and v > 0 for v in (height, width)) or height * width > MAX_PIXELS:
                raise ValueError(f"image {name!r:.80} is {width!r:.20}x{height!r:.20}")
            if not isinstance(name, str) or "/" in name or inside(file.parent, name).stem in stems:
                raise ValueError(f"image {name!r:.80} lies in a folder, is listed twice, or differs from another in "
                                 f"its suffix alone")
            if type(number) is not int or number in ids:
                raise ValueError(f"the id {number!r:.40} is not a whole number, or two images have it")
            stems.add(Path(name).stem)
            ids.add(number)
            images[name] = Annotated(name, height, width, instances.pop(number, []), number)
        if instances:
            raise ValueError(f"image {next(iter(instances))!r:.40} has annotations but is not among the images")
        return images
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else reason_of(error)
        raise UserError(f"{file}: {complaint.format(f'{reason:.300}')}") from None


def _instance(annotation: dict, class_of: dict[int, int]) -> tuple[int, bool, list | dict]:
    """An instance as in Annotated. Raises ValueError for an annotation that lacks something."""
    which = f"annotation {annotation.get('id', '?')!s:.40} has"
    for key in ("category_id", "image_id", "segmentation"):
        if key not in annotation:
            raise ValueError(f"{which} no {key}")
    category, crowd = annotation["category_id"], annotation.get("iscrowd", 0)
    if category not in class_of:
        raise ValueError(f"{which} the category_id {category!r:.40}, which is none of the categories")
    if crowd not in (0, 1):
        raise ValueError(f"{which} the iscrowd {crowd!r:.40}, which is neither 0 nor 1")
    return class_of[category], bool(crowd), annotation["segmentation"]


def _ranks(categories: list[dict]) -> dict[int, int]:
    """{category id: class}. Raises ValueError unless the categories are COCO's 80."""
    names = {c["id"]: c["name"] for c in categories}
    known = Classes.read(CLASSES).names
    if len(categories) != len(names) or [names[i] for i in sorted(names)] != known:
        raise ValueError(f"its {len(categories)} categories are not COCO's {len(known)}, each once")
    return {number: rank for rank, number in enumerate(sorted(names), start=1)}


# Masks

def draw(image: Annotated, masks: str, overlap: str = "", crowd: str = "") -> np.ndarray:
    """One image's instances to (H, W) uint8 of 0, 1..80 and 255.

    masks: ``published`` paints as the masks under the published lists were made: in the file's order, without crowds,
        polygons filled by OpenCV on rounded corners. ``own`` does the same with crowds as 255 below all instances.
        ``pycocotools`` fills them by that library's rule:
    overlap: ``larger_first`` paints the larger first, so that the smaller stays visible (of equal ones the later in the
        file); ``file_order`` paints as the file has them.
    crowd: ``ignore`` paints crowds as 255, below every instance; ``class`` paints them as instances.
    """
    try:
        return (_by_pycocotools(image, overlap, crowd) if masks == "pycocotools" else
                _published(image, IGNORE if masks == "own" else None))
    except UserError:
        raise
    except Exception as error:  # numpy, OpenCV and pycocotools raise many kinds for what is no annotation
        raise UserError(f"{image.name}: an annotation is not readable or does not fit the image of "
                        f"{image.width}x{image.height} ({reason_of(error):.200}); fetch or export it again") from None


def _published(image: Annotated, crowd: int | None) -> np.ndarray:
    mask = np.zeros((image.height, image.width), np.uint8)
    for class_id, is_crowd, segmentation in sorted(image.instances, key=lambda instance: not instance[1]):
        if is_crowd:
            if crowd is None:
                continue
            class_id = crowd
        if isinstance(segmentation, dict):
            mask[rle.decode(segmentation, mask.shape)] = class_id
        else:
            for polygon in _polygons(segmentation, image):  # one by one: together, they leave holes where two overlap
                cv2.fillPoly(mask, [np.rint(polygon).astype(np.int32)], class_id)
    return mask


def _by_pycocotools(image: Annotated, overlap: str, crowd: str) -> np.ndarray:
    coco, size = _pycocotools(), (image.height, image.width)
    painted = []
    for class_id, is_crowd, segmentation in image.instances:
        if isinstance(segmentation, dict):
            code = coco.encode(np.asfortranarray(rle.decode(segmentation, size), np.uint8))
        else:
            polygons = [polygon.ravel().tolist() for polygon in _polygons(segmentation, image)]
            if not polygons:  # nothing is annotated, or too little to have an area
                continue
            code = coco.merge(coco.frPyObjects(polygons, *size))
        ignored = is_crowd and crowd == "ignore"
        rank = -int(coco.area(code)) if overlap == "larger_first" else 0
        painted.append((not ignored, rank, 255 if ignored else class_id, code))
    painted.sort(key=lambda item: item[:2])  # crowds to be ignored first; a stable sort keeps the file's order
    mask = np.zeros(size, np.uint8, order="F")  # as pycocotools decodes: twice as fast
    for *_, label, code in painted:
        mask[coco.decode(code).view(bool)] = label
    return np.ascontiguousarray(mask)


def _polygons(segmentation: list, image: Annotated) -> Iterator[np.ndarray]:
    """Each polygon as (n, 2) float corners x, y. Two corners or fewer have no area and are left out.

    Raises ValueError for corners far outside the image or not in pairs, and for what is no list of numbers.
    """
    if not isinstance(segmentation, list):
        raise ValueError("neither polygons nor a run-length code")
    reach = OUTSIDE * max(image.height, image.width)
    for numbers in segmentation:
        corners = np.array(numbers).reshape(-1, 2)
        if corners.size and corners.dtype.kind not in "iuf":
            raise ValueError("a corner is no number")
        if not ((corners >= -reach) & (corners <= np.array([image.width, image.height]) + reach)).all():  # NaN neither
            raise ValueError("a corner lies outside")
        if len(corners) >= 3:
            yield corners


def _pycocotools():
    try:
        from pycocotools import mask
    except ImportError:
        raise UserError(f"pycocotools draws these masks and is not installed: {PIP}") from None
    return mask

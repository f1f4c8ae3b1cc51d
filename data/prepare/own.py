"""Masks of your own data from COCO's instance annotations or from pictures in colours.

    python -m data.prepare masks DIR --coco FILE.json [--crowds objects] [--list train|val]
    python -m data.prepare masks DIR --colours FILE.yaml [--list train|val]

DIR/images holds the images, DIR/colour_masks the pictures. DIR/masks/NAME.png is written for each that is named,
and DIR/classes.yaml where there is none: it decides which class has which id (docs/data.md).
"""
import json
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from data.files import read_image, write_lists, write_masks
from data.folds import Classes
from data.lists import pairs
from data.prepare.coco import paint, read_instances
from model import IGNORE
from util.config import parse_yaml
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import Parser, UserError, require_file

ABOUT_FOLDS = """# Ids in the masks are the places in this list, from 1 on.
# Fold 0 holds all classes back: it can be tested but not trained.
# To train, list the classes that each fold is to hold back: folds: [[owl], [dog]]
"""
NO_CLASS = {"background": 0, "ignored": IGNORE}


def from_coco(root: Path, file: Path, crowds: str) -> list[tuple[str, str]]:
    """Make the masks of an instances JSON, crowds 255 below all or objects; return pairs (image, mask)."""
    categories, images = read_instances(file, objects=crowds == "objects")
    ids = ids_of(root, list(categories.values()), file)
    class_of = {number: ids[name] for number, name in categories.items()}
    made = [(f"images/{image.name}", f"masks/{Path(image.name).stem}.png") for image in images]
    missing = [image for image, _ in made if not (root / image).is_file()]
    if missing:
        print(f"note: {len(missing)} of {len(made)} images are not in {root}, such as {missing[0]}", file=sys.stderr)
    jobs = {root / mask: image for (_, mask), image in zip(made, images)}
    write_masks(partial(paint, class_of, IGNORE), jobs, replace=False)
    return made


def from_colours(root: Path, file: Path) -> list[tuple[str, str]]:
    """Make the masks of ROOT/colour_masks; return pairs (image, mask). Raises UserError."""
    colours = read_colours(file)
    names = [name for name in dict.fromkeys(colours.values()) if name not in NO_CLASS]
    ids = ids_of(root, names, file) | NO_CLASS
    found = pairs(root, "images", "colour_masks")
    jobs = {root / "masks" / Path(picture).name: root / picture for _, picture in found}
    write_masks(partial(paint_colours, {colour: ids[name] for colour, name in colours.items()}), jobs, replace=False)
    return [(image, f"masks/{Path(picture).name}") for image, picture in found]


def ids_of(root: Path, names: list[str], file: Path) -> dict[str, int]:
    """Read {name: class id} of ROOT/classes.yaml, made from ``names`` if absent. Raises UserError if it lacks one."""
    listed = root / "classes.yaml"
    if not listed.is_file():
        flow = yaml.safe_dump(names, default_flow_style=True, width=10**6, allow_unicode=True).strip()
        text = f"{ABOUT_FOLDS}classes: {flow}\nfolds: [{flow}]\n"
        Classes.parse(text, listed)     # before it is written: one that is refused must not stay
        write_bytes_atomically(listed, text.encode())
    ids = {name: number for number, name in enumerate(Classes.read(listed).names, start=1)}
    lacking = sorted(set(names) - ids.keys())
    if lacking:
        raise UserError(f"{listed}: lacks {', '.join(lacking)} of {file}; add it at the end, or remove {listed.name}")
    return ids


def read_colours(file: Path) -> dict[int, str]:
    """Read a YAML of colours, or CVAT's labelmap.txt: {red * 65536 + green * 256 + blue: name}. Raises UserError."""
    colours, key = {}, "the file"
    require_file(file, '--colours names a YAML of lines such as "#ff0000": cat')
    try:
        text = re.sub(r"^([^#:\n][^:\n]*):(\d+,\d+,\d+):.*",  # CVAT's label:color_rgb:parts:actions
                      lambda line: f'"{line[2]}": {json.dumps(line[1], ensure_ascii=False)}',
                      file.read_text(encoding="utf-8-sig"), flags=re.M)
        for key, name in parse_yaml(text).items():
            red, green, blue = bytes.fromhex(key[1:]) if key[:1] == "#" else bytes(
                map(int, re.fullmatch("([0-9]+)[, ]+([0-9]+)[, ]+([0-9]+)", key).groups()))
            name = name.strip().lower() if name.strip().lower() in NO_CLASS else name.strip()
            if colours.setdefault(red << 16 | green << 8 | blue, name) != name:
                raise ValueError("two names")
    except (AttributeError, TypeError, ValueError) as error:  # UnicodeDecodeError is one
        raise UserError(f'{file}: {key} should be a colour and its one name, such as "#ff0000": cat or "255, 0, 0": '
                        f'cat ({error!s:.200})') from None
    return colours


def paint_colours(table: dict[int, int], picture: Path) -> np.ndarray:
    """Map a colour picture to (H, W) uint8 ids; what is transparent is background, whatever colour it hides.

    Raises UserError naming a colour that ``table`` lacks, also a half transparent one, which is a smooth edge.
    """
    image = read_image(picture, alpha=True).astype(np.int64)
    image[image[..., 3] == 0] = 0
    codes, places, pixels = np.unique(image @ [1 << 16, 1 << 8, 1, 1 << 24], return_inverse=True, return_counts=True)
    table = {0: 0} | {255 << 24 | colour: value for colour, value in table.items()}
    strange = [(count, code) for code, count in zip(codes.tolist(), pixels.tolist()) if code not in table]
    if strange:
        count, code = max(strange)
        raise UserError(f"{picture}: {count} pixels have the colour #{code & 0xffffff:06x}"
                        f"{', half transparent' * (code >> 24 < 255)}, and {len(strange)} colours "
                        f"in all are not named; name them in --colours, or export the masks without smooth edges")
    return np.array([table[code] for code in codes.tolist()], np.uint8)[places].reshape(image.shape[:2])


def main() -> None:
    parser = Parser(prog="python -m data.prepare masks", description=__doc__)
    parser.add_argument("root", type=Path, metavar="DIR")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--coco", type=Path, metavar="FILE.json", help="instance annotations as COCO's")
    kind.add_argument("--colours", type=Path, metavar="FILE.yaml", help="what each colour stands for; or labelmap.txt")
    parser.add_argument("--crowds", choices=("ignored", "objects"), default="ignored", help="what iscrowd 1 means")
    parser.add_argument("--list", choices=("train", "val"), help="write DIR/lists/LIST.txt of what is annotated here")
    given = parser.parse_args()
    made = from_coco(given.root, given.coco, given.crowds) if given.coco else from_colours(given.root, given.colours)
    if given.list:
        write_lists(given.root, {given.list: made})
    print(f"{given.root}/masks: {len(made)} masks, ids as in {given.root}/classes.yaml" + (
        f"; {given.root}/lists/{given.list}.txt" if given.list else f". Next: python -m data.lists {given.root}"))

"""Masks of your own data from COCO's instance annotations or from pictures in colours.

    python -m data.prepare masks DIR --coco FILE.json [--list train|val]
    python -m data.prepare masks DIR --colours FILE.yaml [--from colour_masks] [--list train|val]

DIR/images holds the images. DIR/masks/NAME.png is written for each that is annotated, and DIR/classes.yaml where there
is none: it decides which class has which id. ``python -m data.lists DIR`` makes the lists then; or --list makes one of
exactly the images annotated here, for data with one JSON for training and another for testing.

COCO: polygons and run-length codes are painted in the file's order, crowds as ignored (255) below all instances.
Colours: FILE.yaml says what each colour is, a class's name, ``background`` or ``ignored``:

    "#000000": background
    "#ff0000": cat                  # or in numbers: "255, 0, 0": cat
    "#ffffff": ignored
"""
import re
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from data.files import orientation, read_bytes, read_image, read_text, write_changed, write_lists
from data.folds import Classes, check_names
from data.prepare.coco import draw, read_instances, source_of
from data.prepare.masks import made_here, make_masks
from data.prepare.own import pairs
from model import IGNORE
from util.runtime.errors import Parser, UserError
from util.runtime.stop import StopRequest

MEND = "mend the file, or export it again"
ABOUT_FOLDS = """# Ids in the masks are the places in this list, from 1 on.
# Fold 0 holds all classes back: it can be tested but not trained.
# To train, list the classes that each fold is to hold back: folds: [[owl], [dog]]
"""
NO_CLASS = {"background": 0, "ignored": IGNORE}


def ids_of(root: Path, names: list[str], file: Path) -> dict[str, int]:
    """{name: class id} by ROOT/classes.yaml. Where there is none, it is written in the order of ``names``.

    Raises UserError for a name that the file lacks, and for names that no class can have.
    """
    listed = root / "classes.yaml"
    if not listed.is_file():
        check_names(file, names)
        flow = yaml.safe_dump(names, default_flow_style=True, width=10**6, allow_unicode=True).strip()
        write_changed(listed, f"{ABOUT_FOLDS}classes: {flow}\nfolds: [{flow}]\n".encode())
    ids = {name: number for number, name in enumerate(Classes.read(listed).names, start=1)}
    lacking = [name for name in names if name not in ids]
    if lacking:
        raise UserError(f"{listed}: lacks {', '.join(map(repr, lacking[:5]))} of {file}; add it at the end, or remove "
                        f"{listed.name} so that it is written again")
    return ids


def from_coco(root: Path, file: Path) -> list[tuple[str, str]]:
    """The masks of an instances JSON; returns pairs (image, mask) below ``root``. Raises UserError."""
    names = []

    def ranks(categories: list[dict]) -> dict[int, int]:
        by_id = {c["id"]: c["name"] for c in categories}
        if len(by_id) < len(categories):
            raise ValueError("two categories have one id")
        names.extend(by_id[number] for number in sorted(by_id))
        return {number: rank for rank, number in enumerate(sorted(by_id), start=1)}

    annotated = read_instances(file, ranks, f"not COCO's instance annotations ({{}}); {MEND}", folders=True)
    for image in annotated.values():
        _require_size(root / "images" / image.name, (image.width, image.height), str(file))
    ids = ids_of(root, names, file)
    annotated = {name: image._replace(instances=[(ids[names[c - 1]], *rest) for c, *rest in image.instances])
                 for name, image in annotated.items()}
    masks = {name: f"masks/{Path(name).stem}.png" for name in annotated}
    _make(root, masks, partial(draw, masks="own"), source_of, "own", annotated)
    return [(f"images/{name}", mask) for name, mask in masks.items()]


def from_colours(root: Path, file: Path, folder: str) -> list[tuple[str, str]]:
    """The masks of the colour pictures in ROOT/folder; returns pairs as :func:`from_coco`. Raises UserError."""
    if folder == "masks":
        raise UserError("--from masks: the masks go there; rename the folder of the colour pictures")
    colours = read_colours(file)
    ids = {**ids_of(root, list(dict.fromkeys(n for n in colours.values() if n not in NO_CLASS)), file), **NO_CLASS}
    found = pairs(root, "images", folder)
    for image, picture in found:
        with Image.open(root / picture) as opened:
            _require_size(root / image, opened.size, str(root / picture))
    table = {colour: ids[name] for colour, name in colours.items()}
    masks = {picture: f"masks/{Path(picture).name}" for _, picture in found}
    _make(root, masks, partial(draw_colours, table, str(file)), read_bytes, repr(sorted(table.items())),
          {picture: root / picture for picture in masks})
    return [(image, masks[picture]) for image, picture in found]


def _make(root: Path, masks: dict[str, str], paint, source, rule: str, what: dict[str, object]) -> None:
    """Write every mask. Raises UserError before the first one if another file than data.prepare's is in its place."""
    for mask in masks.values():
        if (root / mask).exists() and not made_here(root / mask):
            raise UserError(f"{root / mask}: is there, and data.prepare did not make it; move that folder elsewhere")
    make_masks(paint, source, rule, [(root / mask, what[name]) for name, mask in masks.items()], "masks")


def _require_size(image: Path, size: tuple[int, int], said_by: str) -> None:
    """Raise UserError unless the image is there, can be read and has that (width, height)."""
    try:
        with Image.open(image) as opened:
            found = opened.size
    except FileNotFoundError:
        raise UserError(f"{image}: no such file, but {said_by} annotates it; put it there") from None
    except Exception:  # Pillow raises many kinds
        raise UserError(f"{image}: not a readable image; export it again") from None
    if found != size:
        turned = "; it has an EXIF rotation, so turn its pixels first (docs/data.md)" if orientation(image) > 4 else ""
        raise UserError(f"{image}: is {found[0]}x{found[1]}, but {size[0]}x{size[1]} in {said_by}; annotate and "
                        f"use the same file{turned}")


def read_colours(file: Path) -> dict[int, str]:
    """{red * 65536 + green * 256 + blue: name} of a YAML of colours. Raises UserError naming the entry."""
    remedy = '--colours names a YAML of lines such as "#ff0000": cat'
    text = read_text(file, remedy)
    try:
        node = yaml.compose(text, yaml.BaseLoader)
        entries = [(key.value, value.value) for key, value in node.value]
        if not entries or not all(isinstance(part, str) for entry in entries for part in entry):
            raise ValueError
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, RecursionError):
        raise UserError(f"{file}: not a mapping of colours to names; {remedy}") from None
    colours: dict[int, str] = {}
    for key, name in entries:
        colour = _colour(key)
        if colour is None:
            raise UserError(f'{file}: {key!r:.60} is no colour; write "#ff0000" or "255, 0, 0"')
        name = name.lower() if name.lower() in NO_CLASS else name  # "Background" is no class either
        if colours.setdefault(colour, name) != name:
            raise UserError(f"{file}: {_shown(colour)} is {colours[colour]!r} and {name!r}; keep one of them")
    if set(colours.values()) <= set(NO_CLASS):
        raise UserError(f"{file}: names no class, only {', '.join(NO_CLASS)}; {remedy}")
    return colours


def _colour(text: str) -> int | None:
    """A colour's number, as in read_colours; None for a text that is no colour."""
    if re.fullmatch("#[0-9a-fA-F]{6}", text):
        return int(text[1:], 16)
    if re.fullmatch(r"\d{1,3}([, ]+\d{1,3}){2}", text):
        red, green, blue = map(int, re.findall(r"\d+", text))
        if max(red, green, blue) < 256:
            return red << 16 | green << 8 | blue
    return None


def draw_colours(table: dict[int, int], colours: str, picture: Path) -> np.ndarray:
    """(H, W) uint8 ids of a colour picture. Raises UserError naming a colour that ``table`` lacks, and its pixels."""
    codes = read_image(picture).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    known = np.array(sorted(table))
    place = np.searchsorted(known, codes).clip(max=len(known) - 1)
    strange, pixels = np.unique(codes[known[place] != codes], return_counts=True)
    if len(strange):
        others = f" (nor {len(strange) - 1} further colours of {pixels.sum() - pixels.max()} pixels)"
        more = others if len(strange) > 1 else ""
        raise UserError(f"{picture}: {pixels.max()} pixels have the colour {_shown(strange[pixels.argmax()])}, which "
                        f"{colours} does not name{more}; name it there, or export the masks without smooth edges")
    return np.array([table[colour] for colour in known], np.uint8)[place]


def _shown(colour: int) -> str:
    return f"#{colour:06x} ({colour >> 16}, {colour >> 8 & 255}, {colour & 255})"


def main() -> None:
    parser = Parser(prog="python -m data.prepare masks", description=__doc__)
    parser.add_argument("root", type=Path, metavar="DIR")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--coco", type=Path, metavar="FILE.json", help="instance annotations as COCO's")
    kind.add_argument("--colours", type=Path, metavar="FILE.yaml", help="what each colour stands for")
    parser.add_argument("--from", dest="folder", default="colour_masks", metavar="FOLDER",
                        help="the colour pictures, below DIR, default: %(default)s")
    parser.add_argument("--list", choices=("train", "val"), help="write DIR/lists/LIST.txt of what is annotated here")
    given = parser.parse_args()
    StopRequest()  # Ctrl-C and SIGTERM end the work in an orderly way
    if not (given.root / "images").is_dir():
        raise UserError(f"{given.root / 'images'}: no such folder; put the images there")
    made = from_coco(given.root, given.coco) if given.coco else from_colours(given.root, given.colours, given.folder)
    if given.list:
        write_lists(given.root, {given.list: made})
    print(f"{given.root}/masks: {len(made)} masks, ids as in {given.root}/classes.yaml" + (
        f"; {given.root}/lists/{given.list}.txt" if given.list else f". Next: python -m data.lists {given.root}"))

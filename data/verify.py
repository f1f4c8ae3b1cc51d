"""Check a data set before training on it: every file, every count, and a sheet of pictures to look at.

    python -m data.verify DATASET [key=value ...]     DATASET as for train.sh: pascal, coco, shapes, or your own

Reads every image and mask of the lists in config/DATASET/esda.yaml. Writes report.md and samples.png to
EXP/verify/DATASET. Status 2 if a file cannot be used or a count is not the published one.
"""
import hashlib
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.files import how_to_make, orientation, read_list, read_pair, read_pair_and_palette
from data.folds import Classes, classes_of, hidden_marks
from data.index import Index, classless, identity, map_in_threads, overlap, pixels_and_colours, repeated, two_colours
from data.prepare.published import compare, fold_of
from model import IGNORE
from util.config import Config, from_command_line
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import Parser, UserError, run_main
from util.runtime.markdown import markdown_table
from util.runtime.png import encode_png, sheet

PICTURES, SIDE = 12, 300    # on the sheet, and the longer side of each in px
SHOWN = 10                  # problems named on screen


class Checked(NamedTuple):
    """Check of one list line."""
    pixels: np.ndarray      # of each class, (K + 1,)
    colours: dict[int, bytes] = {}  # in the palette, of the classes shown
    digest: bytes = b""     # of the mask
    problem: str = ""       # why it cannot be used
    turned: bool = False    # the image has an EXIF rotation, which is ignored
    outlined: bool = False  # the mask has ignored pixels, 255


def check_pair(root: str, classes: int, pair: tuple[str, str]) -> Checked:
    try:
        _, mask, palette = read_pair_and_palette(root, pair, classes)
    except UserError as error:
        return Checked(np.zeros(classes + 1, np.int64), problem=str(error))
    digest = hashlib.sha256(f"{pair[1]} {mask.shape}".encode() + mask.tobytes()).digest()
    return Checked(*pixels_and_colours(mask, palette, classes), digest, "",
                   orientation(Path(root, pair[0])) > 1, IGNORE in mask)


def check_list(root: str, list_file: str, classes: int, remedy: str) -> tuple[Index, list[Checked]]:
    """Read all pairs of a list; an empty name, of a set to test on alone, is an empty list."""
    pairs = read_list(list_file, remedy) if list_file else []
    checked = map_in_threads(partial(check_pair, root, classes), pairs, f"reading {list_file}")
    return Index(list_file, pairs, np.array([c.pixels for c in checked]).reshape(-1, classes + 1),
                 [identity(file) if (file := Path(root, image)).exists() else image for image, _ in pairs]), checked


def digest_of(checked: list[Checked]) -> str:
    """Hash all masks' pixels by SHA-256, independent of their order."""
    return hashlib.sha256(b"".join(sorted(c.digest for c in checked))).hexdigest()


def overlay(image: np.ndarray, mask: np.ndarray, classes: Classes) -> np.ndarray:
    """Draw each class in a colour with its name, ignored pixels white: (H', W', 3) uint8 RGB, longer side SIDE."""
    size = [max(1, round(side * SIDE / max(mask.shape))) for side in mask.shape[::-1]]
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    colours = cv2.applyColorMap(np.uint8(67 * np.arange(256) % 256)[:, None], cv2.COLORMAP_HSV)[:, 0]
    colours[IGNORE] = 255
    out = np.where((mask > 0)[..., None], (0.45 * image + 0.55 * colours[mask]).astype(np.uint8), image)
    for c in np.setdiff1d(mask, [0, IGNORE]).tolist():
        y, x = np.argwhere(mask == c).mean(axis=0).astype(int).tolist()
        cv2.putText(out, classes.name(c), (max(0, x - 25), y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return out


def verify(name: str, cfg: Config) -> list[str]:
    """Print and write the report; return the problems, a line each."""
    data, classes = cfg.data, classes_of(cfg.data)
    (train, of_train), (val, of_val) = (check_list(data.root, file, len(classes.names), how_to_make(name))
                                        for file in (data.train_list, data.val_list))
    checked, shown = of_train + of_val, [(index.pixels >= data.min_pixels).sum(axis=0) for index in (train, val)]
    folds = [fold_of(train, val, classes, fold, cfg) for fold in range(len(classes.folds))]
    lines = compare(name, cfg, classes, val, len(train.pairs), folds, sum(c.outlined for c in checked))
    problems = list(filter(None, [*(c.problem for c in checked), overlap(train, val),
                                  *(f"{index.list_file}: {problem}" for index, problem in (
                                      (train, repeated(train)), (val, repeated(val)),
                                      (val, not any(c.problem for c in of_val) and classless(val))) if problem),
                                  two_colours(train.pairs + val.pairs, [c.colours for c in checked]),
                                  *(line for line in lines if line.startswith("WRONG"))]))
    turned = [pair[0] for pair, c in zip(train.pairs + val.pairs, checked) if c.turned]
    if turned:
        lines.append(f"note  {len(turned)} images have an EXIF rotation, which is ignored; their masks must be drawn "
                     f"on the stored pixels: {', '.join(turned)}")
    lines += [f"note  the class {note}" for note in hidden_marks(classes.names)]
    lines += [f"note  fold {fold} cannot be {what}: no image of its list qualifies" for fold, found in enumerate(folds)
              for what, images in zip(("trained", "tested"), found) if not images]
    unseen_in = {c: fold for fold, ids in enumerate(classes.folds) for c in ids}
    report = [f"# {name}: {len(train.pairs):,} training and {len(val.pairs):,} validation pairs in {data.root}", "",
              f"Classes are present from {data.min_pixels} px on, training is on {data.train_classes!r}.", "",
              *lines, "",
              markdown_table(["fold", "training images", "test images", "test pairs"], [
                  [fold, len(images), len(set(tests)), len(tests)] for fold, (images, tests) in enumerate(folds)]), "",
              markdown_table(["id", "class", "fold", "training list", "validation list"], [
                  [c, class_name, unseen_in.get(c, "-"), shown[0][c], shown[1][c]]
                  for c, class_name in enumerate(classes.names, start=1)]), "",
              f"masks of the training list: sha256 {digest_of(of_train)}",
              f"masks of the validation list: sha256 {digest_of(of_val)}", ""]
    print(*report, sep="\n")
    files = {"report.md": "\n".join([*report, *(problems or ["No problems."]), ""]).encode()}
    pairs = [pair for pair, c in zip(train.pairs + val.pairs, checked) if c.pixels[1:].any()]
    some = np.random.default_rng(cfg.seed).permutation(len(pairs))[:PICTURES]
    if len(some):
        pictures = [overlay(*read_pair(data.root, pairs[row], len(classes.names)), classes) for row in some]
        files["samples.png"] = encode_png(sheet(pictures, 3))
    for file, content in files.items():
        write_bytes_atomically(Path(cfg.exp, "verify", name, file), content)
        print(Path(cfg.exp, "verify", name, file))
    return problems


def main() -> int:
    parser = Parser(prog="python -m data.verify", description=__doc__)
    parser.add_argument("dataset", help="a folder of config/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of the config")
    given = parser.parse_args()
    cfg = from_command_line(["--config", f"config/{given.dataset}/esda.yaml", *given.overrides])
    if not Path(cfg.data.root).is_dir():
        parser.error(f"{cfg.data.root}: no such folder; {how_to_make(given.dataset)}, or set data.root")
    problems = verify(given.dataset, cfg)
    if not problems:
        print("no problems")
        return 0
    print(*problems[:SHOWN], f"error: {len(problems)} problems, of which the report names all", sep="\n",
          file=sys.stderr)
    return 2


if __name__ == "__main__":
    run_main(main)

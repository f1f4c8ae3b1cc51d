"""Your own data: lists out of a folder of images and a folder of masks.

    python -m data.lists DIR [--images images] [--masks masks] [--val 0.2]

Pairs files of the same name (DIR/images/a.jpg with DIR/masks/a.png) and writes DIR/lists/{train,val}.txt. Whether an
image is held out follows from its name alone, so that adding images moves none of the earlier ones.
"""
import hashlib
import sys
from collections import Counter
from pathlib import Path

from data.files import SUFFIXES, write_lists
from util.runtime.errors import Parser, UserError, run_main


def pairs(root: Path, images: str, masks: str) -> list[tuple[str, str]]:
    """Pair (image, mask) paths below ``root``, in order of name, noting other files. Raises UserError for one alone."""
    both, passed = [], ""
    for folder, kinds in ((images, SUFFIXES), (masks, {".png"})):
        files = sorted((root / folder).glob("[!.]*"))
        both.append([(file.stem, f"{folder}/{file.name}") for file in files if file.suffix.lower() in kinds])
        other = [file.name for file in files if file.suffix.lower() not in kinds and file.is_file()]
        passed += f"; {len(other)} of other kinds in {folder} passed over: {', '.join(other[:5])}" if other else ""
    of_images, of_masks = (Counter(stem for stem, _ in files) for files in both)
    alone = sorted((of_images - of_masks) + (of_masks - of_images))
    if alone or not of_images:
        raise UserError(f"{root}: images in {images} ({', '.join(SUFFIXES)}) and masks in {masks} (.png) pair up "
                        f"by name; without a partner, or there twice: {', '.join(alone[:5]) or 'no images'}{passed}")
    if passed:
        print(f"note: {root}{passed}", file=sys.stderr)
    mask_of = dict(both[1])
    return [(image, mask_of[stem]) for stem, image in both[0]]


def held_out(image: str, share: float) -> bool:
    """Tell whether an image is for validation: the hash of its name, in 0..1, is below ``share``."""
    return int.from_bytes(hashlib.sha256(Path(image).stem.encode()).digest()[:4], "big") < share * 2 ** 32


def main() -> None:
    parser = Parser(prog="python -m data.lists", description=__doc__)
    parser.add_argument("root", type=Path, metavar="DIR")
    parser.add_argument("--images", default="images", help="folder below DIR, default: %(default)s")
    parser.add_argument("--masks", default="masks", help="folder below DIR, default: %(default)s")
    parser.add_argument("--val", type=float, default=0.2, help="share of images held out, default: %(default)s; 1: "
                        "all, for a set to test on alone")
    given = parser.parse_args()
    every = pairs(given.root, given.images, given.masks)
    parts = {part: [pair for pair in every if held_out(pair[0], given.val) == (part == "val")]
             for part in ("train", "val")[given.val == 1:]}
    if not all(parts.values()):
        parser.error(f"--val {given.val:g} leaves one of {' and '.join(parts)} without any of {len(every)} images")
    write_lists(given.root, parts)
    for part, chosen in parts.items():
        print(f"{given.root}/lists/{part}.txt: {len(chosen)} pairs")


if __name__ == "__main__":
    run_main(main)

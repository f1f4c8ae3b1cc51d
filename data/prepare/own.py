"""Your own data: lists out of a folder of images and a folder of masks.

    python -m data.lists DIR [--images images] [--masks masks] [--val 0.2]

Pairs files of the same name (DIR/images/a.jpg with DIR/masks/a.png) and writes DIR/lists/{train,val}.txt. Whether an
image is held out follows from its name alone, so that adding images moves none of the earlier ones.
"""
import hashlib
import unicodedata
from pathlib import Path

from data.files import write_lists
from util.runtime.errors import Parser, UserError, run_main

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
STEPS = 1 << 32


def pairs(root: Path, images: str, masks: str) -> list[tuple[str, str]]:
    """(image, mask) paths below ``root`` in the order of their names. Raises UserError for a file without a partner."""
    found = []
    for folder, kinds in ((images, IMAGES), (masks, {".png"})):
        if not (root / folder).is_dir():
            raise UserError(f"{root / folder}: no such folder; name the folders with --images and --masks")
        files = {}
        for file in sorted((root / folder).iterdir()):
            if file.suffix.lower() in kinds and not file.name.startswith(".") and file.is_file():
                if not str(file).isprintable() or "\\" in file.name or file.stem != file.stem.strip():
                    raise UserError(f"{str(file)!a}: a name that a list cannot hold: not UTF-8, or with a tab, a line "
                                    f"end, a backslash or a space at its end; rename it")
                stem = unicodedata.normalize("NFC", file.stem)  # macOS writes an accent as a letter of its own
                if stem in files:
                    raise UserError(f"{file}: {files[stem].name} has the same name; a mask belongs to one image")
                files[stem] = file
        found.append(files)
    for some, others, what in ((found[0], found[1], "mask"), (found[1], found[0], "image")):
        alone = [file for stem, file in some.items() if stem not in others]
        if alone:
            more = f" (nor for {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise UserError(f"{alone[0]}: no {what} of that name{more}; images and masks belong together by name")
    if not found[0]:
        raise UserError(f"{root / images}: no images; known are {', '.join(sorted(IMAGES))}")
    return [(f"{images}/{file.name}", f"{masks}/{found[1][stem].name}") for stem, file in found[0].items()]


def held_out(image: str, share: float) -> bool:
    """Whether an image is for validation: a hash of its name, read as a number in 0..1, is below ``share``."""
    return int.from_bytes(hashlib.sha256(Path(image).stem.encode()).digest()[:4], "big") < share * STEPS


def main() -> None:
    parser = Parser(prog="python -m data.lists", description=__doc__)
    parser.add_argument("root", type=Path, metavar="DIR")
    parser.add_argument("--images", default="images", help="folder below DIR, default: %(default)s")
    parser.add_argument("--masks", default="masks", help="folder below DIR, default: %(default)s")
    parser.add_argument("--val", type=float, default=0.2, help="share of images held out, default: %(default)s; 1: "
                        "all, for a set to test on alone")
    given = parser.parse_args()
    if not 0 < given.val <= 1:
        raise UserError(f"--val {given.val:g}: should lie between 0 and 1, or be 1 for a set to test on alone")
    if not str(given.root).isprintable():
        raise UserError(f"{str(given.root)!a}: a name that is not UTF-8 or not printable; rename the folder")
    every = pairs(given.root, given.images, given.masks)
    parts = {part: [p for p in every if held_out(p[0], given.val) == (part == "val")]
             for part in ("train", "val")[given.val == 1:]}
    for part, chosen in parts.items():
        if not chosen:
            raise UserError(f"{given.root}: none of {len(every)} images fell to {part}; choose another --val")
    write_lists(given.root, parts)
    for part, chosen in parts.items():
        print(f"{given.root}/lists/{part}.txt: {len(chosen)} pairs")


if __name__ == "__main__":
    run_main(main)

"""Find named things in images: masks, a picture with a legend, and JSON for each image. docs/predict.md explains it.

    python predict.py IMAGE|FOLDER|GLOB... --names star key "traffic light" [--weights FILE] [--out DIR]
    python predict.py PHOTO... --names cat sofa --model naclip       CLIP alone, for photographs

Without --weights the shipped model is used, which knows drawings of things.
"""
import glob
import json
import os
import sys
from itertools import chain, count
from pathlib import Path

from tqdm import tqdm

from data.files import read_file
from data.folds import hidden_marks
from util.predict.inputs import TRAINING_FREE, as_image, checked_names, find_images, split_names
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import Parser, UserError, run_main
from util.runtime.progress import progress


def main() -> int:
    """Predict images from the command line; returns the exit status, 1 where an unreadable image was skipped."""
    parser = Parser(description=__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER|GLOB", help="before --names")
    parser.add_argument("--names", nargs="+", required=True, action="extend", metavar="NAME", help="what to look for")
    parser.add_argument("--others", nargs="+", default=[], action="extend", metavar="WORD", help="rivals, not reported")
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint; the shipped one knows drawings only")
    parser.add_argument("--model", choices=TRAINING_FREE, help="no checkpoint: CLIP alone, without training")
    parser.add_argument("--clip", metavar="FILE", help="CLIP's weights (weights/ViT-B-16.pt)")
    parser.add_argument("--out", type=Path, default="predictions", metavar="DIR", help="folder for the results")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="0..1", help="of the score of what is found")
    parser.add_argument("--separate", action="store_true", help="each name has its own mask; masks may overlap")
    parser.add_argument("--size", type=int, metavar="PX", help="side of the network's input; a multiple of its patch")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--precision", help="fp32, tf32, bf16 or auto; that of the checkpoint's options")
    given = parser.parse_args()
    names, others = checked_names(split_names(given.names), split_names(given.others))
    stems = output_stems(find_images(given.images), given.out)

    from util.predict.segmenter import Segmenter  # torch takes seconds to import: mistakes above are told before
    segmenter = Segmenter.load(given.weights, model=given.model, clip=given.clip, size=given.size, device=given.device,
                               precision=given.precision)
    for note in hidden_marks(names + others) + segmenter.notes:
        print(f"note: {note}", file=sys.stderr)
    skipped = 0
    for file, stem in progress(stems.items(), "predicting", len(stems)):
        try:
            image = as_image(file)
        except UserError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            skipped += 1
            continue
        result = segmenter(image, names, others=others, threshold=given.threshold, separate=given.separate)
        write(result, file, stem)
        tqdm.write(f"{file}: {result.summary()} -> {stem}.overlay.png")
    print(f"{given.out}: {len(stems) - skipped} written" + f", {skipped} skipped" * bool(skipped))
    return int(skipped > 0)


def output_stems(images: list[Path], folder: Path) -> dict[Path, Path]:
    """Choose FOLDER/NAME[-2 ...] for each image. Raises UserError for FOLDER with an image or others' NAME.mask.png."""
    stems: dict[Path, Path] = {}
    for image in images:
        name = os.fsdecode(os.fsencode(image.stem)[:200])     # with a suffix, systems take 255 bytes
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        taken = {stem.name for stem in stems.values()}
        stem = stems[image] = folder / next(name for name in names if name not in taken)
        about, places = Path(f"{stem}.json"), [Path(f"{stem}{kind}") for kind in (".json", ".overlay.png", ".mask.png")]
        places += old_masks(stem)
        ours = about.is_file() and read_file(about, "choose another --out").startswith(b'{\n "image": {\n  "file": "')
        yours = [place for place in places if os.path.lexists(place) and not (ours and place.is_file())]
        yours += [folder] * (os.path.lexists(folder) and not folder.is_dir())   # a file, or a link in a circle
        if image.resolve().parent == Path(os.path.realpath(folder)) or yours:
            raise UserError(f"--out {folder}: {[*yours, image][0]} is there, and results could replace files of yours; "
                            f"choose another folder")
    return stems


def old_masks(stem: Path) -> list[Path]:
    """Find each name's own mask of an earlier call."""
    return list(stem.parent.glob(f"{glob.escape(stem.name)}.mask-*.png"))


def write(result, image: Path, stem: Path) -> None:
    """Write STEM.json, by which we know our own, .overlay.png, .mask.png, with ``separate`` a .mask-K.png a name."""
    height, width = result.image.shape[:2]
    about = {"image": {"file": str(image.resolve()), "width": width, "height": height}, **result.json()}
    files = {".json": (json.dumps(about, ensure_ascii=False, indent=1) + "\n").encode(errors="backslashreplace"),
             ".overlay.png": result.overlay_png(), ".mask.png": result.mask_png()}
    if result.separate:
        files |= {f".mask-{k + 1}.png": result.mask_png(k) for k in range(len(result.names))}
    for old in old_masks(stem):     # of an earlier call for other names
        old.unlink()
    for suffix, data in files.items():
        write_bytes_atomically(f"{stem}{suffix}", data)


if __name__ == "__main__":
    run_main(main)

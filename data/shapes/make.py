"""Make an embedded data set in PASCAL's layout: JPEGImages/, SegmentationClassAug/, lists/{train,val}.txt.

    python -m data.shapes.make [FILE.yaml] [key=value ...]     default: config/shapes/data.yaml

Where there are two artists, train and val show the first one's pictures, and lists/other.txt, as long as val, the
second one's. A finished folder is left as it is; a half-made one is made again.
"""
import json
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2

from data.files import write_lists
from data.folds import Classes
from data.shapes.artwork import artwork, distractors
from data.shapes.scene import Style, scene
from data.shapes.silhouettes import silhouette
from util import config as configuration
from util.options import option
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import UserError, run_main
from util.runtime.png import encode_png
from util.runtime.workers import map_in_processes

CONFIG = configuration.ROOT / "config" / "shapes" / "data.yaml"


@dataclass
class ShapesData:
    """Options of config/{shapes,emoji,emoji60}/data.yaml, which explain them."""
    root: str
    classes: str
    seed: int = option(least=0, most=2**63 - 2)
    train: int = option(least=1, most=1_000_000)    # names have six digits
    val: int = option(least=1, most=1_000_000)
    side: int = option(least=16, most=256)          # the side of a texture
    objects: list[int] = option(least=1, most=20, length=2)
    diameter: list[float] = option(least=4, most=256, length=2)
    rotation: float = option(least=0, most=180)
    overlap: float = option(least=0, most=1)
    jpeg_quality: int = option(least=1, most=100)
    artists: list[str] = option([])                 # none: silhouettes
    labelled: float = option(0.0, least=0, most=1)

    def __post_init__(self):
        self.style = Style(self.side, tuple(self.objects), tuple(self.diameter), self.rotation, self.overlap,
                           self.labelled)


def _write(cfg: ShapesData, classes: list[str], part: str, seed: int, artist: str, index: int) -> tuple[str, str]:
    """Write a scene; return the paths of its image and mask below root."""
    others = distractors(classes) if artist else []
    image, mask, _ = scene(classes + others, [*range(1, len(classes) + 1), *[0] * len(others)], seed, index, cfg.style,
                           partial(artwork, artist) if artist else silhouette)
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, cfg.jpeg_quality])[1]
    paths = f"JPEGImages/{part}_{index:06d}.jpg", f"SegmentationClassAug/{part}_{index:06d}.png"
    for path, data in zip(paths, (jpeg.tobytes(), encode_png(mask))):
        Path(cfg.root, path).parent.mkdir(exist_ok=True)
        Path(cfg.root, path).write_bytes(data)
    return paths


def make(cfg: ShapesData) -> None:
    """Make the data set, a function of the options alone, unless there. Raises UserError if root holds another."""
    root, names = Path(cfg.root), Classes.read(cfg.classes).names
    made_with = json.dumps({**asdict(cfg), "names": names}, sort_keys=True).encode()
    stamp = root / "made_with.json"
    if stamp.is_file() and stamp.read_bytes() == made_with:
        print(f"{root} is there already")
        return
    if not cfg.root or not stamp.exists() and any((root / n).exists() for n in ("prepared.json", "lists/train.txt")):
        raise UserError(f"root={cfg.root}: empty, or another data set, which would be lost; give another folder")
    write_bytes_atomically(stamp, b"unfinished")
    lists = {}
    first, *second = cfg.artists or [""]
    for part, seed, count, artist in (("train", cfg.seed, cfg.train, first), ("val", cfg.seed + 1, cfg.val, first),
                                      *(("other", cfg.seed + 2, cfg.val, artist) for artist in second)):
        write = partial(_write, cfg, names, part, seed, artist)
        lists[part] = list(map_in_processes(write, range(count), f"making {part}", chunksize=64))
    write_lists(root, lists)
    write_bytes_atomically(stamp, made_with)  # last: it says that all the rest is whole
    print(f"made {sum(map(len, lists.values()))} images in {root}", flush=True)


def main() -> None:
    given = sys.argv[1:]
    file = given.pop(0) if given and given[0].endswith(".yaml") else CONFIG
    make(configuration.load(ShapesData, file, given))


if __name__ == "__main__":
    run_main(main)

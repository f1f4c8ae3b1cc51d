"""Make the Shapes-5i data set in PASCAL's layout: JPEGImages/, SegmentationClassAug/, lists/{train,val}.txt.

    python -m data.shapes.make [key=value ...]     options: config/shapes/data.yaml

A finished folder is left as it is; a half-made one is made again.
"""
import json
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2

from data.files import write_lists
from data.folds import Classes
from data.shapes.scene import Style, scene
from data.shapes.silhouettes import NAMES
from util import config as configuration
from util.options import option
from util.run.atomic import remove_leftovers, write_bytes_atomically
from util.runtime.errors import UserError, run_main
from util.runtime.png import encode_png
from util.runtime.workers import cores, map_in_processes

CONFIG = configuration.ROOT / "config" / "shapes" / "data.yaml"


@dataclass
class ShapesData:
    """config/shapes/data.yaml gives each its value and reason. Raises UserError for values that do not fit together."""
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

    def __post_init__(self):
        for name in ("objects", "diameter"):
            least, most = getattr(self, name)
            if least > most:
                raise UserError(f"{name}=[{least}, {most}] should be the least and the most")
        if self.diameter[1] > self.side:
            raise UserError(f"diameter={self.diameter} should be at most the side of the image, {self.side}")

    @property
    def style(self) -> Style:
        return Style(self.side, tuple(self.objects), tuple(self.diameter), self.rotation, self.overlap)


def shapes_of(file: str) -> list[str]:
    """The class names of a class file, all of which have a silhouette. Raises UserError."""
    names = Classes.read(file).names
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise UserError(f"{file}: {unknown[0]!r} is no shape; there are {', '.join(NAMES)}")
    return names


def paths(name: str) -> tuple[str, str]:
    """Image and mask of a scene, as the published lists name them."""
    return f"JPEGImages/{name}.jpg", f"SegmentationClassAug/{name}.png"


def _write(cfg: ShapesData, names: list[str], job: tuple[str, int, int]) -> None:
    name, seed, index = job
    image, mask, _ = scene(names, range(1, len(names) + 1), seed, index, cfg.style)
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, cfg.jpeg_quality])[1]
    for path, data in zip(paths(name), (jpeg.tobytes(), encode_png(mask))):
        write_bytes_atomically(Path(cfg.root) / path, data, "free some space and start again", durable=False)


def make(cfg: ShapesData) -> bool:
    """Make the data set; False if it was there already. Images follow from the options alone, not from the cores."""
    root = Path(cfg.root)
    names = shapes_of(cfg.classes)
    made_with = json.dumps({**asdict(cfg), "names": names}, sort_keys=True).encode()
    stamp = root / "made_with.json"
    if stamp.is_file() and stamp.read_bytes() == made_with:
        return False
    others = not stamp.exists() and any((root / name).exists() for name in ("prepared.json", "lists/train.txt"))
    if others or not cfg.root:
        raise UserError(f"root={cfg.root}: empty, or holds another data set, whose lists would be lost; give another "
                        f"folder")
    write_bytes_atomically(stamp, b"unfinished", "give another folder with root=")
    remove_leftovers(root)
    jobs = {"train": [(f"train_{i:06d}", cfg.seed, i) for i in range(cfg.train)],
            "val": [(f"val_{i:06d}", cfg.seed + 1, i) for i in range(cfg.val)]}
    every = jobs["train"] + jobs["val"]
    start = time.perf_counter()
    for _ in map_in_processes(partial(_write, cfg, names), every, "making shapes", chunksize=64):
        pass
    rate = len(every) / (time.perf_counter() - start)
    write_lists(root, {part: [paths(name) for name, _, _ in scenes] for part, scenes in jobs.items()})
    write_bytes_atomically(stamp, made_with)  # last: it says that all the rest is whole
    print(f"made {len(every)} images in {root} ({rate:.0f} images/s on {cores()} cores)", flush=True)
    return True


def main() -> None:
    cfg = configuration.load(ShapesData, CONFIG, sys.argv[1:])
    if not make(cfg):
        print(f"{cfg.root} is there already")


if __name__ == "__main__":
    run_main(main)

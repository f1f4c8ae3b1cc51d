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
from util import config as configuration
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import UserError, run_main
from util.runtime.workers import cores, map_in_processes

CONFIG = configuration.ROOT / "config" / "shapes" / "data.yaml"


@dataclass
class ShapesData:
    """config/shapes/data.yaml says what each is for."""
    root: str
    classes: str
    seed: int
    train: int
    val: int
    side: int
    objects: list[int]
    diameter: list[float]
    rotation: float
    overlap: float
    jpeg_quality: int

    @property
    def style(self) -> Style:
        return Style(self.side, tuple(self.objects), tuple(self.diameter), self.rotation, self.overlap)


def paths(name: str) -> tuple[str, str]:
    """Image and mask of a scene, as the published lists name them."""
    return f"JPEGImages/{name}.jpg", f"SegmentationClassAug/{name}.png"


def _write(cfg: ShapesData, names: list[str], job: tuple[str, int, int]) -> None:
    name, seed, index = job
    image_path, mask_path = (Path(cfg.root) / path for path in paths(name))
    image, mask, _ = scene(names, range(1, len(names) + 1), seed, index, cfg.style)
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, cfg.jpeg_quality])[1]
    try:
        image_path.write_bytes(jpeg.tobytes())
        mask_path.write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    except OSError as error:
        raise UserError(f"{image_path}: could not be written ({error.strerror}); free some space and start again") \
            from None


def make(cfg: ShapesData) -> bool:
    """Make the data set; False if it was there already. Images follow from the options alone, not from the cores."""
    root = Path(cfg.root)
    names = Classes.read(cfg.classes).names
    made_with = json.dumps({**asdict(cfg), "names": names}, sort_keys=True)
    stamp = root / "made_with.json"
    if stamp.is_file() and stamp.read_text() == made_with:
        return False
    stamp.unlink(missing_ok=True)
    for folder in ("JPEGImages", "SegmentationClassAug", "lists"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    jobs = {"train": [(f"train_{i:06d}", cfg.seed, i) for i in range(cfg.train)],
            "val": [(f"val_{i:06d}", cfg.seed + 1, i) for i in range(cfg.val)]}
    every = jobs["train"] + jobs["val"]
    start = time.perf_counter()
    for _ in map_in_processes(partial(_write, cfg, names), every, "making shapes", chunksize=64):
        pass
    rate = len(every) / (time.perf_counter() - start)
    write_lists(root, {part: [paths(name) for name, _, _ in scenes] for part, scenes in jobs.items()})
    write_bytes_atomically(stamp, made_with.encode())  # last: it says that all the rest is whole
    print(f"made {len(every)} images in {root} ({rate:.0f} images/s on {cores()} cores)", flush=True)
    return True


def main() -> None:
    cfg = configuration.load(ShapesData, CONFIG, sys.argv[1:])
    if not make(cfg):
        print(f"{cfg.root} is there already")


if __name__ == "__main__":
    run_main(main)

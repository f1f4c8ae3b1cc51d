"""What the data cost: images/s a core of the training and evaluation loaders, ms of indexing a mask. Needs no data set.

    python -m util.benchmark.loader        on images of PASCAL's and COCO's sizes, drawn for the occasion
"""
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from data.dataset import EvalDataset, TrainDataset, mean_colour
from data.files import read_image, read_mask, read_pair
from data.index import Index, count_pixels
from data.samples import Sample, TrainImages
from data.shapes.scene import Style, scene
from data.shapes.silhouettes import NAMES
from data.transform import augment, fit
from util.config import ROOT, Config, load
from util.runtime.errors import run_main

IMAGES, REPEATS = 40, 5
KINDS = (("pascal", 500, 375), ("coco", 640, 480))
NOISE = 7  # grey levels, so that the JPEGs are as large as photographs: about 60 and 90 kB at these sizes
STYLE = Style(side=256, objects=(2, 4), diameter=(80, 140))


def draw(root: Path, width: int, height: int) -> Index:
    """IMAGES JPEGs and masks of one size under ``root``."""
    rng, pairs, pixels = np.random.default_rng(0), [], []
    names = sorted(NAMES)
    for i in range(IMAGES):
        image, mask, _ = scene(names, range(1, len(names) + 1), 9, i, STYLE)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + rng.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8)
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        pairs.append((f"{i}.jpg", f"{i}.png"))
        cv2.imwrite(str(root / pairs[-1][0]), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        cv2.imwrite(str(root / pairs[-1][1]), mask)
        pixels.append(count_pixels(mask, len(names)))
    return Index("drawn", pairs, np.stack(pixels))


def datasets(folder: Path, width: int, height: int, cfg: Config) -> tuple[TrainDataset, EvalDataset]:
    """What ``cfg`` trains and is tested on, made of drawn images of one size, one sample an image."""
    fill, size, index = mean_colour(cfg.model.pixel_mean), cfg.model.size, draw(folder, width, height)
    classes = [tuple(np.flatnonzero(row[1:]) + 1) for row in index.pixels]
    count, images = index.pixels.shape[1] - 1, TrainImages(list(range(IMAGES)), classes)
    samples = [Sample(i, int(ids[0])) for i, ids in enumerate(classes)]
    return (TrainDataset(str(folder), index, images, count, size, fill, cfg.augment, 0),
            EvalDataset(str(folder), index, samples, count, size, fill))


def milliseconds(do, items) -> float:
    """Mean time of ``do(item)``, after one round to warm up."""
    items = list(items)
    for item in items:
        do(item)
    start = time.perf_counter()
    for _ in range(REPEATS):
        for item in items:
            do(item)
    return 1000 * (time.perf_counter() - start) / (REPEATS * len(items))


def measure(name: str, width: int, height: int) -> dict:
    """Milliseconds on one core: ``whole`` samples, their ``parts``, and ``index``ing a mask; and what was read."""
    cfg = load(Config, ROOT / "config" / name / "esda.yaml")
    with tempfile.TemporaryDirectory() as folder:
        train, test = datasets(Path(folder), width, height, cfg)
        index, count, fill, size, classes = train.index, train.classes, train.fill, train.size, train.images.classes
        read = [read_pair(folder, pair, count) for pair in index.pairs]
        every = range(IMAGES)
        parts = {
            "decode the JPEG": milliseconds(lambda i: read_image(Path(folder) / index.pairs[i][0]), every),
            "decode the mask": milliseconds(lambda i: read_mask(Path(folder) / index.pairs[i][1], count), every),
            "augment": milliseconds(lambda i: augment(*read[i], classes[i][0], size, fill, cfg.augment,
                                                      np.random.default_rng(i)), every),
            "fit": milliseconds(lambda i: fit(read[i][0], size, fill), every),
        }
        whole = {"training": milliseconds(lambda i: train[0, i, i], every),
                 "evaluation": milliseconds(lambda i: test[i], every)}
        index_ms = milliseconds(lambda i: count_pixels(read_mask(Path(folder) / index.pairs[i][1], count), count), every)
        kilobytes = sum((Path(folder) / image).stat().st_size for image, _ in index.pairs) / IMAGES / 1000
    return {"set": name, "width": width, "height": height, "kilobytes": kilobytes, "size": size, "whole": whole,
            "parts": parts, "index": index_ms}


def lines(found: dict) -> list[str]:
    """What :func:`measure` found, to read."""
    out = ["{set}: {width}x{height} JPEGs of {kilobytes:.0f} kB to {size} px".format(**found)]
    out += [f"  {what:<16} {1000 / ms:6.0f} images/s a core ({ms:.2f} ms)" for what, ms in found["whole"].items()]
    out.append("  of which " + ", ".join(f"{what} {ms:.2f} ms" for what, ms in found["parts"].items()))
    return out + [f"  indexing a mask  {found['index']:.2f} ms"]


def main() -> None:
    cv2.setNumThreads(0)  # a core is what is measured
    for kind in KINDS:
        print("\n".join(lines(measure(*kind))), flush=True)


if __name__ == "__main__":
    run_main(main)

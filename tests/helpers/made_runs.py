"""Run folders made by hand for util.compare."""
import json
from pathlib import Path

import numpy as np
import pytest

from util.run.atomic import write_bytes_atomically
from util.runtime.png import encode_png

IMAGE, TRUTH = (10, 200, 10), (20, 20, 180)  # colours of made pictures


class Made:
    """Writes results.json as train.py does: two classes a fold, with IoUs ``spread`` below and above the mIoU."""

    def __init__(self, exp: Path):
        self.exp = exp

    def __call__(self, arch: str, fold: int, miou: float, *, seed: int = 1, run: str = "", spread: float = 10,
                 config: dict | None = None, **changes) -> Path:
        def scores(value):
            return {"epoch": 2, "miou": value, "fb_iou": min(100, value + 20), "protocol": "episodic", "samples": 1000,
                    "per_class": {f"low {fold}": max(0, value - spread), f"high {fold}": min(100, value + spread)}}

        origin = {"dataset": "pascal", "arch": arch, "fold": fold, "seed": seed, "train_classes": "seen"}
        results = {
            "dataset": "pascal", "arch": arch, "fold": fold, "folds": 4, **scores(miou),
            "class_ids": {f"low {fold}": 2 * fold + 1, f"high {fold}": 2 * fold + 2},
            "checkpoint": "checkpoints/best.pt", "trained_on": origin, "training_seconds": 3600.0 + fold,
            "selections": {"unseen": scores(miou), "seen": scores(miou - 1), "last": scores(miou - 2)}
            if miou >= 2 else {"unseen": scores(miou)},
            "parameters": {"trainable": 1_250_000, "total": 5_000_000}, "gflops_per_image": 12.34,
            "clip_fingerprint": "abc", "machine": "a CPU",
            "config": {"seed": seed, "fold": fold, "model": {"branch_rank": 2}, "train": {"select": "unseen"},
                       **(config or {})}, **changes}
        results = {key: value for key, value in results.items() if value is not None}  # key=None takes it away
        folder = self.exp / results["dataset"] / arch / f"fold{fold}" / (run or f"seed{seed}")
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results))
        return folder

    def folds(self, arch: str, mious, **more) -> list[Path]:
        return [self(arch, fold, miou, **more) for fold, miou in enumerate(mious)]


def draw(folder: Path, colours: dict[int, tuple], side: int = 48, class_id: int = 0) -> None:
    """Solid pictures for a made run: {line of the list: colour of the prediction}, IoU 10 times the line."""
    results = json.loads((folder / "results.json").read_text())
    class_id = class_id or 2 * results["fold"] + 1
    results["pictures"] = {f"{row:05d}-m{row}-{class_id}": {"class_id": class_id, "iou": min(100, 10 * row)}
                           for row in colours}
    (folder / "results.json").write_text(json.dumps(results))
    for name, colour in zip(results["pictures"], colours.values()):
        for what, c in (("image", IMAGE), ("truth", TRUTH), ("prediction", colour)):
            write_bytes_atomically(folder / "pictures" / name / f"{what}.png",
                                   encode_png(np.full((side, side, 3), c, np.uint8)), durable=False)


@pytest.fixture
def made(tmp_path) -> Made:
    return Made(tmp_path / "exp")

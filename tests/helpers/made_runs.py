"""Run folders made by hand for util.compare."""
import json
from pathlib import Path

import pytest

from util.compare.runs import find, gather, read


class Made:
    """Writes results.json as train.py does: two classes a fold, with IoUs 10 below and above the mIoU."""

    def __init__(self, exp: Path):
        self.exp = exp

    def __call__(self, arch: str, fold: int, miou: float, *, seed: int = 1, run: str = "", config: dict | None = None,
                 **changes) -> Path:
        def scores(epoch, value):
            return {"epoch": epoch, "miou": value, "fb_iou": value + 20, "protocol": "episodic",
                    "per_class": {f"low {fold}": value - 10, f"high {fold}": value + 10}}

        results = {
            "version": 1, "dataset": "pascal", "arch": arch, "fold": fold, "folds": 4, "samples": 1000,
            **scores(2, miou), "class_ids": {f"low {fold}": 2 * fold + 1, f"high {fold}": 2 * fold + 2},
            "checkpoint": "checkpoints/best.pt", "training_seconds": 3600.0 + fold, "steps": 800, "images": 6400,
            "trained_on": {"dataset": "pascal", "arch": arch, "fold": fold, "seed": seed, "train_classes": "seen"},
            "selections": {"unseen": scores(2, miou), "seen": {**scores(1, miou - 1), "seen_miou": 60.0 + fold},
                           "last": {**scores(3, miou - 2), "seen_miou": 70.0 + fold}},
            "parameters": {"trainable": 1_250_000, "total": 5_000_000}, "gflops_per_image": 12.34,
            "clip_fingerprint": "abc", "machine": "a CPU", "data": {"val": "v1", "train": "t1"}, "code": "c1",
            "command": f"python train.py fold={fold}",
            "config": {"seed": seed, "fold": fold, "model": {"branch_rank": 2}, "train": {"select": "unseen"},
                       **(config or {})}, **changes}
        results = {key: value for key, value in results.items() if value is not None}  # key=None takes it away
        folder = self.exp / results["dataset"] / arch / f"fold{fold}" / (run or f"seed{seed}")
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results))
        return folder

    def folds(self, arch: str, mious, **more) -> list[Path]:
        return [self(arch, fold, miou, **more) for fold, miou in enumerate(mious)]


@pytest.fixture
def made(tmp_path) -> Made:
    return Made(tmp_path / "exp")


@pytest.fixture
def groups(made):
    """groups(select, partial, places) of all that was made, unless places are given."""
    return lambda select=None, partial=False, places=(): gather(
        (read(file, select) for file in find(places or [made.exp])), partial)

"""Run folders made by hand for util.compare."""
import json
from pathlib import Path

import pytest


class Made:
    """Writes results.json as train.py does: two classes a fold, with IoUs ``spread`` below and above the mIoU."""

    def __init__(self, exp: Path):
        self.exp = exp

    def __call__(self, arch: str, fold: int, miou: float, *, seed: int = 1, run: str = "", spread: float = 10,
                 config: dict | None = None, **changes) -> Path:
        def scores(value):
            return {"epoch": 2, "miou": value, "fb_iou": value + 20, "protocol": "episodic", "samples": 1000,
                    "per_class": {f"low {fold}": value - spread, f"high {fold}": value + spread}}

        origin = {"dataset": "pascal", "arch": arch, "fold": fold, "seed": seed, "train_classes": "seen"}
        results = {
            "dataset": "pascal", "arch": arch, "fold": fold, "folds": 4, **scores(miou),
            "class_ids": {f"low {fold}": 2 * fold + 1, f"high {fold}": 2 * fold + 2},
            "checkpoint": "checkpoints/best.pt", "trained_on": origin, "training_seconds": 3600.0 + fold,
            "selections": {"unseen": scores(miou), "seen": scores(miou - 1), "last": scores(miou - 2)},
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


@pytest.fixture
def made(tmp_path) -> Made:
    return Made(tmp_path / "exp")

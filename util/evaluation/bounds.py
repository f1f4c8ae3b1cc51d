"""What masks made from the truth would score on Shapes-5i: how far a patch grid, and "whatever is there", can get.

    python -m util.evaluation.bounds [key=value ...]     options: config/shapes/esda.yaml
"""
import sys
from collections.abc import Callable

import cv2
import numpy as np
import torch

from data.fold import FoldData
from data.folds import FOLDS
from model import IGNORE
from model.clip.weights import WeightsError, read_clip
from util import config as configuration
from util.config import Config
from util.evaluation.evaluate import Result, score
from util.evaluation.metric import Counts, count
from util.runtime.errors import run_main
from util.runtime.progress import progress


def patch_labels(mask: np.ndarray, class_id: int, patch: int) -> np.ndarray:
    """Evidence where each patch is labelled perfectly, by majority, and upsampled like the decoder's output."""
    height, width = mask.shape
    cover = cv2.resize((mask == class_id).astype(np.float32), (width // patch, height // patch),
                       interpolation=cv2.INTER_AREA)
    return cv2.resize((cover > 0.5).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) - 0.5


def any_object(mask: np.ndarray) -> np.ndarray:
    """Evidence where every object is found perfectly and the name is not looked at."""
    return ((mask > 0) & (mask != IGNORE)) - 0.5


def miou(data: FoldData, evidence_of: Callable[[np.ndarray, int], np.ndarray]) -> float:
    """What ``evidence_of(mask, class id)`` scores on the fold's test samples, in percent."""
    results = []
    for batch in progress(data.loader(data.draws()[0]), f"fold {data.cfg.fold}"):
        for sample, mask in zip(batch.samples, batch.masks):
            found = torch.from_numpy(evidence_of(mask, sample.class_id) > 0)
            counts = Counts(*count(found, torch.from_numpy(mask), sample.class_id).tolist())
            results.append(Result(sample, counts, 0.0, None))
    return score(results, data.unseen, data.classes, "exhaustive")["miou"]


def main() -> None:
    path = configuration.ROOT / "config" / "shapes" / "esda.yaml"
    patch = read_clip(configuration.load(Config, path, sys.argv[1:]).model.clip).visual["conv1.weight"].shape[-1]
    kinds = {f"perfect {patch} px patches": lambda mask, c: patch_labels(mask, c, patch),
             "perfect class-agnostic mask": lambda mask, _: any_object(mask)}
    for label, evidence_of in kinds.items():
        scores = [miou(FoldData(configuration.load(Config, path, [*sys.argv[1:], f"fold={fold}"])), evidence_of)
                  for fold in range(FOLDS)]
        print(f"{label}: mIoU {' '.join(f'{s:.1f}' for s in scores)}, mean {np.mean(scores):.1f}")


if __name__ == "__main__":
    run_main(main, WeightsError)

"""What masks made from the truth would score on Shapes-5i: how far a patch grid, and "whatever is there", can get.

    python -m data.shapes.bounds [key=value ...]     options: config/shapes/esda.yaml
"""
import sys
from collections.abc import Iterator

import cv2
import numpy as np
import torch

from data.fold import FoldData
from data.folds import FOLDS
from model.clip.weights import WeightsError, read_clip
from util import config as configuration
from util.config import Config
from util.evaluation.evaluate import Prediction, evaluate
from util.evaluation.metric import IGNORE, Counts, count
from util.runtime.errors import run_main


def patch_labels(mask: np.ndarray, class_id: int, patch: int) -> np.ndarray:
    """Evidence where each patch is labelled perfectly, by majority, and upsampled bilinearly as the decoder's output."""
    height, width = mask.shape
    cover = cv2.resize((mask == class_id).astype(np.float32), (width // patch, height // patch),
                       interpolation=cv2.INTER_AREA)
    return cv2.resize((cover > 0.5).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) - 0.5


def any_object(mask: np.ndarray) -> np.ndarray:
    """Evidence where every object is found perfectly and the name is not looked at."""
    return ((mask > 0) & (mask != IGNORE)) - 0.5


def predictions(data: FoldData, evidence_of) -> Iterator[Prediction]:
    for batch in data.loader(data.draws()[0]):
        for sample, image, inner, mask in zip(batch.samples, batch.images, batch.inner, batch.masks):
            evidence = torch.from_numpy(evidence_of(mask, sample.class_id))
            counts = Counts(*count(evidence > 0, torch.from_numpy(mask), sample.class_id).tolist())
            yield Prediction(sample, image, inner, mask, evidence, None, counts)


def main() -> None:
    path = configuration.ROOT / "config" / "shapes" / "esda.yaml"
    patch = read_clip(configuration.load(Config, path, sys.argv[1:]).model.clip).visual["conv1.weight"].shape[-1]
    kinds = {f"perfect {patch} px patches": lambda mask, c: patch_labels(mask, c, patch),
             "perfect class-agnostic mask": lambda mask, _: any_object(mask)}
    for label, evidence_of in kinds.items():
        scores = []
        for fold in range(FOLDS):
            data = FoldData(configuration.load(Config, path, [*sys.argv[1:], f"fold={fold}"]))
            scores.append(evaluate(predictions(data, evidence_of), data.unseen, data.classes, "exhaustive")["miou"])
        print(f"{label}: mIoU {' '.join(f'{s:.1f}' for s in scores)}, mean {np.mean(scores):.1f}")


if __name__ == "__main__":
    run_main(main, WeightsError)

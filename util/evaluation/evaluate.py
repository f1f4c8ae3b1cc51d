"""Evaluator of predictions: a predict function and batches in, plain numbers out."""
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import numpy as np

from data.dataset import EvalBatch
from data.folds import Classes
from data.index import count_pixels
from data.samples import Sample
from model import IGNORE
from util.evaluation.metric import Counts, Tally, auc, percent
from util.evaluation.predictor import Prediction
from util.runtime import distributed
from util.runtime.progress import progress

QUARTERS = 4    # into which by_size divides the samples


class Evaluation(NamedTuple):
    scores: dict                        # see ``score``
    kept: dict[Sample, Prediction]      # those of the samples to keep, in main memory
    results: list["SampleScore"]      # of every sample


class SampleScore(NamedTuple):
    """Statistics of one predicted sample that the scores need."""
    sample: Sample
    counts: Counts
    presence: float
    name_auc: float | None
    confusion: np.ndarray       # (K + 1,) predicted foreground pixels by the class that they show, 0 the background


def evaluate(
        predict: Callable[[EvalBatch], list[Prediction]], batches: Iterable[EvalBatch], class_ids: tuple[int, ...],
        classes: Classes, protocol: str, *, label: str = "evaluation", draws: list[list[Sample]] | None = None,
        name_auc: bool = False, keep: Collection[Sample] = ()) -> Evaluation:
    """Predict every batch and score the predictions of ``class_ids``, gathered over all processes.

    predict: a Predictor; batches: this process's share; label: of the progress bar; keep: samples whose predictions to
        return; draws, name_auc: see ``score``.
    """
    results, kept, wanted = [], {}, set(keep)
    for batch in progress(batches, label):
        for p in predict(batch):
            found = count_pixels(p.mask[(p.margin > 0).cpu().numpy()], len(classes.names))
            results.append(SampleScore(p.sample, p.counts, p.presence, _name_auc(p) if name_auc else None, found))
            if p.sample in wanted:
                kept[p.sample] = p.to_cpu()
    kept = {sample: p for part in distributed.gather(kept) for sample, p in part.items()}
    results = distributed.whole(results)
    scores = score(results, class_ids, classes, protocol, draws, name_auc)
    return Evaluation(scores, {sample: kept[sample] for sample in keep}, results)


def score(results: list[SampleScore], class_ids: tuple[int, ...], classes: Classes, protocol: str,
          draws: list[list[Sample]] | None = None, name_auc: bool = False) -> dict:
    """Score predicted samples, as plain numbers.

    draws: lists of samples, each scored by itself; a sample counts as often as it occurs. None: every result once.
    Returns protocol, samples, miou, fb_iou and per_class {name: IoU}; IoUs are percent and means over the draws.
    Several draws add miou_std (n - 1) and draws, the mIoU of each. ``name_auc`` adds the mean AUC of the logit margin
    on the named object against other objects (0..1; 0.5: the name decides nothing), over samples that show another
    object. Of each distinct sample once: confusion[query][true class] = predicted-foreground pixels; by_size, the mIoU
    of the quarters of samples by the class's area in the image, smallest first, and the largest area of each in px.
    """
    times = [Counter(draw) for draw in draws] if draws else None
    tallies, areas, samples, shown = [Tally(class_ids) for _ in draws or [None]], [], 0, {}
    for sample, counts, _, area, confusion in results:
        shown[sample.class_id] = shown.get(sample.class_id, 0) + confusion
        weights = [counter[sample] for counter in times] if times else [1]
        samples += weights[0]
        for tally, weight in zip(tallies, weights):
            tally.add(counts, sample.class_id, weight)
        if area is not None:
            areas += [area] * weights[0]
    mious = [percent(tally.miou) for tally in tallies]
    per_class = [tally.per_class() for tally in tallies]
    scores = {
        "protocol": protocol, "samples": samples,
        "miou": float(np.mean(mious)), "fb_iou": percent(float(np.mean([tally.fb_iou for tally in tallies]))),
        "per_class": {classes.name(c): percent(float(np.mean([iou[c] for iou in per_class if c in iou])))
                      for c in class_ids if any(c in iou for iou in per_class)},
        "confusion": by_name({c: shown[c] for c in class_ids if c in shown}, classes),
        "by_size": by_size(results, class_ids),
    }
    if len(mious) > 1:
        scores["miou_std"], scores["draws"] = float(np.std(mious, ddof=1)), mious
    if name_auc:
        scores["name_auc"] = float(np.mean(areas)) if areas else None
        scores["name_auc_samples"] = len(areas)
    return scores


def by_size(results: list[SampleScore], class_ids: tuple[int, ...]) -> list[dict[str, float]]:
    """Score the quarters of samples by area, smallest first, as plain numbers; fewer where there are fewer samples."""
    ranked, quarters = sorted(results, key=lambda result: result.counts.true), []
    for k in range(QUARTERS):
        part, tally = ranked[k * len(ranked) // QUARTERS:(k + 1) * len(ranked) // QUARTERS], Tally(class_ids)
        for result in part:
            tally.add(result.counts, result.sample.class_id)
        quarters += [{"largest": part[-1].counts.true, "miou": percent(tally.miou)}] if part else []
    return quarters


def by_name(confusion: dict[int, np.ndarray], classes: Classes) -> dict[str, dict[str, int]]:
    """Key confusion counts {class id: pixels of background and of each class} by name, in order of the ids."""
    names = ["background", *classes.names]
    return {classes.name(c): dict(zip(names, pixels.tolist())) for c, pixels in confusion.items()}


def _name_auc(p: Prediction) -> float | None:
    """Compute the AUC of the named object's margins; None where the image shows no other object."""
    margin = p.margin.cpu().numpy()
    named = margin[p.mask == p.sample.class_id]
    others = margin[(p.mask != p.sample.class_id) & (p.mask != 0) & (p.mask != IGNORE)]
    return auc(named, others) if len(named) and len(others) else None


def absent_classes(samples: list[Sample], present: np.ndarray, class_ids: tuple[int, ...],
                   seed: int) -> dict[Sample, int]:
    """Draw an absent class of ``class_ids`` for each sample, if any; present: (N, K + 1) pixels by image and class."""
    queried = {}
    for sample in samples:
        absent = [c for c in class_ids if present[sample.row, c] == 0]
        if absent:
            rng = np.random.default_rng((seed, sample.row, sample.class_id))
            queried[sample] = int(rng.choice(absent))
    return queried

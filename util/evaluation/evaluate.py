"""The evaluator: a predict function and batches in, plain numbers out. Training, tests and tables all call it.

The way of one image, from the disk to the score:
    data/files.py       read_pair: the image and its mask
    data/transform.py   to_input: the image resized and padded to the network's square
    data/dataset.py     EvalDataset and EvalBatch: several of them together (data/loader.py runs this in processes)
    util/evaluation/predict.py      Predictor: through the model, back to the image's own size, pixels counted
    util/evaluation/evaluate.py     evaluate: all batches; score: the counts of all samples to mIoU (metric.py)
"""
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
from util.evaluation.predict import Prediction
from util.runtime.processes import SINGLE_PROCESS, Processes
from util.runtime.progress import progress


class Evaluation(NamedTuple):
    scores: dict                        # see ``score``
    kept: dict[Sample, Prediction]      # those of the samples to keep, in main memory
    results: list["Result"]             # of every sample


class Result(NamedTuple):
    """What the scores need of one predicted sample."""
    sample: Sample
    counts: Counts
    presence: float
    name_auc: float | None
    marked: np.ndarray | None = None    # (K + 1,) predicted foreground pixels by what they show, 0 the background


def evaluate(
        predict: Callable[[EvalBatch], list[Prediction]], batches: Iterable[EvalBatch], class_ids: tuple[int, ...],
        classes: Classes, protocol: str, *, label: str = "evaluation", draws: list[list[Sample]] | None = None,
        name_auc: bool = False, marked: bool = False, keep: Collection[Sample] = (),
        processes: Processes = SINGLE_PROCESS) -> Evaluation:
    """Predict every batch and score the predictions of ``class_ids``.

    Each of several processes passes batches of its share of the samples, and all get the scores and the kept
    predictions of the whole.

    predict: a Predictor; label: what the progress bar says; keep: samples whose predictions to return; draws,
        name_auc: see ``score``; marked: whether to count what the foreground shows, as ``score`` says.
    """
    results, kept, wanted = [], {}, set(keep)
    for batch in progress(batches, label):
        for p in predict(batch):
            results.append(Result(p.sample, p.counts, p.presence, _name_auc(p) if name_auc else None,
                                  _marked(p, len(classes.names)) if marked else None))
            if p.sample in wanted:
                kept[p.sample] = p.to_cpu()
    kept = {sample: p for part in processes.gather(kept) for sample, p in part.items()}
    results = processes.whole(results)
    scores = score(results, class_ids, classes, protocol, draws, name_auc)
    return Evaluation(scores, {sample: kept[sample] for sample in keep}, results)


def score(results: list[Result], class_ids: tuple[int, ...], classes: Classes, protocol: str,
          draws: list[list[Sample]] | None = None, name_auc: bool = False) -> dict:
    """The scores of predicted samples, as plain numbers.

    draws: lists of samples, each scored by itself; a sample is predicted once and counted as often as it occurs in the
        list. None: every result counts once.
    Returns protocol, samples, miou, fb_iou and per_class {name: IoU}. All IoUs are in percent and means over the draws.
    Several draws add miou_std, the sample standard deviation, and draws, the mIoU of each. ``name_auc`` adds the mean,
    over samples that show another object, of the AUC of the evidence on the named object's pixels against the other
    objects' pixels (0..1; 0.5 means that the name decides nothing). Results with ``marked`` add marked, {name:
    {what its foreground shows: pixels}}, each distinct sample counted once.
    """
    times = [Counter(draw) for draw in draws] if draws else None
    tallies, areas, samples, shown = [Tally(class_ids) for _ in draws or [None]], [], 0, {}
    for sample, counts, _, area, marked in results:
        if marked is not None:
            shown[sample.class_id] = shown.get(sample.class_id, 0) + marked
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
    }
    if len(mious) > 1:
        scores["miou_std"], scores["draws"] = float(np.std(mious, ddof=1)), mious
    if name_auc:
        scores["name_auc"] = float(np.mean(areas)) if areas else None
        scores["name_auc_samples"] = len(areas)
    if shown:
        scores["marked"] = by_name({c: shown[c] for c in class_ids if c in shown}, classes)
    return scores


def by_name(marked: dict[int, np.ndarray], classes: Classes) -> dict[str, dict[str, int]]:
    """{class id: pixels of background and of each class} under names, in order of the ids."""
    return {classes.name(c): dict(zip(["background", *classes.names], pixels.tolist())) for c, pixels in marked.items()}


def _marked(p: Prediction, classes: int) -> np.ndarray:
    return count_pixels(p.mask[(p.evidence > 0).cpu().numpy()], classes)


def _name_auc(p: Prediction) -> float | None:
    """None where the image shows no other object."""
    evidence = p.evidence.cpu().numpy()
    named = evidence[p.mask == p.sample.class_id]
    others = evidence[(p.mask != p.sample.class_id) & (p.mask != 0) & (p.mask != IGNORE)]
    return auc(named, others) if len(named) and len(others) else None


def absent_classes(samples: list[Sample], present: np.ndarray, class_ids: tuple[int, ...],
                   seed: int) -> dict[Sample, int]:
    """For each sample one of ``class_ids`` that its image does not show at all; samples without one are left out.

    present: (N, K + 1) pixels of each class in each image of the list.
    """
    queried = {}
    for sample in samples:
        absent = [c for c in class_ids if present[sample.row, c] == 0]
        if absent:
            rng = np.random.default_rng((seed, sample.row, sample.class_id))
            queried[sample] = int(rng.choice(absent))
    return queried

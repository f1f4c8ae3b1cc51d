"""The one evaluator: a model, samples, a protocol's name; out come plain numbers. Train, test and tables call it."""
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.dataset import EvalBatch
from data.folds import Classes
from data.loader import Loader
from data.samples import Sample
from util.evaluation.metric import IGNORE, Counts, Tally, auc, count
from util.runtime.processes import SINGLE_PROCESS, Processes
from util.runtime.progress import progress


class Prediction(NamedTuple):
    """One sample at its original size."""
    sample: Sample
    image: Tensor           # (3, S, S) uint8 as the network saw it, with padding, or (3, height, width) where cut
    inner: tuple[int, int]  # (height, width) of it that the image fills
    mask: np.ndarray        # (H, W) uint8 of class ids
    evidence: Tensor        # (H, W) float32, on the device: foreground minus background logit; foreground where positive
    prior: Tensor           # (1, h, w) in 0..1, on the device
    counts: Counts          # what the evidence got right of the sample's class


@torch.inference_mode()
def predict(model, text, loader: Loader, device, autocast, label: str, asked: dict | None = None) -> Iterator[Prediction]:
    """Predictions in the order of the samples.

    Args:
        model: callable (images uint8 (B, 3, S, S), text of B names) -> object with ``logits`` and ``prior``; for
            batches to ``cut`` it takes a part of S x S, and has a ``patch``.
        text: the embeddings of all names, row = class id - 1, on ``device``.
        asked: {sample: class id whose name is given instead of the sample's own}.
    """
    was_training = model.training
    model.eval()
    try:
        for batch in progress(loader, label):
            yield from _predict_batch(model, text, batch, device, autocast, asked)
    finally:
        model.train(was_training)


def _predict_batch(model, text, batch: EvalBatch, device, autocast, asked) -> list[Prediction]:
    ids = [asked[sample] if asked else sample.class_id for sample in batch.samples]
    seen, evidence, priors = ([None] * len(ids) for _ in range(3))
    for at, images in batch.windows(model, batch.images.to(device, non_blocking=True)):
        rows = torch.tensor([ids[place] for place in at], device=device) - 1
        with autocast:
            output = model(images, text[rows])
        height, width = images.shape[2:]
        differences = output.logits[:, 1] - output.logits[:, 0]              # (b, height, width)
        for place, e, prior in zip(at, differences, output.prior):
            evidence[place] = batch.back(e, batch.inner[place], batch.masks[place].shape)
            priors[place], seen[place] = prior, batch.images[place, :, :height, :width]
    counts = torch.stack([count(e > 0, torch.from_numpy(mask).to(device, non_blocking=True), sample.class_id)
                          for e, mask, sample in zip(evidence, batch.masks, batch.samples)])
    return [Prediction(*parts, Counts(*numbers)) for *parts, numbers in zip(
        batch.samples, seen, batch.inner, batch.masks, evidence, priors, counts.tolist())]


def evaluate(predictions: Iterable[Prediction], class_ids: tuple[int, ...], classes: Classes, protocol: str,
             name_auc: bool = False, draws: list[list[Sample]] | None = None, processes: Processes = SINGLE_PROCESS) -> dict:
    """Score predictions of ``class_ids``: those of all processes, for all, if each gives its share of the samples.

    draws: lists of samples to be scored each by itself, a sample as often as it stands there, so that it need be
        predicted only once; None: every prediction once.
    Returns protocol, samples, miou, fb_iou and per_class {name: IoU}, all IoUs in percent and means over the draws; of
    several draws also miou_std, the sample standard deviation, and draws, the mIoU of each. With ``name_auc`` the
    mean, over samples that show another object, of the AUC of the evidence on the named object's pixels against
    the other objects' pixels (0..1; 0.5 is a name that decides nothing).
    """
    times = [Counter(draw) for draw in draws] if draws else None
    tallies, areas, count = [Tally(class_ids) for _ in draws or [None]], [], 0
    judged = [(p.sample, p.counts, _name_auc(p) if name_auc else None) for p in predictions]
    for sample, counts, area in processes.whole(judged):
        weights = [counter[sample] for counter in times] if times else [1]
        count += weights[0]
        for tally, weight in zip(tallies, weights):
            tally.add(counts, sample.class_id, weight)
        if area is not None:
            areas += [area] * weights[0]
    mious = [100 * tally.miou for tally in tallies]
    per_class = [tally.per_class() for tally in tallies]
    scores = {
        "protocol": protocol, "samples": count,
        "miou": float(np.mean(mious)), "fb_iou": 100 * float(np.mean([tally.fb_iou for tally in tallies])),
        "per_class": {classes.name(c): 100 * float(np.mean([iou[c] for iou in per_class if c in iou]))
                      for c in class_ids if any(c in iou for iou in per_class)},
    }
    if len(mious) > 1:
        scores["miou_std"], scores["draws"] = float(np.std(mious, ddof=1)), mious
    if name_auc:
        scores["name_auc"] = float(np.mean(areas)) if areas else None
        scores["name_auc_samples"] = len(areas)
    return scores


def _name_auc(p: Prediction) -> float | None:
    """None where the image shows no other object."""
    evidence = p.evidence.cpu().numpy()
    named = evidence[p.mask == p.sample.class_id]
    others = evidence[(p.mask != p.sample.class_id) & (p.mask != 0) & (p.mask != IGNORE)]
    return auc(named, others) if len(named) and len(others) else None


def absent_names(samples: list[Sample], present: np.ndarray, class_ids: tuple[int, ...], seed: int) -> dict[Sample, int]:
    """For each sample an unseen class that its image does not show at all; samples without one are left out.

    present: (N, K + 1) pixels of each class in each image of the list.
    """
    asked = {}
    for sample in samples:
        absent = [c for c in class_ids if present[sample.row, c] == 0]
        if absent:
            rng = np.random.default_rng((seed, sample.row, sample.class_id))
            asked[sample] = int(rng.choice(absent))
    return asked

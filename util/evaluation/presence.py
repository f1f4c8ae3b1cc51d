"""Image-level presence of the named class: calibration of its threshold, and its scores."""
from dataclasses import replace

import numpy as np

from data.fold import FoldData
from data.samples import Sample
from util.evaluation.evaluate import SampleScore, absent_classes, evaluate
from util.evaluation.metric import auc, percent
from util.evaluation.predictor import Predictor


def calibrate(predict: Predictor, data: FoldData, samples: list[Sample]) -> float | None:
    """Calibrate the presence threshold on *seen* classes alone, present and absent; None where none is ever absent."""
    queried = absent_classes(samples, data.index.pixels, data.seen, data.cfg.eval.seed)
    present = evaluate(predict, data.loader(samples), data.seen, data.classes, "exhaustive",
                       label="present seen names").results
    absent = evaluate(replace(predict, queried_class=queried), data.loader(list(queried)), data.seen, data.classes,
                      "exhaustive", label="absent seen names").results
    return best_threshold(*(np.array([r.presence for r in results]) for results in (present, absent)))


def best_threshold(present: np.ndarray, absent: np.ndarray) -> float | None:
    """Find the (lowest) threshold of best balanced accuracy; None where ``present`` or ``absent`` is empty."""
    if not len(present) or not len(absent):
        return None
    values = np.unique(np.concatenate([present, absent]))
    places = np.concatenate([values[:1], (values[:-1] + values[1:]) / 2])
    shares = [(present >= place).mean() + (absent < place).mean() for place in places]
    return float(places[int(np.argmax(shares))])


def presence_scores(present: list[SampleScore], absent: list[SampleScore], threshold: float | None) -> dict:
    """Score presence over samples under their own name and under a name absent from the image.

    presence_auroc: 0..1, None without absent names. absent_empty, present_empty: percent of names answered with an
    empty mask, because no pixel is foreground or presence lies below ``threshold`` (None: the first alone).
    """
    def empty(results: list[SampleScore]) -> float | None:
        answers = [not r.counts.guessed or threshold is not None and r.presence < threshold for r in results]
        return percent(float(np.mean(answers))) if answers else None

    auroc = auc(*(np.array([r.presence for r in results]) for results in (present, absent))) if absent else None
    return {"presence_auroc": auroc, "absent_empty": empty(absent), "present_empty": empty(present),
            "presence_threshold": threshold}

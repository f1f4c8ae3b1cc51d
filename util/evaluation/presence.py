"""Is the named thing in the image at all? A number for each prediction, and the threshold between yes and no."""
from dataclasses import replace

import numpy as np

from data.fold import FoldData
from data.samples import Sample
from util.evaluation.evaluate import Result, absent_classes, evaluate
from util.evaluation.metric import auc, percent
from util.evaluation.predict import Predictor


def calibrate(predict: Predictor, data: FoldData, samples: list[Sample]) -> float | None:
    """The threshold of presence, from held-out ``samples`` of *seen* classes, and from absent seen names there.

    No unseen class has a say. None where every image shows every seen class.
    """
    queried = absent_classes(samples, data.index.pixels, data.seen, data.cfg.eval.seed)
    present = evaluate(predict, data.loader(samples), data.seen, data.classes, "exhaustive",
                       label="present seen names", processes=data.processes).results
    absent = evaluate(replace(predict, queried_class=queried), data.loader(list(queried)), data.seen, data.classes,
                      "exhaustive", label="absent seen names", processes=data.processes).results
    return best_threshold(*(np.array([r.presence for r in results]) for results in (present, absent)))


def best_threshold(present: np.ndarray, absent: np.ndarray) -> float | None:
    """Where the mean of two shares is highest: of ``present`` at or above it, and of ``absent`` below it.

    It lies in the middle between two neighbouring values; the lowest such place counts, which finds more. None where
    one of the two is empty.
    """
    if not len(present) or not len(absent):
        return None
    values = np.unique(np.concatenate([present, absent]))
    places = np.concatenate([values[:1], (values[:-1] + values[1:]) / 2])
    shares = [(present >= place).mean() + (absent < place).mean() for place in places]
    return float(places[int(np.argmax(shares))])


def presence_scores(present: list[Result], absent: list[Result], threshold: float | None) -> dict:
    """What results say of presence, over samples under their own name and under one that the image does not show.

    presence_auroc (0..1): chance that a present name has more presence than an absent one; None where there is none.
    absent_empty, present_empty (percent): names answered with an empty mask, because no pixel is foreground or because
    presence lies below ``threshold``; without a threshold for the first reason alone.
    """
    def empty(results: list[Result]) -> float | None:
        answers = [not r.counts.guessed or threshold is not None and r.presence < threshold for r in results]
        return percent(float(np.mean(answers))) if answers else None

    auroc = auc(*(np.array([r.presence for r in results]) for results in (present, absent))) if absent else None
    return {"presence_auroc": auroc, "absent_empty": empty(absent), "present_empty": empty(present),
            "presence_threshold": threshold}

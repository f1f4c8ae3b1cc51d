"""The evaluator: at the original size, the same in any batches, counting what it should."""
from contextlib import nullcontext, suppress

import numpy as np
import pytest
import torch
from painted import paint

from data.dataset import EvalDataset, eval_loader
from data.folds import Classes
from data.samples import Sample, exhaustive
from data.transform import FITS
from util.evaluation.evaluate import SampleScore, absent_classes, by_size, evaluate
from util.evaluation.metric import Counts
from util.evaluation.predictor import Predictor
from util.runtime.errors import UserError


class Oracle(torch.nn.Module):
    """Foreground where the red channel holds the class id that the "text" names: 10 times the id."""

    def forward(self, images, text):
        red = images[:, 0].float()
        hit = ((red - 10 * text.view(-1, 1, 1)).abs() < 5).float()
        out = torch.stack([1 - hit, hit], dim=1)
        return type("Out", (), {"logits": out, "prior": hit[:, None], "presence": None})


@pytest.fixture
def painted(tmp_path):
    index = paint(tmp_path, [(64, 64), (64, 40), (30, 64), (64, 64)])
    return tmp_path, index, Classes(["a", "b", "c"], ((1, 2, 3),))


def evaluated(painted, batch_size=2, workers=0, samples=None, queried_class=None, model=None, **options):
    root, index, classes = painted
    dataset = EvalDataset(root, index, samples or exhaustive(index, (1, 2, 3), 1), 3, 64, (0, 0, 0))
    predict = Predictor(model or Oracle(), torch.tensor([1.0, 2.0, 3.0]), FITS["described"], torch.device("cpu"),
                        nullcontext(), queried_class)
    return evaluate(predict, eval_loader(dataset, batch_size, workers), (1, 2, 3), classes, "exhaustive", **options)


def test_an_oracle_scores_a_hundred_at_every_size(painted):
    scores = evaluated(painted, name_auc=True).scores
    assert scores["samples"] == 8 and scores["protocol"] == "exhaustive"
    assert scores["miou"] == scores["fb_iou"] == 100 and set(scores["per_class"]) == {"a", "b", "c"}
    assert scores["name_auc"] == 1 and scores["name_auc_samples"] == 8


def test_what_is_found_under_a_name_is_counted_by_what_it_shows(painted):
    """Each distinct sample once, ignored pixels nowhere; scores are means over the draws."""
    class Twice(Oracle):
        def forward(self, images, text):  # the class itself and, in full, the row of 255 and one of background below
            out = super().forward(images, text)
            out.logits[:, 1, 3:5] = 2
            return out

    one, two = samples = [Sample(0, 1), Sample(3, 2)]     # both of 64 x 64, which no resizing blurs
    scores, _, results = evaluated(painted, samples=samples, model=Twice(), draws=[samples * 3, [one]])
    assert scores["confusion"] == {"a": {"background": 64, "a": 300, "b": 0, "c": 0},
                                   "b": {"background": 64, "a": 0, "b": 300, "c": 0}}
    assert [(r.sample, r.counts.iou) for r in results] == [(one, 300 / 364), (two, 300 / 364)]
    assert scores["draws"] == pytest.approx([100 * 300 / 364] * 2) and scores["miou_std"] == pytest.approx(0)
    assert scores["samples"] == 6


def test_scores_by_size_are_those_of_each_quarter():
    """Areas 1 to 8 of two classes; what is larger than 4 px is found by half, the rest missed."""
    results = [SampleScore(Sample(k, 1 + k % 2), Counts(area // 2 * (area > 4), area // 2 * (area > 4), area, 100), 0,
                           None, np.zeros(4, int)) for k, area in enumerate((8, 3, 1, 6, 5, 2, 7, 4))]
    found = by_size(results, (1, 2, 3))
    assert [part["largest"] for part in found] == [2, 4, 6, 8]
    assert [part["miou"] for part in found] == pytest.approx([0, 0, 100 * (2 / 5 + 3 / 6) / 2, 100 * 7 / 15])
    assert by_size(results[:1], (1, 2)) == [{"largest": 8, "miou": 50}]


@pytest.mark.parametrize("batch_size, workers", [(1, 0), (8, 0), (3, 2)])
def test_batches_and_workers_change_nothing(painted, batch_size, workers):
    assert evaluated(painted, batch_size, workers).scores == evaluated(painted).scores


def test_the_name_of_an_absent_class_finds_nothing(painted):
    _, index, _ = painted
    samples = exhaustive(index, (1, 2), 1)
    queried = absent_classes(samples, index.pixels, (1, 2), seed=0)
    assert queried == {Sample(0, 1): 2, Sample(1, 2): 1, Sample(2, 1): 2, Sample(3, 2): 1}
    assert evaluated(painted, samples=samples, queried_class=queried).scores["miou"] == 0


def test_predictions_of_the_samples_to_keep_are_returned(painted):
    samples = exhaustive(painted[1], (3,), 1)
    scores, kept, results = evaluated(painted, samples=samples, keep=samples[2:0:-1])
    assert scores["samples"] == len(samples) == len(results) and list(kept) == samples[2:0:-1]
    p = kept[samples[1]]
    assert p.mask.shape == tuple(p.margin.shape) == (64, 40) and p.sample == samples[1]
    assert p.image.untyped_storage().nbytes() == p.image.numel(), "not a view that keeps its batch alive"


class Broken(Oracle):
    """Gives NaN, as weights that are not finite do."""

    def forward(self, images, text):
        out = super().forward(images, text)
        out.logits[-1, 1, 3, 5] = float("nan")
        return out


def test_logits_that_are_not_finite_end_the_evaluation(painted):
    with pytest.raises(UserError, match="not finite"):
        evaluated(painted, model=Broken())


@pytest.mark.parametrize("kind", [Oracle, Broken])
@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_s_mode_alone(painted, kind, training):
    model = kind().train(training)
    with suppress(UserError):
        evaluated(painted, model=model)
    assert model.training == training

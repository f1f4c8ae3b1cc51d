"""Is the named thing there at all: the score by hand, the threshold, and what results say of both."""
import numpy as np
import pytest
import torch

from data.samples import Sample
from util.evaluation.evaluate import SampleScore
from util.evaluation.metric import Counts
from util.evaluation.predictor import presence_of
from util.evaluation.presence import best_threshold, presence_scores


def test_presence_is_the_mean_of_the_highest_margins_and_of_what_the_model_says():
    margin = torch.full((2, 32, 48), -5.0)              # 1,536 pixels: six of them count
    margin[0, 3, 4:9] = torch.tensor([1.0, 2, 3, 4, 5])
    margin[1, 7, 7:20] = 2.0
    assert presence_of(margin).tolist() == pytest.approx([10 / 6, 2.0])
    assert presence_of(margin, torch.tensor([-1.0, -0.5])).tolist() == pytest.approx([1 / 3, 0.75])
    assert presence_of(torch.tensor([[3.0]])).item() == 3  # an image of one pixel


@pytest.mark.parametrize("present, absent, threshold", [
    ([2, 3, 4], [-1, 0, 1], 1.5),
    ([1, 3], [0, 2], 0.5),           # 2.5 is as good, and finds fewer
    ([1], [1], 1.0),
    ([], [1], None), ([1], [], None)])
def test_the_threshold_is_where_both_shares_together_are_highest(present, absent, threshold):
    assert best_threshold(np.array(present, float), np.array(absent, float)) == threshold


def results(*answers) -> list[SampleScore]:
    return [SampleScore(Sample(row, 1), Counts(0, guessed, 10, 100), is_there, None, np.zeros(2))
            for row, (guessed, is_there) in enumerate(answers)]


def test_a_name_is_answered_with_an_empty_mask_by_either_reason():
    present, absent = results((5, 3.0), (5, 1.0), (0, 2.0), (5, 4.0)), results((0, -1.0), (5, 1.5), (5, -2.0))
    assert presence_scores(present, absent, 0.0) == {
        "presence_auroc": pytest.approx(11 / 12), "absent_empty": pytest.approx(200 / 3), "present_empty": 25.0,
        "presence_threshold": 0.0}
    assert presence_scores(present, absent, None)["absent_empty"] == pytest.approx(100 / 3)
    assert presence_scores(present, absent, 3.5)["present_empty"] == 75.0
    assert presence_scores(present, [], 0.0) == {"presence_auroc": None, "absent_empty": None, "present_empty": 25.0,
                                                 "presence_threshold": 0.0}

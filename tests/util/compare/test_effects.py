"""python -m util.compare.effects on runs made by hand whose effects are known."""
import itertools
import sys

import numpy as np
import pytest

from util.compare import effects
from util.compare.effects import fit, switched
from util.compare.runs import find, read
from util.runtime.errors import UserError

TRUE = {"a": -5.0, "b": 2.0, "c": 0.5, "d": 0.0}


def half_of_sixteen(made):
    """Four options in eight runs, d = a xor b xor c, two in each of four folds; every option once each way in a fold.
    And all of it again, so that there is an error to estimate.
    """
    for a, b, c, again in itertools.product((0, 1), repeat=4):
        on, fold = {"a": a, "b": b, "c": c, "d": a ^ b ^ c}, 2 * (a ^ b) + (a ^ c)
        score = 40 + 3 * fold + sum(TRUE[k] * on[k] for k in on)
        seen = {"epoch": 2, "miou": score, "fb_iou": 0, "seen_miou": 60 + on["b"], "protocol": "episodic",
                "samples": 1000, "per_class": {}}
        made("any", fold, score, run="".join(map(str, [*on.values(), again])),
             selections={"unseen": seen},
             config={"model": {k: ["off", "on"][v] for k, v in on.items()}, "loss": {"twin": 7 * on["c"]},
                     "train": {"select": "unseen"}})


def results(made):
    return [read(file) for file in find([made.exp])]


def test_known_effects_come_back(made):
    half_of_sixteen(made)
    options, on = switched(results(made))
    assert on.shape == (16, 4) and on[0].sum() == 0 and (on.sum(0) == 8).all()
    change, error, free = fit(options, on, [r.fold for r in results(made)], [r.miou for r in results(made)])
    names = [sorted(option) for option in options]
    assert sorted(names) == [["loss.twin", "model.c"], ["model.a"], ["model.b"], ["model.d"]]  # as one is one
    assert {n[-1][-1]: effect for n, effect in zip(names, change)} == pytest.approx(TRUE, abs=1e-9)
    assert error == pytest.approx([0] * 4, abs=1e-9) and free == 16 - 4 - 4


def test_standard_errors_by_hand():
    """Two options crossed, twice over in one fold: an effect is a difference of two means of four."""
    on = np.array([*itertools.product((0, 1), repeat=2)] * 2, float)
    scores = np.array([1, 2, 3, 4, 3, 2, 5, 8], float)
    change, error, free = fit([{"a": (0, 1)}, {"b": (0, 1)}], on, [0] * 8, list(scores))
    assert change == pytest.approx([5 - 2, 4 - 3]) and free == 5
    left = scores - (scores.mean() + (on - 0.5) @ [3, 1])
    assert error == pytest.approx([(left @ left / 5 * (1 / 4 + 1 / 4)) ** 0.5] * 2)


def test_the_table_names_options_values_and_scores(made, monkeypatch, capsys):
    half_of_sixteen(made)
    monkeypatch.setattr(sys, "argv", ["effects", str(made.exp)])
    effects.main()
    out = capsys.readouterr().out
    assert "| option | unseen mIoU | seen mIoU, held out |" in out
    assert "| model.a: off -> on | -5.0 ± 0.0 | " in out and "| model.b: off -> on | +2.0 ± 0.0 | +1.0 ± 0.0 |" in out
    assert "| loss.twin: 0 -> 7; model.c: off -> on | +0.5 ± 0.0 |" in out
    assert "16 runs in 4 folds, episodic protocol, epochs selected by unseen. ±: standard error, 8 degrees" in out


def test_what_runs_cannot_tell_apart_is_refused():
    on = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], float)
    with pytest.raises(UserError, match="cannot tell b from the folds"):
        fit([{"a": (0, 1)}, {"b": (0, 1)}], on, [0, 0, 1, 1], [1, 2, 3, 4])
    with pytest.raises(UserError, match="3 runs are too few for 2 options and 1 folds; give 4 or more"):
        fit([{"a": (0, 1)}, {"b": (0, 1)}], on[:3], [0] * 3, [1, 2, 3])


def test_runs_without_a_difference_or_with_three_values_are_refused(made):
    made("any", 0, 40)
    made("any", 1, 41)
    with pytest.raises(UserError, match="differ in no option"):
        switched(results(made))
    for fold, rank in ((2, 4), (3, 8)):
        made("any", fold, 42, config={"model": {"branch_rank": rank}})
    with pytest.raises(UserError, match=r"model.branch_rank has more than two values among the runs \(2, 4, 8\)"):
        switched(results(made))


@pytest.mark.parametrize("odd, what", [
    ({"protocol": "exhaustive"}, "protocol"), ({"not_zero_shot": "x"}, "being zero-shot"),
    ({"clip_fingerprint": "x"}, "CLIP weights"), ({"trained_on": {"train_classes": "ignore"}}, "trained on")])
def test_runs_that_are_not_comparable_are_refused(odd, what, made):
    made("any", 0, 40)
    made("any", 1, 41, **odd)
    with pytest.raises(UserError, match=f"differ in {what}"):
        switched(results(made))

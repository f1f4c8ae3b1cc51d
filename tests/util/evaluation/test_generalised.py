"""One label a pixel out of all classes: shared work changes no number, the rule and the scores by hand. The script is
tested with ESDA+ (tests/scripts/test_plus.py).
"""
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runs import complains, in_process

from data.dataset import EvalBatch
from data.folds import Classes
from data.samples import Sample
from data.transform import FITS
from model.build import build_model, embed_classes
from model.clip.weights import build_clip, read_clip
from util.config import CONFIGS, ROOT, Config, load
from util.evaluation import generalised
from util.evaluation.generalised import Labeller, evaluate_generalised
from util.evaluation.metric import harmonic

NAMES = Classes.read(ROOT / "lists/shapes/classes.yaml").names


@pytest.fixture(params=["[1, 2, 3]", "[3]", "[]"])
def model_and_text(request, tiny_clip):
    torch.manual_seed(0)
    cfg = load(Config, CONFIGS / "base.yaml", [f"model.clip={tiny_clip}", "model.size=64",
                                               f"model.replace_indices={request.param}"])
    model = build_model(cfg)
    for branch in model.image_encoder.branches.values():
        torch.nn.init.normal_(branch.up, std=0.05)  # at the start the branches are silent
    return model.eval(), embed_classes(model, NAMES, (), cfg)


@pytest.mark.parametrize("chunk", [1, 7, 20])
@torch.inference_mode()
def test_sharing_the_blocks_before_the_text_changes_no_number(model_and_text, chunk):
    model, text = model_and_text
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    together = torch.cat(list(model.all_names(images, text, chunk)), dim=1)
    assert together.shape == (2, 20, 64, 64)
    for k in (0, 6, 7, 19):
        logits = model(images, text[torch.tensor([k, k])]).logits
        torch.testing.assert_close(together[:, k], logits[:, 1] - logits[:, 0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_region_s_class_is_clip_s_own_verdict(model_and_text, tiny_clip):
    """A name found in two patches and in nothing else: these two, averaged and classified by CLIP."""
    model, text = model_and_text
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    clip = build_clip(read_clip(tiny_clip), 64).eval()
    patches = F.normalize(clip.visual.project(clip.visual(model.normalise(images))[:, 1:]), dim=-1)
    margins = torch.full((2, 3, 64, 64), -50.0)
    margins[:, :, :8, :16] = 50.0                      # the first two patches
    found = model.region_log_prob(model.clip_patches(images, None), margins, text, first=4)
    region = F.normalize(patches[:, 0] + patches[:, 1], dim=-1)
    expected = (clip.logit_scale.exp() * region @ F.normalize(text.cls, dim=-1).T).log_softmax(-1)[:, 4:7]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


class Known(torch.nn.Module):
    """Margins and log-probabilities as they are told: names 1 and 2 on the left and the right, name 3 everywhere."""

    def __init__(self, log_prob: float, own: list[float] | None = None, edge: float = 2.0):
        super().__init__()
        self.log_prob, self.own, self.presence_head, self.edge = log_prob, own, own, edge

    def before_names(self, images):
        return "shared"

    def names_and_presence(self, images, text, chunk, shared):
        margins = torch.full((len(images), 3, 4, 4), -1.0)
        margins[:, 0, :2, :2], margins[:, 1, :2, 2:], margins[:, 2, :3] = 1.0, 1.0, 2.0
        margins[:, 2, :3, 3] = self.edge
        for first in range(0, 3, chunk):
            yield margins[:, first:first + chunk], self.own and torch.tensor([self.own])[:, first:first + chunk]

    def clip_patches(self, images, shared):
        assert shared == "shared"
        return images

    def region_log_prob(self, patches, margins, text, first):
        return torch.tensor([[0.0, 0.0, self.log_prob]])[:, first:first + margins.shape[1]]


@pytest.mark.parametrize("log_prob, third", [(0.0, 3), (-1.5, 3), (-3.0, 0)])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_a_name_that_is_not_in_the_image_must_make_up_for_it(log_prob, third, chunk, monkeypatch):
    """Name 3's margin of 2 less what its absence costs: above 1 it takes all three rows, above 0 the third alone."""
    batch = EvalBatch(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [(4, 4)], [np.zeros((4, 4), np.uint8)],
                      [Sample(0, 0)])
    monkeypatch.setattr(generalised, "at_once", lambda *_: chunk)
    monkeypatch.setattr("util.evaluation.predictor.at_once", lambda *_: None)
    text = type("Text", (), {"cls": torch.zeros(3, 2)})
    labels, = Labeller(Known(log_prob), text, FITS["described"], torch.device("cpu"), nullcontext())(batch)
    top = [3, 3, 3, 3] if 2 + log_prob > 1 else [1, 1, 2, 2]
    assert labels.tolist() == [top, top, [third] * 4, [0] * 4]


def test_where_presence_is_calibrated_it_says_what_absence_costs():
    """Name 3's presence is (2 + own) / 2 less the threshold of 3; the padded last column takes no part in it."""
    batch = EvalBatch(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [(4, 3)], [np.zeros((4, 3), np.uint8)],
                      [Sample(0, 0)])
    text = type("Text", (), {"cls": torch.zeros(3, 2)})
    for own, top, third in ((9.0, 3, 3), (1.0, 1, 3), (0.0, 1, 0)):  # log-probabilities -0.1, -1.7 and -2.1
        model = Known(0.0, [50.0, 50.0, own], edge=90.0)
        labels, = Labeller(model, text, FITS["described"], torch.device("cpu"), nullcontext(), 3.0)(batch)
        assert labels.tolist() == [[top, top, max(2, top)]] * 2 + [[third] * 3, [0] * 3]
    labels, = Labeller(model, text, FITS["described"], torch.device("cpu"), nullcontext())(batch)
    assert labels.tolist() == [[3] * 3] * 3 + [[0] * 3]             # no threshold: CLIP's verdict, here none


def test_scores_by_hand():
    mask = np.array([[1, 1, 2, 2], [3, 3, 0, 255]], np.uint8)
    labels = np.array([[1, 1, 2, 0], [1, 3, 0, 3]])
    classes = Classes(["a", "b", "c", "d"], ((1,), (2,), (3,), (4,)))
    batch = EvalBatch(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [(2, 4)], [mask], [Sample(0, 0)])
    scores = evaluate_generalised(lambda batch: [labels], [batch], (2, 3, 4), (1,), classes)
    assert scores["miou"] == pytest.approx(100 * 2 / 3) and scores["seen_miou"] == pytest.approx(50)
    assert scores["hiou"] == pytest.approx(harmonic(200 / 3, 50))
    assert scores["pixel_accuracy"] == pytest.approx(100 * 5 / 7)
    assert scores["background_iou"] == pytest.approx(50) and scores["per_class"].keys() == {"a", "b", "c"}
    assert scores["fb_iou"] == pytest.approx((50 + 100 * 5 / 6) / 2)
    assert scores["confusion"] == {"a": {"background": 0, "a": 2, "b": 0, "c": 1, "d": 0}}


def test_a_model_whose_margins_cannot_be_compared_is_refused(tiny_options):
    complains(in_process("test.py", "--config", "config/shapes/everything.yaml", *tiny_options,
                         "eval.protocol=generalised"), "eval.protocol=generalised")

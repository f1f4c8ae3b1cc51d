"""eval.fit=cut: patches of padding alone stay out of the network, and nothing else changes."""
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from painted import paint

from data.dataset import EvalDataset, eval_loader
from data.folds import Classes
from data.samples import exhaustive
from data.transform import FITS
from model.build import build_model, embed_classes
from util.config import CONFIGS, Config, load
from util.evaluation.generalised import Labeller
from util.evaluation.pictures import pictures_of
from util.evaluation.predictor import Predictor, at_once

CPU, SIZE = torch.device("cpu"), 64
SHAPES = [(64, 64), (128, 80), (33, 66), (64, 64), (128, 80), (64, 45)]   # height, width
WINDOWS = [(64, 64), (64, 40), (32, 64), (64, 64), (64, 40), (64, 48)]    # of 64 x 64 in patches of 8, rounded up
CLASSES = Classes(["circle", "star", "key"], ((1, 2, 3),))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    return root, paint(root, SHAPES)


@pytest.fixture(scope="module")
def made(tiny_clip):
    """made(kind): a model whose untrained branches speak, and the embeddings of the three names."""
    def made(kind: str = "esda"):
        torch.manual_seed(0)
        cfg = load(Config, CONFIGS / "base.yaml", [f"model.clip={tiny_clip}", f"model.size={SIZE}",
                                                   f"model.kind={kind}"])
        cfg.model.replace_indices = [1]
        model = build_model(cfg)
        if kind == "esda":
            for branch in model.image_encoder.branches.values():
                torch.nn.init.normal_(branch.up, std=0.05)
        return model.eval(), embed_classes(model, CLASSES.names, (), cfg)
    return made


def loader(pictures, fit, batch_size, fill=(0, 0, 0)):
    root, index = pictures
    dataset = EvalDataset(root, index, exhaustive(index, (1, 2), 1), 3, SIZE, fill, FITS[fit])
    return eval_loader(dataset, batch_size, 0)


def predictions(model, text, pictures, fit, *args):
    predict = Predictor(model, text, FITS[fit], CPU, nullcontext())
    return [p for batch in loader(pictures, fit, *args) for p in predict(batch)]


def close(a, b):
    assert [p.sample for p in a] == [p.sample for p in b]
    for p, q in zip(a, b):
        torch.testing.assert_close(p.margin, q.margin, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(p.prior, q.prior, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["esda", "naclip", "everything"])
def test_mixed_sizes_come_out_in_order_whatever_the_batch(kind, made, pictures):
    model, text = made(kind)
    together, alone = (predictions(model, text, pictures, "cut", size) for size in (6, 1))
    close(together, alone)
    assert [p.margin.shape for p in together] == [p.mask.shape for p in together] == SHAPES
    assert [p.image.shape[1:] for p in together] == WINDOWS
    if kind != "everything":
        assert [tuple(p.prior.shape) for p in together] == [(1, height // 8, width // 8) for height, width in WINDOWS]
    whole = predictions(model, text, pictures, "described", 1)
    for k in (0, 3):    # square: what they were
        assert torch.equal(alone[k].margin, whole[k].margin) and torch.equal(alone[k].prior, whole[k].prior)


def test_no_patch_sees_another_of_padding(made, pictures):
    """The padding's colour: every patch attends to it as described. Both pictures fill whole patches of 8."""
    model, text = made()
    for fit, sees in (("cut", False), ("described", True)):
        black, white = (predictions(model, text, pictures, fit, 2, (c, c, c)) for c in (0, 255))
        for k in (1, 2):
            assert torch.equal(black[k].margin, white[k].margin) == (not sees)


def test_patches_keep_the_positions_that_they_have_in_the_square(made):
    encoder = made()[0].image_encoder
    images = torch.rand(1, 3, SIZE, SIZE)
    whole = encoder.embed(images)[:, 1:].unflatten(1, (8, 8))
    torch.testing.assert_close(encoder.embed(images[..., :40, :56])[:, 1:], whole[:, :5, :7].flatten(1, 2))


def test_generalised_labels_do_not_depend_on_the_batch(made, pictures):
    model, text = made()
    model.decoder.cls[-1].weight.data *= 300    # untrained, it finds nothing
    label_images = Labeller(model, text, FITS["cut"], CPU, nullcontext())
    found = [[pair for batch in loader(pictures, "cut", size) for pair in zip(label_images(batch), batch.masks)]
             for size in (6, 1)]
    for (labels, mask), (alone, its) in zip(*found, strict=True):
        assert np.array_equal(mask, its) and labels.shape == mask.shape and np.mean(labels == alone) > 0.999
    assert len({int(c) for labels, _ in found[0] for c in np.unique(labels)}) > 1


def test_pictures_are_those_of_the_whole_image_with_the_prior_over_it(made, pictures):
    model, text = made()
    cut, whole = (predictions(model, text, pictures, fit, 4) for fit in ("cut", "described"))
    for a, b in zip(map(pictures_of, cut), map(pictures_of, whole), strict=True):
        assert np.array_equal(a["image"], b["image"]) and {p.shape for p in a.values()} == {b["image"].shape}
    lower = torch.zeros(1, 4, 8)
    lower[:, 2:] = 1
    prior = pictures_of(cut[2]._replace(prior=lower))["prior"]  # of the wide one
    top, bottom = prior[:len(prior) // 4], prior[-len(prior) // 4:]
    assert (top == top[0, 0]).all() and (bottom == bottom[0, 0]).all() and (top[0, 0] != bottom[0, 0]).any()


# How many images go through the network together

def test_large_inputs_go_one_by_one_on_a_cpu_and_change_no_number(made, pictures, monkeypatch):
    model, text = made()
    calls = []
    model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    together = predictions(model, text, pictures, "described", 6)
    monkeypatch.setattr("util.evaluation.predictor.PIXELS_AT_ONCE", SIZE * SIZE)
    close(together, predictions(model, text, pictures, "described", 6))
    assert calls == [6, *[1] * 6]


def test_only_a_cpu_in_fp32_takes_fewer_than_there_are():
    bf16 = torch.autocast("cpu", torch.bfloat16)
    assert [at_once(side, side, CPU, nullcontext()) for side in (480, 1000, 240, 128)] == [1, 1, 4, 14]
    assert at_once(480, 480, CPU, bf16) is None and at_once(480, 480, torch.device("cuda"), nullcontext()) is None

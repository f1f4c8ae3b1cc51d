"""eval.fit=cut: patches of padding alone stay out of the network, and nothing else changes."""
from contextlib import nullcontext

import cv2
import numpy as np
import pytest
import torch

from data.dataset import EvalDataset, eval_loader
from data.folds import Classes
from data.index import read_index
from data.samples import exhaustive
from data.transform import FITS
from model.build import build_model, embed_names
from util.config import BASE, Config, load
from util.evaluation.generalised import Labeller
from util.evaluation.predict import Predictor, at_once
from util.results.pictures import pictures_of

CPU, SIZE = torch.device("cpu"), 64
SHAPES = [(64, 64), (128, 80), (33, 66), (64, 64), (128, 80), (64, 45)]   # height, width
WINDOWS = [(64, 64), (64, 40), (32, 64), (64, 64), (64, 40), (64, 48)]    # of 64 x 64 in patches of 8, rounded up
CLASSES = Classes(["circle", "star", "key"], ((1, 2, 3),))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noise with one object an image, of the sizes of SHAPES, and their index."""
    root, rng, lines = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for i, shape in enumerate(SHAPES):
        mask = np.zeros(shape, np.uint8)
        mask[5:25, 5:20] = 1 + i % 3
        cv2.imwrite(str(root / f"{i}.png"), rng.integers(0, 256, (*shape, 3)).astype(np.uint8))
        cv2.imwrite(str(root / f"{i}_mask.png"), mask)
        lines.append(f"{i}.png {i}_mask.png\n")
    (root / "list.txt").write_text("".join(lines))
    return root, read_index(root, root / "list.txt", 3)


@pytest.fixture(scope="module", params=["esda", "maskclip", "naclip", "everything"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def made(tiny_clip):
    """made(kind): a model whose untrained branches speak, and the embeddings of the three names."""
    def made(kind: str):
        torch.manual_seed(0)
        options = load(Config, BASE, [f"model.clip={tiny_clip}", f"model.size={SIZE}", f"model.kind={kind}",
                                      "model.replace_indices=[1]"]).model
        model, _ = build_model(options)
        if kind == "esda":
            for branch in model.image_encoder.branches.values():
                torch.nn.init.normal_(branch.up, std=0.05)
        return model.eval(), embed_names(model.text_encoder, CLASSES.names, options)
    return made


def loader(pictures, fit, batch_size, fill=(0, 0, 0)):
    root, index = pictures
    dataset = EvalDataset(root, index, exhaustive(index, (1, 2, 3), 1), 3, SIZE, fill, FITS[fit])
    return eval_loader(dataset, batch_size, 0)


def predictions(model, text, pictures, fit, *args):
    predict = Predictor(model, text, FITS[fit], CPU, nullcontext())
    return [p for batch in loader(pictures, fit, *args) for p in predict(batch)]


def same(a, b, **tolerance):
    assert [p.sample for p in a] == [p.sample for p in b]
    for p, q in zip(a, b):
        torch.testing.assert_close(p.evidence, q.evidence, **tolerance)
        torch.testing.assert_close(p.prior, q.prior, **tolerance)


def test_mixed_sizes_come_out_in_order_whatever_the_batch(kind, made, pictures):
    model, text = made(kind)
    together, alone = (predictions(model, text, pictures, "cut", size) for size in (6, 1))
    same(together, alone, rtol=1e-4, atol=1e-5)
    assert [p.evidence.shape for p in together] == [p.mask.shape for p in together] == SHAPES
    if kind != "everything":  # whose patches are pixels
        assert [p.image.shape[1:] for p in together] == WINDOWS
        assert [tuple(p.prior.shape) for p in together] == [(1, height // 8, width // 8) for height, width in WINDOWS]


def test_a_square_image_is_what_it_was(kind, made, pictures):
    model, text = made(kind)
    cut, whole = (predictions(model, text, pictures, fit, 1) for fit in ("cut", "described"))
    for k in (0, 3):
        assert torch.equal(cut[k].evidence, whole[k].evidence) and torch.equal(cut[k].prior, whole[k].prior)


def test_no_patch_sees_another_of_padding(made, pictures):
    """The padding's colour: every patch attends to it as described. Both pictures fill whole patches of 8."""
    model, text = made("esda")
    for fit, sees in (("cut", False), ("described", True)):
        black, white = (predictions(model, text, pictures, fit, 2, (c, c, c)) for c in (0, 255))
        for k in (1, 2):
            assert torch.equal(black[k].evidence, white[k].evidence) == (not sees)


def test_patches_keep_the_positions_that_they_have_in_the_square(made):
    encoder = made("esda")[0].image_encoder
    images = torch.rand(1, 3, SIZE, SIZE)
    whole = encoder.embed(images)[:, 1:].unflatten(1, (8, 8))
    torch.testing.assert_close(encoder.embed(images[..., :40, :56])[:, 1:], whole[:, :5, :7].flatten(1, 2))


@pytest.mark.parametrize("presence", [0.0, 0.01])
def test_generalised_labels_do_not_depend_on_the_batch(made, pictures, presence):
    model, text = made("esda")
    label_images = Labeller(model, text, FITS["cut"], CPU, nullcontext(), presence, names_at_once=2)
    found = [[pair for batch in loader(pictures, "cut", size) for pair in zip(label_images(batch), batch.masks)]
             for size in (6, 1)]
    for (labels, mask), (alone, its) in zip(*found, strict=True):
        assert np.array_equal(mask, its) and labels.shape == mask.shape and np.mean(labels == alone) > 0.999
    assert len({int(c) for labels, _ in found[0] for c in np.unique(labels)}) > 1


def test_its_pictures_are_those_of_the_whole_image(made, pictures):
    model, text = made("esda")
    cut, whole = ([pictures_of(p) for p in predictions(model, text, pictures, fit, 4)] for fit in ("cut", "described"))
    for a, b in zip(cut, whole, strict=True):
        assert np.array_equal(a["image"], b["image"]) and {p.shape for p in a.values()} == {b["image"].shape}


def test_the_prior_lies_over_the_image_that_it_is_of(made, pictures):
    wide = predictions(*made("esda"), pictures, "cut", 4)[2]
    lower = torch.zeros(1, 4, 8)
    lower[:, 2:] = 1
    picture = pictures_of(wide._replace(prior=lower))["prior"]
    top, bottom = picture[:len(picture) // 4], picture[-len(picture) // 4:]
    assert (top == top[0, 0]).all() and (bottom == bottom[0, 0]).all() and (top[0, 0] != bottom[0, 0]).any()


# How many images go through the network together (util.evaluation.predict.at_once)

@pytest.mark.parametrize("fit", ["described", "cut"])
def test_large_inputs_go_one_by_one_on_a_cpu_and_change_no_number(kind, made, pictures, monkeypatch, fit):
    model, text = made(kind)
    calls = []
    hook = model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    together = predictions(model, text, pictures, fit, 6)
    assert max(calls) > 1 and sum(calls) == 6, "small inputs go together"
    monkeypatch.setattr("util.evaluation.predict.PIXELS_AT_ONCE", SIZE * SIZE)
    calls.clear()
    by_one = predictions(model, text, pictures, fit, 6)
    hook.remove()
    same(together, by_one, rtol=1e-4, atol=1e-5)
    assert fit == "cut" or calls == [1] * 6


def test_only_a_cpu_in_fp32_takes_fewer_than_there_are():
    bf16 = torch.autocast("cpu", torch.bfloat16)
    assert [at_once(side, side, CPU, nullcontext()) for side in (480, 1000, 240, 128)] == [1, 1, 4, 14]
    assert at_once(480, 480, CPU, bf16) is None and at_once(480, 480, torch.device("cuda"), nullcontext()) is None

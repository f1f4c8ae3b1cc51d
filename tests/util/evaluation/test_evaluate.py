"""The evaluator: at the original size, the same in any batches, counting what it should."""
import contextlib

import cv2
import numpy as np
import pytest
import torch

from data.dataset import EvalDataset, TrainBatches, TrainDataset, eval_loader, train_loader
from data.folds import Classes
from data.index import Index, read_index
from data.samples import Sample, exhaustive, train_images
from data.transform import FITS
from util.config import ROOT, Augment
from util.evaluation.evaluate import absent_classes, evaluate
from util.evaluation.predict import Predictor
from util.runtime.errors import UserError

PLAIN = contextlib.nullcontext()


class Oracle(torch.nn.Module):
    """Foreground where the red channel holds the class id that the "text" names: 10 times the id."""

    def forward(self, images, text):
        red = images[:, 0].float()
        hit = ((red - 10 * text.view(-1, 1, 1)).abs() < 5).float()
        out = torch.stack([1 - hit, hit], dim=1)
        return type("Out", (), {"logits": out, "prior": hit[:, None], "presence": None})


@pytest.fixture
def painted(tmp_path):
    """Pictures of several odd sizes whose red channel is 10 times the mask, and their index."""
    rng = np.random.default_rng(0)
    lines = []
    for i, (height, width) in enumerate([(64, 64), (64, 40), (30, 64), (64, 64)]):
        mask = np.zeros((height, width), np.uint8)
        mask[5:25, 5:20] = 1 + i % 2
        mask[5:25, 22:36] = 3
        mask[4, :] = 255
        blue, green = rng.integers(0, 255, (2, *mask.shape))
        image = np.stack([blue, green, 10 * (mask % 255)], axis=-1)
        cv2.imwrite(str(tmp_path / f"{i}.png"), image.astype(np.uint8))
        cv2.imwrite(str(tmp_path / f"{i}_mask.png"), mask)
        lines.append(f"{i}.png {i}_mask.png\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    return tmp_path, read_index(tmp_path, tmp_path / "list.txt", 3), Classes(["a", "b", "c"], ((1, 2, 3),))


def evaluated(painted, batch_size=2, workers=0, samples=None, queried_class=None, model=None, **options):
    root, index, classes = painted
    dataset = EvalDataset(root, index, samples or exhaustive(index, (1, 2, 3), 1), 3, 64, (0, 0, 0))
    predict = Predictor(model or Oracle(), torch.tensor([1.0, 2.0, 3.0]), FITS["described"], torch.device("cpu"), PLAIN,
                        queried_class)
    return evaluate(predict, eval_loader(dataset, batch_size, workers), (1, 2, 3), classes, "exhaustive", **options)


def scored(*args, **options):
    return evaluated(*args, **options).scores


def test_an_oracle_scores_a_hundred_at_every_size(painted):
    result = scored(painted, name_auc=True)
    assert result["samples"] == 8 and result["protocol"] == "exhaustive"
    assert result["miou"] == result["fb_iou"] == 100 and set(result["per_class"]) == {"a", "b", "c"}
    assert result["name_auc"] == 1 and result["name_auc_samples"] == 8


def test_what_is_marked_under_a_name_is_counted_by_what_it_shows(painted):
    """Each distinct sample once, ignored pixels nowhere; the scores are the same with and without it."""
    class Twice(Oracle):
        def forward(self, images, text):  # the class itself and, in full, the row of 255 and one of background below
            out = super().forward(images, text)
            out.logits[:, 1, 3:5] = 2
            return out

    samples = [Sample(0, 1), Sample(3, 2)]     # both of 64 x 64, which no resizing blurs
    scores = scored(painted, samples=samples, model=Twice(), marked=True, draws=[samples * 3, samples[:1]])
    assert scores.pop("marked") == {"a": {"background": 64, "a": 300, "b": 0, "c": 0},
                                    "b": {"background": 64, "a": 0, "b": 300, "c": 0}}
    assert scores == scored(painted, samples=samples, model=Twice(), draws=[samples * 3, samples[:1]])
    found = evaluated(painted, samples=samples, model=Twice()).results
    assert [(r.sample, r.counts.iou) for r in found] == [(sample, 300 / 364) for sample in samples]


@pytest.mark.parametrize("batch_size, workers", [(1, 0), (8, 0), (3, 2)])
def test_batches_and_workers_change_nothing(painted, batch_size, workers):
    assert scored(painted, batch_size, workers) == scored(painted)


def test_the_name_of_an_absent_class_finds_nothing(painted):
    _, index, _ = painted
    samples = exhaustive(index, (1, 2), 1)
    queried = absent_classes(samples, index.pixels, (1, 2), seed=0)
    assert queried == {Sample(0, 1): 2, Sample(1, 2): 1, Sample(2, 1): 2, Sample(3, 2): 1}
    assert scored(painted, samples=samples, queried_class=queried)["miou"] == 0


def test_predictions_of_the_samples_to_keep_are_returned(painted):
    samples = exhaustive(painted[1], (3,), 1)
    scores, kept, results = evaluated(painted, samples=samples, keep=samples[2:0:-1])
    assert scores["samples"] == len(samples) == len(results) and list(kept) == samples[2:0:-1]
    p = kept[samples[1]]
    assert p.mask.shape == tuple(p.evidence.shape) == (64, 40) and p.sample == samples[1]
    assert p.image.untyped_storage().nbytes() == p.image.numel(), "not a view that keeps its batch alive"


class Broken(Oracle):
    """Gives NaN, as weights that are not finite do."""

    def forward(self, images, text):
        out = super().forward(images, text)
        out.logits[-1, 1, 3, 5] = float("nan")
        return out


def test_logits_that_are_not_finite_end_the_evaluation(painted):
    with pytest.raises(UserError, match="not finite.*check the weights"):
        scored(painted, model=Broken())


@pytest.mark.parametrize("model", [Oracle, Broken])
def test_evaluation_leaves_the_models_mode_alone(painted, model):
    for training in (True, False):
        model = model().train(training) if isinstance(model, type) else model.train(training)
        with contextlib.suppress(UserError):
            scored(painted, model=model)
        assert model.training == training


def epochs(tiny_shapes, workers: int, first: int = 0, absent_names: float = 0.0):
    """Every batch of two epochs of the tiny set, the first epoch from batch ``first`` on."""
    root = tiny_shapes
    classes = Classes.read(ROOT / "lists/shapes/classes.yaml")
    index = read_index(root, root / "lists/train.txt", 20)
    images = train_images(index, classes, 0, 32, "seen")
    options = Augment([0.9, 1.1], 10, 0.5, 3, 0.5, 0.5, 0.85, 30)
    dataset = TrainDataset(str(root), index, images, 20, 64, (0, 0, 0), options, 1, absent_names)
    batches = TrainBatches(len(dataset), 4, 24, seed=1)
    loader = train_loader(dataset, batches, workers)
    out = []
    for epoch in range(2):
        batches.start(epoch, first if epoch == 0 else 0)
        out += list(loader)
    return out


def test_training_batches_are_a_function_of_seed_epoch_and_place(tiny_shapes):
    alone, shared, later = epochs(tiny_shapes, 0), epochs(tiny_shapes, 2), epochs(tiny_shapes, 0, first=4)
    assert len(alone) == 12 and len(later) == 8
    for a, b in zip(alone, shared, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b))
    for a, b in zip(alone[4:], later, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b))
    assert not torch.equal(alone[0].images, alone[6].images)
    unseen = {1, 2, 3, 4, 5}
    assert not unseen & {int(c) for b in alone for c in b.class_ids}
    assert all(set(b.targets.unique().tolist()) <= {0, 1, 255} for b in alone)


def test_absent_names_are_seen_classes_that_the_image_does_not_show_and_their_target_is_empty(tiny_shapes):
    """The other samples stay what they are without the option, pixel for pixel."""
    index = read_index(tiny_shapes, tiny_shapes / "lists/train.txt", 20)
    images = train_images(index, Classes.read(ROOT / "lists/shapes/classes.yaml"), 0, 32, "seen")
    for row, present, absent in zip(images.rows, images.classes, images.absent, strict=True):
        assert set(present) == set(range(6, 21)) - set(absent) == set(np.flatnonzero(index.pixels[row, 1:]) + 1)
    plain, some = epochs(tiny_shapes, 0), epochs(tiny_shapes, 0, absent_names=0.4)
    changed = 0
    for a, b in zip(plain, some, strict=True):
        assert torch.equal(a.images, b.images)
        for old, new, target, before in zip(a.class_ids, b.class_ids, b.targets, a.targets, strict=True):
            assert torch.equal(target == 255, before == 255)
            if old == new:
                assert torch.equal(target, before)
            else:
                assert not (target == 1).any() and new > 5
                changed += 1
    assert 10 < changed < 30  # 0.4 of 48: 19, standard deviation 3.4


def test_pixels_of_ignored_classes_never_train(tmp_path):
    """An image of classes 1 and 6, with 1 to 5 ignored: the target of 6 is 255 where 1 is, and 0 on the ground."""
    mask = np.zeros((64, 64), np.uint8)
    mask[:20], mask[40:] = 1, 6
    cv2.imwrite(str(tmp_path / "a.png"), mask)
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((64, 64, 3), 90, np.uint8))
    index = Index("list", [("a.jpg", "a.png")], np.bincount(mask.ravel(), minlength=21)[None])
    images = train_images(index, Classes.read(ROOT / "lists/pascal/classes.yaml"), 0, 128, "ignore")
    options = Augment([1.0, 1.0], 0, 0, 3, 0, 0, 0.85, 30)
    target = TrainDataset(str(tmp_path), index, images, 20, 64, (0, 0, 0), options, seed=1)[0, 0, 0][1]
    assert target[:20].eq(255).all() and target[20:40].eq(0).all() and target[40:].eq(1).all()

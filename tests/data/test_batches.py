"""Training batches: a function of seed, epoch and place alone, with targets that are what the options say."""
import cv2
import numpy as np
import pytest
import torch

from data.dataset import TrainBatches, TrainDataset, loader
from data.folds import Classes
from data.index import Index, read_index
from data.samples import train_images
from util.config import ROOT, Augment
from util.runtime.errors import UserError

SHAPES = Classes.read(ROOT / "lists/shapes/classes.yaml")


def epochs(root, workers: int = 0, first: int = 0, absent_names: float = 0.0):
    """Every batch of two epochs of the tiny set, the first epoch from batch ``first`` on."""
    index = read_index(root, root / "lists/train.txt", 20)
    images = train_images(index, SHAPES, 0, 32, "seen")
    dataset = TrainDataset(str(root), index, images, 20, 64, (0, 0, 0), Augment(blur=3), 1, absent_names)
    batches = TrainBatches(len(dataset), 4, 24, seed=1)
    batched, out = loader(dataset, workers, batch_sampler=batches), []
    for epoch in range(2):
        batches.start(epoch, first if epoch == 0 else 0)
        out += list(batched)
    return out


def test_batches_are_a_function_of_seed_epoch_and_place(tiny_shapes):
    alone, shared, later = epochs(tiny_shapes), epochs(tiny_shapes, workers=2), epochs(tiny_shapes, first=4)
    assert len(alone) == 12 and len(later) == 8
    for a, b in zip([*alone, *alone[4:]], [*shared, *later], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b))
    assert not torch.equal(alone[0].images, alone[6].images)
    assert not {1, 2, 3, 4, 5} & {int(c) for b in alone for c in b.class_ids}, "unseen"
    assert all(set(b.targets.unique().tolist()) <= {0, 1, 255} for b in alone)


def test_absent_names_are_seen_classes_that_the_image_does_not_show_and_their_target_is_empty(tiny_shapes):
    """The other samples stay what they are without the option, pixel for pixel."""
    index = read_index(tiny_shapes, tiny_shapes / "lists/train.txt", 20)
    images = train_images(index, SHAPES, 0, 32, "seen")
    for row, present, absent in zip(images.rows, images.classes, images.absent, strict=True):
        assert set(present) == set(range(6, 21)) - set(absent) == set(np.flatnonzero(index.pixels[row, 1:]) + 1)
    changed = 0
    for a, b in zip(epochs(tiny_shapes), epochs(tiny_shapes, absent_names=0.4), strict=True):
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
    still = Augment([1.0, 1.0], 0, 1)   # a flip at most
    target = TrainDataset(str(tmp_path), index, images, 20, 64, (0, 0, 0), still, seed=1)[0, 0, 0][1]
    assert target[:20].eq(255).all() and target[20:40].eq(0).all() and target[40:].eq(1).all()


def test_parts_of_batches_make_the_batch():
    whole = list(TrainBatches(10, 6, 24, seed=1))
    parts = [list(TrainBatches(10, 6, 24, 1, rank, 3)) for rank in range(3)]
    assert len(whole) == 4 and [sum(together, []) for together in zip(*parts, strict=True)] == whole
    with pytest.raises(UserError, match="batch_size=2.*3 processes; take 3"):
        TrainBatches(10, 2, 24, 1, 0, 3)

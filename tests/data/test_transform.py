"""Geometry: image and mask move together in training, and predictions find back to the original pixels."""
import cv2
import numpy as np
import pytest
import torch

from data import transform
from data.transform import augment, to_input, to_original
from model import IGNORE
from util.config import Augment

FILL = (123, 117, 104)
PAINT, GROUND = np.array([250, 10, 20]), np.array([5, 60, 200])  # colours far from each other and from FILL
SIZES = [(33, 33), (101, 57), (57, 101), (200, 31), (31, 200), (121, 97)]
DEFAULTS, STILL = Augment(), Augment(scale=[1.0, 1.0])


@pytest.fixture
def chances(monkeypatch):
    """chances(flip_p=1) sets the chances, which are 0 for the others."""
    def chances(rotate_p=0, blur_p=0, flip_p=0):
        for name, chance in (("ROTATE_P", rotate_p), ("BLUR_P", blur_p), ("FLIP_P", flip_p)):
            monkeypatch.setattr(transform, name, chance)
    return chances


def augmented(image, mask, seed, options=DEFAULTS):
    return augment(image, mask, 3, 64, FILL, options, np.random.default_rng(seed))


def scene(height: int, width: int, class_id: int = 3):
    """An image in which the pixels of ``class_id`` are painted, and its mask; another class is in the background."""
    mask = np.zeros((height, width), np.uint8)
    mask[:max(2, height // 6), :max(2, width // 6)] = 7
    cv2.ellipse(mask, (int(width * 0.55), int(height * 0.45)), (max(3, width // 4), max(3, height // 4)), 20, 0, 360,
                class_id, -1)
    return np.where((mask == class_id)[..., None], PAINT, GROUND).astype(np.uint8), mask


def inner_part(region: np.ndarray, pixels: int = 3) -> np.ndarray:
    """``region`` without its rim, where interpolation mixes, and without what lies at the frame of the array."""
    side = 2 * pixels + 1
    return cv2.erode(region.astype(np.uint8), np.ones((side, side), np.uint8), borderType=cv2.BORDER_CONSTANT,
                     borderValue=0) > 0


def off(colour, image) -> np.ndarray:
    return np.abs(image.astype(int) - colour).max(axis=-1)


# Training

@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("options", [DEFAULTS, STILL])
def test_augment_gives_one_size_and_moves_image_and_mask_together(height, width, options, chances):
    image, mask = scene(height, width)
    before = image.copy(), mask.copy()
    chances(rotate_p=0.5, flip_p=0.5)
    met = 0
    for seed in range(20):
        out, labels = augmented(image, mask, seed, options)
        assert out.shape == (64, 64, 3) and labels.shape == (64, 64) and out.dtype == labels.dtype == np.uint8
        assert set(np.unique(labels)) <= set(np.unique(mask)) | {IGNORE}
        painted, ground = inner_part(labels == 3), inner_part((labels == 0) | (labels == 7))
        assert (out[inner_part(labels == IGNORE, 1)] == FILL).all(), "padding has the fill colour"
        assert off(PAINT, out)[painted].max(initial=0) <= 2
        assert off(GROUND, out)[ground].max(initial=0) <= 2
        met += painted.sum() + ground.sum()
        out, labels = np.ascontiguousarray(out), np.ascontiguousarray(labels)
        out[:], labels[:] = 0, 0
    assert met, "the test looked at something"
    assert np.array_equal(image, before[0]) and np.array_equal(mask, before[1]), "the input is left alone"


def test_flip_and_rotation_do_happen(chances):
    image, mask = scene(64, 64)
    found = []
    for options in ({}, {"flip_p": 1}, {"rotate_p": 1}):
        chances(**options)
        found.append(augmented(image, mask, 0, STILL))
    (plain, labels), (flipped, flipped_labels), (_, turned_labels) = found
    assert np.array_equal(plain, image) and np.array_equal(labels, mask)
    assert np.array_equal(flipped, image[:, ::-1]) and np.array_equal(flipped_labels, mask[:, ::-1])
    assert not np.array_equal(turned_labels, mask)


def test_the_crop_keeps_85_percent_of_the_class_where_it_can(chances, monkeypatch):
    image, mask = np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), np.uint8)
    mask[16:48, 16:48] = 3  # 32 x 32; a random crop of 64 x 64 often cuts it, and often does not
    chances()

    def kept():
        return [np.count_nonzero(augmented(image, mask, seed, STILL)[1] == 3) / 32 ** 2 for seed in range(100)]

    assert min(kept()) >= 0.85
    monkeypatch.setattr(transform, "CROP_TRIES", 1)
    assert min(kept()) < 0.5, "a single try would not do"
    assert (augmented(np.zeros((200, 200, 3), np.uint8), np.full((200, 200), 3, np.uint8), 0)[1] == 3).any()


# Evaluation

@pytest.mark.parametrize("size", [32, 64, 160])
@pytest.mark.parametrize("height, width", SIZES)
def test_a_prediction_finds_back_to_the_original_pixels(height, width, size):
    """A model that sees perfectly at the network's size must give the original mask, up to the lost detail."""
    image, mask = scene(height, width)
    canvas, valid = to_input(image, size, FILL)
    assert canvas.shape == (size, size, 3) and max(valid) == size
    assert (canvas[valid[0]:] == FILL).all() and (canvas[:, valid[1]:] == FILL).all()
    assert abs(valid[0] / valid[1] - height / width) < 0.1 * height / width
    red, blue = (torch.from_numpy(canvas[..., channel].astype(np.float32)) for channel in (0, 2))
    found = to_original(red - blue, valid, mask.shape).numpy() > 0
    truth = mask == 3
    assert found.shape == truth.shape
    tolerance = 1 + max(height, width) / size  # px at the original size: one of the network's, and one of the image's
    rim = int(np.ceil(tolerance))
    assert found[inner_part(truth, rim)].all() and not found[inner_part(~truth, rim)].any()
    centres = [np.argwhere(region).mean(axis=0) for region in (found, truth)]
    assert np.abs(centres[0] - centres[1]).max() < 0.5 * tolerance, "no systematic shift"

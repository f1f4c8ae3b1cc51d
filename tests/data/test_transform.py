"""Geometry: image and mask move together in training, and predictions find back to the original pixels."""
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from data.transform import augment, binary_target, to_input, to_original
from model import IGNORE
from util.config import BASE, Config, load

FILL = (123, 117, 104)
PAINT, GROUND = np.array([250, 10, 20]), np.array([5, 60, 200])  # colours far from each other and from FILL
SIZES = [(33, 33), (101, 57), (57, 101), (200, 31), (31, 200), (121, 97)]


DEFAULTS = vars(load(Config, BASE).augment)


def options(**changes):
    """Config section ``augment`` with its defaults, as the paper has them."""
    return SimpleNamespace(**{**DEFAULTS, **changes})


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
@pytest.mark.parametrize("scale", [DEFAULTS["scale"], [1.0, 1.0]])
def test_augment_gives_one_size_keeps_the_types_and_leaves_its_input_alone(height, width, scale):
    image, mask = scene(height, width)
    mask[-2:] = IGNORE
    before = image.copy(), mask.copy()
    for seed in range(20):
        out, labels = augment(image, mask, 3, 64, FILL, options(scale=scale), np.random.default_rng(seed))
        assert out.shape == (64, 64, 3) and labels.shape == (64, 64)
        assert out.dtype == labels.dtype == np.uint8
        assert set(np.unique(labels)) <= set(np.unique(mask)) | {IGNORE}
        out, labels = np.ascontiguousarray(out), np.ascontiguousarray(labels)
        out[:], labels[:] = 0, 0
    assert np.array_equal(image, before[0]) and np.array_equal(mask, before[1])


@pytest.mark.parametrize("height, width", SIZES)
def test_image_and_mask_stay_aligned(height, width):
    image, mask = scene(height, width)
    met = 0
    for seed in range(40):
        out, labels = augment(image, mask, 3, 64, FILL, options(blur_p=0), np.random.default_rng(seed))
        painted, ground = inner_part(labels == 3), inner_part((labels == 0) | (labels == 7))
        assert off(PAINT, out)[painted].max(initial=0) <= 2
        assert off(GROUND, out)[ground].max(initial=0) <= 2
        met += painted.sum() + ground.sum()
    assert met, "the test looked at something"


@pytest.mark.parametrize("rotate_p", [0, 1])
def test_padding_is_the_fill_colour_and_ignored(rotate_p):
    image, mask = scene(40, 90)
    for seed in range(20):
        out, labels = augment(image, mask, 3, 64, FILL, options(blur_p=0, rotate_p=rotate_p),
                              np.random.default_rng(seed))
        padded = labels == IGNORE
        assert padded.any()
        if rotate_p:
            padded = inner_part(padded, 1)  # along the rim of a turned image its colour mixes with the fill
        assert (out[padded] == FILL).all()
        if not rotate_p:
            assert not (out[~padded] == FILL).all(axis=-1).any()


def test_flip_and_rotation_do_happen():
    image, mask = scene(64, 64)
    still = dict(scale=[1.0, 1.0], blur_p=0)
    plain = augment(image, mask, 3, 64, FILL, options(**still, rotate_p=0, flip_p=0), np.random.default_rng(0))
    flipped = augment(image, mask, 3, 64, FILL, options(**still, rotate_p=0, flip_p=1), np.random.default_rng(0))
    turned = augment(image, mask, 3, 64, FILL, options(**still, rotate_p=1, flip_p=0), np.random.default_rng(0))
    assert np.array_equal(plain[0], image) and np.array_equal(plain[1], mask)
    assert np.array_equal(flipped[0], image[:, ::-1]) and np.array_equal(flipped[1], mask[:, ::-1])
    assert not np.array_equal(turned[1], mask)


def test_augment_is_a_function_of_the_generator():
    image, mask = scene(121, 97)
    one, two, other = (augment(image, mask, 3, 64, FILL, options(), np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
    assert not np.array_equal(one[0], other[0])


def test_the_crop_keeps_85_percent_of_the_class_where_it_can():
    image, mask = np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), np.uint8)
    mask[16:48, 16:48] = 3  # 32 x 32; a random crop of 64 x 64 often cuts it, and often does not
    steady = dict(scale=[1.0, 1.0], rotate_p=0, blur_p=0)

    def kept(**changes):
        drawn = [augment(image, mask, 3, 64, FILL, options(**steady, **changes), np.random.default_rng(seed))[1]
                 for seed in range(100)]
        return [np.count_nonzero(labels == 3) / 32 ** 2 for labels in drawn]

    assert min(kept()) >= 0.85
    assert min(kept(crop_tries=1)) < 0.5, "a single try would not do"


def test_a_class_too_large_to_keep_still_gives_a_crop():
    image, mask = np.zeros((200, 200, 3), np.uint8), np.full((200, 200), 3, np.uint8)
    _, labels = augment(image, mask, 3, 64, FILL, options(), np.random.default_rng(0))
    assert labels.shape == (64, 64) and (labels == 3).any()


# Evaluation

@pytest.mark.parametrize("size", [32, 64, 160])
@pytest.mark.parametrize("height, width", SIZES)
def test_a_prediction_finds_back_to_the_original_pixels(height, width, size):
    """A model that sees perfectly at the network's size must give the original mask, up to the lost detail."""
    image, mask = scene(height, width)
    canvas, valid = to_input(image, size, FILL)
    assert canvas.shape == (size, size, 3) and max(valid) == size
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


def test_fit_pads_on_the_right_and_below_with_the_fill_colour():
    for height, width in ((20, 64), (64, 20)):
        canvas, valid = to_input(np.zeros((height, width, 3), np.uint8), 64, FILL)
        assert valid == (height, width)
        assert not canvas[:height, :width].any()
        assert (canvas[height:] == FILL).all() and (canvas[:, width:] == FILL).all()


@pytest.mark.parametrize("height, width", [(64, 64), (40, 64)])
def test_an_image_of_the_right_size_passes_unchanged(height, width):
    image, _ = scene(height, width)
    canvas, valid = to_input(image, 64, FILL)
    assert np.array_equal(canvas[:height, :width], image)
    evidence = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_original(evidence, valid, (height, width)), evidence[:height, :width])


def test_fit_leaves_its_input_alone():
    image, _ = scene(64, 64)
    before = image.copy()
    canvas, _ = to_input(image, 64, FILL)
    canvas[:] = 0
    assert np.array_equal(image, before)


def test_an_extremely_long_image_still_fits():
    canvas, valid = to_input(np.zeros((1, 400, 3), np.uint8), 64, FILL)
    assert canvas.shape == (64, 64, 3) and valid == (1, 64)


def test_binary_target_is_a_new_array_of_0_1_and_255():
    mask = np.array([[0, 3, 7], [255, 3, 0]], np.uint8)
    before = mask.copy()
    target = binary_target(mask, 3)
    assert target.dtype == np.uint8 and target.tolist() == [[0, 1, 0], [255, 1, 0]]
    target[:] = 9
    assert np.array_equal(mask, before)

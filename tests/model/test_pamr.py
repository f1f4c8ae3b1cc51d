"""Refinement by pixels that look alike, against loops over pixels: of finished masks, and in the guided decoder."""
import numpy as np
import torch

from model.image_encoder import bilinear
from model.plus import pamr
from model.plus.pamr import GuidedDecoder, refine


def places(*distances: int) -> list[tuple[int, int]]:
    return [(i * d, j * d) for d in distances for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]


def test_refine_is_the_weighted_mean_of_neighbours_that_look_alike():
    """Against a loop over pixels, with numpy's own standard deviation."""
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    margin = torch.randn(9, 7, generator=torch.Generator().manual_seed(0))
    expected = np.zeros((9, 7))
    probability = margin.double().sigmoid().numpy()
    for y in range(9):
        for x in range(7):
            at = [(min(max(y + i, 0), 8), min(max(x + j, 0), 6)) for i, j in places(1, 2, 4, 8, 16)]
            colours = np.array([image[p] for p in at], float)
            own = image[y, x].astype(float)
            spread = np.vstack([colours, own]).std(axis=0, ddof=1)
            weight = np.exp(-(np.abs(colours - own) / np.maximum(0.1 * spread, 1e-6)).mean(axis=1))
            expected[y, x] = (weight * [probability[p] for p in at]).sum() / weight.sum()
    found = refine(margin, torch.from_numpy(image).permute(2, 0, 1), 1)
    assert np.allclose(found.sigmoid().numpy(), expected.clip(1e-4, 1 - 1e-4), atol=1e-5)


def test_the_guides_weights_are_what_they_are_said_to_be():
    decoder, images = GuidedDecoder(8, channels=8), torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        decoder.sharpness += 0.1 * torch.randn_like(decoder.sharpness)
        decoder.place += torch.randn_like(decoder.place)
    weights = decoder.guide(images, (6, 8))                              # patches of 8 px, cells of 2
    assert weights.shape == (2, 32, 24, 32)
    cells = images.unflatten(2, (24, 2)).unflatten(4, (32, 2)).mean(dim=(3, 5))
    for row, column in ((0, 0), (11, 13), (23, 30)):
        window = cells[1, :, max(0, row - 8):row + 9, max(0, column - 8):column + 9].flatten(1)
        spread, here = window.std(dim=1, correction=0), cells[1, :, row, column]
        expected = torch.full((32,), -torch.inf)
        for p, (down, right) in enumerate(places(1, 2, 4, 8)):
            if 0 <= row + down < 24 and 0 <= column + right < 32:
                unlike = (cells[1, :, row + down, column + right] - here).abs() / (spread + 1e-3)
                expected[p] = decoder.place[p, 0, 0] - decoder.sharpness[p, 0, 0].exp() * unlike.mean()
        assert torch.allclose(weights[1, :, row, column], expected.softmax(dim=0), atol=1e-5)


def test_a_guided_margin_stays_on_its_side_of_a_border(monkeypatch):
    """A patch across a border in the image goes to the side on which more of it lies, by either way to neighbours."""
    monkeypatch.setattr(pamr, "ROUNDS", 20)
    decoder, image = GuidedDecoder(8, channels=8), torch.full((1, 3, 64, 64), -1.0)
    image[..., 36:] = 1                                                  # in the middle of the fifth patch: cell 18
    coarse = bilinear(torch.where(torch.arange(8) < 4, 1.0, -1.0).expand(1, 1, 8, 8), (32, 32))
    assert (coarse[..., :16] > 0).all() and (coarse[..., 16:] < 0).all()
    with torch.no_grad():
        guide = decoder.guide(image, (8, 8))
        found = decoder.spread(coarse, guide)
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        assert torch.allclose(decoder.spread(coarse, guide), found, atol=1e-5)
    assert (found[..., :18] > 0).all() and (found[..., 18:] < 0).all()

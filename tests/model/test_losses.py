"""The losses against arithmetic by hand, and what they must leave alone."""
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from model.build import build_losses
from model.esda import Segmentation
from model.losses import EsdaLosses, prototype
from model.released import ReleasedLosses
from model.similarity import bilinear, similarity_map
from util.options import Loss, Model

WEIGHTS = {"main": 1.0, "last": 0.2, "others": 0.1}
PAPER = EsdaLosses(WEIGHTS)


def similarity_loss(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The mean over the pixels that count, as torch's own cross-entropy has it."""
    return PAPER.similarity(s, t).sum() / (t != 255).sum()


def output(seed: int = 0) -> Segmentation:
    torch.manual_seed(seed)
    return Segmentation(torch.randn(2, 2, 8, 8, requires_grad=True), torch.rand(2, 1, 4, 4, requires_grad=True),
                        torch.randn(2, 16, 6), {0: torch.randn(2, 16, 6, requires_grad=True),
                                                1: torch.randn(2, 16, 6, requires_grad=True)})


def target() -> torch.Tensor:
    t = torch.zeros(2, 8, 8, dtype=torch.uint8)
    t[:, 2:6, 2:6] = 1
    t[0, 0] = 255
    return t


def test_targets_are_left_as_they_are():
    t = target()
    PAPER(output(), t)["loss"].backward()
    assert torch.equal(t, target())


def test_weights_of_the_paper():
    out, t = output(), target()
    losses = PAPER(out, t)
    maps = [similarity_map(b, prototype(b, PAPER.cover(t, 16))) for b in out.blocks.values()]
    others = (similarity_loss(maps[0], t) + similarity_loss(maps[1], t)) / 2
    assert losses["main"].item() == pytest.approx(F.cross_entropy(out.logits, t.long(), ignore_index=255).item())
    assert losses["last"].item() == pytest.approx(similarity_loss(out.prior, t).item())
    assert losses["others"].item() == pytest.approx(others.item())
    assert losses["loss"].item() == pytest.approx(sum(w * losses[name].item() for name, w in WEIGHTS.items()))


@pytest.mark.parametrize("align_corners", [False, True])
def test_align_corners_is_that_of_masks_and_of_maps(align_corners):
    out, t = output(), torch.zeros_like(target())
    t[:, 1:4, 3:7] = 1  # which the two ways see differently
    losses = ReleasedLosses(WEIGHTS, False, False, align_corners)(out, t)
    side = out.prior.shape[2:]
    cover = F.interpolate((t == 1)[:, None].float(), size=side, mode="bilinear", align_corners=align_corners).flatten(2)
    maps = torch.cat([similarity_map(b, prototype(b, cover)) for b in out.blocks.values()], dim=1)
    s = F.interpolate(maps, size=t.shape[1:], mode="bilinear", align_corners=align_corners)
    expected = [F.cross_entropy(torch.stack([1 - m, m], dim=1), t.long(), ignore_index=255).item() for m in s.unbind(1)]
    assert losses["others"].item() == pytest.approx(sum(expected) / 2, rel=1e-5)


@pytest.mark.parametrize("off", [["last"], ["others"], ["last", "others"]])
def test_a_term_of_weight_0_is_left_out_and_changes_no_other(off):
    losses, whole = EsdaLosses({**WEIGHTS, **dict.fromkeys(off, 0.0)})(output(), target()), PAPER(output(), target())
    assert losses.keys() == whole.keys() - set(off)
    assert all(losses[name].item() == pytest.approx(whole[name].item()) for name in losses if name != "loss")


def test_similarity_map_is_pulled_up_on_the_foreground_and_down_elsewhere():
    s = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    similarity_loss(s, target()[1:]).backward()
    foreground = target()[1:][:, None] == 1
    assert (s.grad[foreground] < 0).all()   # descent raises the similarity there
    assert (s.grad[~foreground] > 0).all()


def test_ignored_pixels_count_nowhere():
    out, t = output(), target()
    ignored = (t == 255)[:, None].expand_as(out.logits)
    PAPER(out, t)["main"].backward()
    assert (out.logits.grad[ignored] == 0).all() and (out.logits.grad[~ignored] != 0).all()
    everything = torch.full_like(t, 255)
    losses = PAPER(output(1), everything)
    losses["loss"].backward()
    assert losses["loss"].item() == 0


def test_prototype_is_the_mean_under_the_mask():
    patches = torch.randn(1, 16, 5)
    t = torch.zeros(1, 8, 8, dtype=torch.uint8)
    t[:, :4, :4] = 1     # exactly the patches 0, 1, 4 and 5 of a 4 x 4 grid
    t[:, 4:, 4:] = 255   # not foreground
    expected = patches[0, [0, 1, 4, 5]].mean(0)
    assert torch.allclose(prototype(patches, PAPER.cover(t, 16))[0], expected, atol=1e-4)
    assert torch.equal(prototype(patches, PAPER.cover(torch.zeros_like(t), 16)), torch.zeros(1, 5))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(24, 40), (3, 2), (5, 7), (1, 9)])
def test_resizing_is_torchs_bilinear(size, align_corners):
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 5, 7)
    expected = F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(bilinear(maps, size, align_corners), expected, atol=1e-5, rtol=1e-5)


def test_the_losses_of_parts_add_up_to_those_of_the_whole():
    out, t = output(), target()
    whole, pixels = PAPER(out, t), PAPER.pixels(t)
    parts = [PAPER(Segmentation(out.logits[k:k + 1], out.prior[k:k + 1], out.patches[k:k + 1],
                                {i: b[k:k + 1] for i, b in out.blocks.items()}), t[k:k + 1], pixels) for k in (0, 1)]
    for name in whole:
        assert sum(part[name] for part in parts).item() == pytest.approx(whole[name].item(), rel=1e-6)


def test_presence_is_learned_of_all_samples_and_the_mask_of_those_that_show_something():
    learns, out, t = EsdaLosses({"main": 1.0, "presence": 0.1}), output(), target()
    t[1] = 0                                                             # the name of sample 1 is absent
    out = out._replace(presence=torch.tensor([0.3, 0.7], requires_grad=True))
    losses = learns(out, t)
    of_mask = F.cross_entropy(out.logits[:1], t[:1].long(), ignore_index=255, reduction="sum")
    assert losses["main"].item() == pytest.approx(of_mask.item() / (56 + 64))   # pixels of both samples that count
    by_hand = (56 * math.log(1 + math.exp(-0.3)) + 64 * math.log(1 + math.exp(0.7))) / (56 + 64)
    assert losses["presence"].item() == pytest.approx(by_hand)
    assert losses["loss"].item() == pytest.approx(losses["main"].item() + 0.1 * by_hand)
    losses["loss"].backward()
    assert not out.logits.grad[1].any() and out.logits.grad[0].any() and out.presence.grad.all()
    assert EsdaLosses({"main": 1.0})(out, t)["main"] > losses["main"]    # without the term the mask learns it
    parts = [learns(Segmentation(*(part[k:k + 1] for part in out[:3]), {}, out.presence[k:k + 1]), t[k:k + 1],
                    learns.pixels(t)) for k in (0, 1)]
    for name in losses:
        assert sum(part[name] for part in parts).item() == pytest.approx(losses[name].item(), rel=1e-6)


@pytest.mark.parametrize("k", [1.0, 10.0])
def test_with_a_temperature_similarity_is_read_as_k_times_the_logits(k):
    """Of esda and, with branches, of plus: both train by these losses."""
    s, t = torch.rand(2, 1, 8, 8, dtype=torch.double), torch.randint(0, 2, (2, 8, 8), dtype=torch.uint8)
    for b in range(2):
        t[b, 0, b] = 255
    encoder = SimpleNamespace(transformer=SimpleNamespace(resblocks=[1, 2]))
    model = SimpleNamespace(image_encoder=encoder, prior_indices={0, 1})
    losses, mirrored = (build_losses(model, Loss(temperature=k, sign=sign), Model())
                        for sign in ("described", "released"))
    expected = sum(-math.log(math.exp(k * (s_ if t_ else 1 - s_)) / (math.exp(k * s_) + math.exp(k * (1 - s_))))
                   for s_, t_ in zip(s.flatten().tolist(), t.flatten().tolist()) if t_ != 255)
    assert losses.similarity(s, t).item() == pytest.approx(expected, rel=1e-5)
    perfect = losses.similarity((t == 1)[:, None].float(), t).item() / (t != 255).sum().item()
    assert perfect == pytest.approx(math.log(1 + math.exp(-k)), rel=1e-4)
    assert torch.equal(mirrored.evidence(s), -losses.evidence(s))
    assert k != 1 or torch.equal(losses.evidence(s), 2 * s - 1)  # as published, bit for bit

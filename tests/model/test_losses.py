"""The losses against arithmetic by hand, and what they must leave alone."""
import math

import pytest
import torch
import torch.nn.functional as F

from model.esda import Segmentation
from model.image_encoder import similarity_map
from model.losses import EsdaLosses, prototype
from model.released import ReleasedLosses

WEIGHTS = {"main": 1.0, "last": 0.2, "others": 0.1}
PAPER = EsdaLosses(WEIGHTS)


def output() -> Segmentation:
    torch.manual_seed(0)
    return Segmentation(torch.randn(2, 2, 8, 8, requires_grad=True), torch.rand(2, 1, 4, 4, requires_grad=True),
                        {i: torch.randn(2, 16, 6, requires_grad=True) for i in (0, 1)},
                        torch.tensor([0.3, 0.7], requires_grad=True))


def target() -> torch.Tensor:
    t = torch.zeros(2, 8, 8, dtype=torch.uint8)
    t[:, 1:4, 3:7] = 1  # which the two ways of resizing see differently
    t[0, 0] = 255
    return t


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_losses_of_the_paper_by_torch_s_own_functions(align_corners):
    losses_of = ReleasedLosses(WEIGHTS, False, False, True) if align_corners else PAPER
    out, t = output()._replace(presence=None), target()
    losses = losses_of(out, t)

    def resized(maps, size):
        return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=align_corners)

    def of_map(s):
        s = resized(s, (8, 8))
        return F.cross_entropy(torch.cat([1 - s, s], dim=1), t.long(), ignore_index=255).item()

    cover = resized((t == 1)[:, None], (4, 4)).flatten(2)
    others = [of_map(similarity_map(b, prototype(b, cover))) for b in out.blocks.values()]
    expected = {"main": F.cross_entropy(out.logits, t.long(), ignore_index=255).item(), "last": of_map(out.prior),
                "others": sum(others) / 2}
    expected["loss"] = sum(WEIGHTS[name] * value for name, value in expected.items())
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-5)
    losses["loss"].backward()
    assert torch.equal(t, target())     # left as it is
    assert losses_of(out, torch.full_like(t, 255))["loss"].item() == 0


def test_a_term_of_weight_0_is_left_out_and_changes_no_other():
    losses, whole = EsdaLosses({**WEIGHTS, "others": 0.0})(output(), target()), PAPER(output(), target())
    assert losses.keys() == whole.keys() - {"others"}
    assert all(losses[name].item() == pytest.approx(whole[name].item()) for name in losses if name != "loss")


def test_an_even_similarity_map_stays_finite():
    patches = torch.ones(1, 16, 8, requires_grad=True)
    similarity_map(patches, torch.zeros(1, 8)).sum().backward()
    assert torch.isfinite(patches.grad).all()


def test_presence_is_learned_of_all_samples_and_the_mask_of_those_that_show_something():
    learns, out, t = EsdaLosses({"main": 1.0, "presence": 0.1}), output(), target()
    t[1] = 0                                                             # the name of sample 1 is absent
    losses = learns(out, t)
    of_mask = F.cross_entropy(out.logits[:1], t[:1].long(), ignore_index=255, reduction="sum")
    assert losses["main"].item() == pytest.approx(of_mask.item() / (56 + 64))   # pixels of both samples that count
    by_hand = (56 * math.log(1 + math.exp(-0.3)) + 64 * math.log(1 + math.exp(0.7))) / (56 + 64)
    assert losses["presence"].item() == pytest.approx(by_hand)
    losses["loss"].backward()
    assert not out.logits.grad[1].any() and out.logits.grad[0].any() and out.presence.grad.all()
    assert EsdaLosses({"main": 1.0})(out._replace(presence=None), t)["main"] > losses["main"]   # the mask learns it


def test_the_losses_of_parts_add_up_to_those_of_the_whole():
    losses_of, out, t = EsdaLosses({**WEIGHTS, "presence": 0.1}), output(), target()
    parts = [losses_of(Segmentation(out.logits[k], out.prior[k], {i: p[k] for i, p in out.blocks.items()},
                                    out.presence[k]), t[k], losses_of.pixels(t)) for k in (slice(0, 1), slice(1, 2))]
    for name, whole in losses_of(out, t).items():
        assert sum(part[name] for part in parts).item() == pytest.approx(whole.item(), rel=1e-6)

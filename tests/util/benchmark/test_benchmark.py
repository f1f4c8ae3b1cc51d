"""python -m util.benchmark: plain and ours compute the same, what it counts is right, and it runs end to end."""
import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from util.benchmark import __main__ as command
from util.benchmark import work
from util.benchmark.measure import peak_bytes
from util.config import ROOT, Config, load
from util.results.cost import count_flops
from util.runtime.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """Few drawn images; and torch's deterministic mode as it was before."""
    monkeypatch.setattr(work, "IMAGES", 4)
    before = torch.get_deterministic_debug_mode()
    yield
    torch.set_deterministic_debug_mode(before)


@pytest.fixture
def make(tiny_clip, tmp_path):
    """make(mode, key=value ...): a variant whose branches speak and that finds a name in about half of an image."""
    count = itertools.count()

    def make(mode: str, *options: str) -> work.Variant:
        cfg = load(Config, ROOT / "config/shapes/esda.yaml", [
            f"model.clip={tiny_clip}", "model.size=64", "train.optimizer=sgd", "train.lr=0", "eval.presence=0.001",
            *options])
        cfg = work.draw(cfg, tmp_path / str(next(count)))
        variant = work.Variant(cfg, work.read_or_make(cfg.model.clip), mode)
        for branch in variant.model.image_encoder.branches.values():
            nn.init.normal_(branch.up, std=0.05)
        with torch.no_grad():
            image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
            logits = variant.model.eval()(image, variant.text[torch.tensor([0])]).logits
            variant.model.decoder.cls[3].bias[1] -= (logits[:, 1] - logits[:, 0]).median()
        return variant
    return make


@pytest.mark.parametrize("options", [[], ["loss.sign=released", "loss.ignored=background", "model.align_corners=true"]])
def test_plain_and_ours_have_the_same_losses_and_gradients(make, options):
    found = []
    for mode in "plain", "fp32":
        variant, gradients = make(mode, *options), {}
        variant.optimizer.step = lambda v=variant, to=gradients: to.update(
            {name: p.grad.clone() for name, p in v.model.named_parameters() if p.grad is not None})
        torch.manual_seed(7)  # of the decoder's dropout
        done, = variant.work("train", 2)()
        found.append((done["losses"], gradients))
    (plain, one), (ours, other) = found
    assert len(plain) == 4 and min(plain.values()) > 0 and plain == pytest.approx(ours, rel=1e-5)
    assert one.keys() == other.keys() and len(one) > 10
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-3)


def test_plain_and_ours_score_and_label_alike(make):
    plain, ours = make("plain"), make("fp32")
    one, other = plain.work("eval", 3)(), ours.work("eval", 3)()
    assert one["samples"] == 3 and one["miou"] > 1 and one["miou"] == pytest.approx(other["miou"], abs=0.1)
    (one,), (other,) = plain.work("generalised", 23)(), ours.work("generalised", 23)()  # three of the 20 names twice
    assert len(np.unique(one)) > 1 and np.mean(one != other) < 2e-3


def test_plain_does_at_every_step_what_ours_does_once(make):
    ran = {}
    for mode in "plain", "fp32":
        variant = make(mode)
        variant.model.text_encoder.register_forward_hook(lambda *_, mode=mode: ran.update({mode: ran[mode] + 1}))
        for what, count in ("train", 2), ("eval", 3), ("generalised", 3):
            call = variant.work(what, count)
            ran[mode] = 0
            call()
            assert ran[mode] == (0 if mode == "fp32" else {"train": 1, "eval": 3, "generalised": 3}[what])


def test_operations_by_hand():
    linear, x = nn.Linear(8, 4), torch.randn(3, 8, requires_grad=True)
    assert count_flops(lambda: linear(x)) == 2 * 3 * 8 * 4
    assert count_flops(lambda: linear(x).sum().backward()) == 3 * 2 * 3 * 8 * 4
    q = torch.randn(1, 2, 5, 4)
    assert count_flops(lambda: nn.functional.scaled_dot_product_attention(q, q, q)) == 2 * 2 * 2 * 5 * 5 * 4


def test_peak_memory_by_hand():
    def call():
        a = torch.zeros(250_000)
        b = a + 1
        del a
        return b + 1

    kept = torch.zeros(1000)
    assert peak_bytes(call, [kept, kept[:10]], CPU) == pytest.approx(4000 + 2_000_000, rel=0.01)


def test_waiting_is_what_the_loader_takes_and_nothing_else(monkeypatch):
    now, waits = [0.0], []
    monkeypatch.setattr(work.time, "perf_counter", lambda: now[0])

    def slow():
        for batch in range(3):
            now[0] += 5
            yield batch

    for _ in work._timed(slow(), waits):
        now[0] += 100  # the step
    assert waits == [5, 5, 5]


def test_end_to_end(tiny_clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [
        "benchmark", "--quick", "--images", "2,3", "--out", str(tmp_path), "device=cpu", f"model.clip={tiny_clip}",
        "model.size=64", "train.optimizer=sgd", "data.workers=0", "--against", "config/shapes/clsclip.yaml",
        "eval.fit=cut"])
    command.main()
    found, said = json.loads((tmp_path / "benchmark.json").read_text()), capsys.readouterr().out
    assert said == (tmp_path / "benchmark.md").read_text() and said.count("shapes/clsclip eval.fit=cut") >= 4
    rows = {(r["work"], r["count"], r["config"], r["mode"]): r for r in found["rows"]}
    works = [("train", 2), ("eval", 3), ("generalised", 1), ("generalised", 2)]
    assert [key[:2] for key in rows if key[3] == "plain"] == works
    for key, r in rows.items():
        assert r["ms"] > 0 and r["gflop_per_image"] > 0 and r["peak_bytes"] > 1e6 and 0 < r["mfu"] < 1.5
        assert r["images_per_s"] * r["ms"] == pytest.approx(1000 * (r["count"] if r["work"] != "generalised" else 1))
        assert r["ratio"] == pytest.approx(rows[(*key[:2], "shapes/esda", "plain")]["ms"] / r["ms"])
    ours, cut = (rows["eval", 3, name, "fp32"] for name in ("shapes/esda", "shapes/clsclip eval.fit=cut"))
    assert cut["gflop_per_image"] < 0.9 * ours["gflop_per_image"]  # a quarter of a 500x375 image is padding
    one, two = (rows["generalised", names, "shapes/esda", "fp32"]["gflop_per_image"] for names in (1, 2))
    assert one < two < 2 * one                                     # names share the blocks before the text
    assert found["loader"]["training"] > 0 and 0 < found["loader"]["waiting"] < 1


@pytest.mark.parametrize("given", [["--images", "0"], ["--names", "1,x"], ["--what", "speed"], ["--precisions", "fp8"]])
def test_lists_say_what_is_wrong_in_them(given):
    with pytest.raises(UserError, match=given[0]):
        command.arguments(given)


def test_what_a_model_cannot_do_is_said_before_work_starts(tiny_clip):
    options = command.arguments(["--quick", "--what", "eval,generalised", "--config", "config/shapes/maskclip.yaml",
                                 f"model.clip={tiny_clip}", "model.size=64", "device=cpu"])
    with pytest.raises(UserError, match="generalised: model.kind=maskclip"):
        command.benchmark(options)

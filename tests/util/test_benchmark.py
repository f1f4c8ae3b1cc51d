"""python -m util.benchmark: plain and ours compute the same, what it counts is right, and it runs end to end."""
import pytest
import torch
from predicting import drawn_variant
from torch import nn

from util import benchmark
from util.evaluation.cost import count_flops


@pytest.fixture(autouse=True)
def make(tiny_clip, tmp_path, monkeypatch):
    """make(mode): a variant that finds a name in about half of an image. Torch's deterministic mode comes back."""
    monkeypatch.setattr(benchmark, "IMAGES", 3)
    monkeypatch.setattr(benchmark, "LOADED", 8)
    before = torch.get_deterministic_debug_mode()
    yield lambda mode: drawn_variant(tiny_clip, tmp_path, "train.lr=0", mode=mode)
    torch.set_deterministic_debug_mode(before)


def test_plain_and_ours_have_the_same_losses_and_gradients(make):
    found = []
    for mode in "plain", "fp32":
        variant, gradients = make(mode), {}
        variant.optimizer.step = lambda v=variant, to=gradients: to.update(
            {name: p.grad.clone() for name, p in v.model.named_parameters() if p.grad is not None})
        torch.manual_seed(7)  # of the decoder's dropout
        done, = variant.work("train", 2)()
        found.append((done["losses"], gradients))
    (plain, one), (ours, other) = found
    assert len(plain) == 4 and min(plain.values()) > 0 and plain == pytest.approx(ours, rel=1e-5) and len(one) > 10
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("what, passes", [("train", 1), ("eval", 3), ("generalised", 3)])
def test_plain_encodes_each_time_attends_as_torch_does_and_scores_alike(what, passes, make, monkeypatch):
    attend, attended, found = nn.MultiheadAttention.forward, [], []
    monkeypatch.setattr(nn.MultiheadAttention, "forward", lambda *a, **b: attended.append(0) or attend(*a, **b))
    for mode in "plain", "fp32":
        variant = make(mode)
        blocks = sum(isinstance(module, benchmark.Block) for module in variant.model.modules())  # the text's, too
        call = variant.work(what, 3)
        attended.clear()
        found.append(call())
        assert blocks > 4 and len(attended) == (passes * blocks if mode == "plain" else 0)
    if what == "eval":
        plain, ours = found
        assert plain["samples"] == 3 and plain["miou"] > 1 and plain["miou"] == pytest.approx(ours["miou"], abs=0.1)


def test_operations_by_hand():
    linear, x = nn.Linear(8, 4), torch.randn(3, 8, requires_grad=True)
    assert count_flops(lambda: linear(x)) == 2 * 3 * 8 * 4
    assert count_flops(lambda: linear(x).sum().backward()) == 3 * 2 * 3 * 8 * 4
    q = torch.randn(1, 2, 5, 4)
    assert count_flops(lambda: nn.functional.scaled_dot_product_attention(q, q, q)) == 2 * 2 * 2 * 5 * 5 * 4


def test_end_to_end(tiny_clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [
        "benchmark", "--config", "config/shapes/esda.yaml", "--rounds", "1", "--names", "2", "--images", "3",
        "--precisions", "plain", "--precisions", "fp32", "device=cpu", f"model.clip={tiny_clip}", "model.size=64",
        "train.optimizer=sgd", "data.workers=0", "--against", "config/shapes/clsclip.yaml", "eval.fit=cut",
        "--against", "config/shapes/zegclip.yaml"])
    benchmark.main()
    lines = capsys.readouterr().out.replace(",", "").splitlines()
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    rows = {(r["work"], r["config"], r["mode"]): r for r in (dict(zip(table[0], cells)) for cells in table[1:])}
    plain = {work: rows[work, "shapes/esda", "plain"] for work in benchmark.WHAT}
    assert len(rows) == 3 * 4 + 1 and [r["count"] for r in plain.values()] == ["3", "3", "2", "8"]
    for (work, *_), r in rows.items():
        images = 1 if work == "generalised" else int(r["count"])
        assert float(r["images/s"]) * float(r["ms"]) == pytest.approx(1000 * images, rel=0.01)
        assert float(r["times the first"]) == pytest.approx(float(plain[work]["ms"]) / float(r["ms"]), rel=0.01)

"""The recipes of docs/extend.md: every block of Python in it runs, and what it adds trains."""
import re
from unittest import mock

import pytest
import torch

from data.dataset import TrainBatch
from model import build, losses
from util.config import ROOT, Config, load
from util.training.loop import Position, train_one_epoch
from util.training.optim import make_optimizer


@pytest.fixture(scope="module", autouse=True)
def added():
    """What the page adds to the tables, as somebody would have written it into them."""
    with mock.patch.dict(losses.TERMS), mock.patch.dict(build.DECODERS):
        names = {}
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/extend.md").read_text(), flags=re.DOTALL):
            exec(block, names)
        yield


def step(decoder: str, focal: float, micro_batch: int) -> tuple[dict, dict]:
    """The losses of a step on two samples, and the weights after it."""
    torch.manual_seed(4)
    cfg = load(Config, ROOT / "config/shapes/esda.yaml", [f"train.micro_batch={micro_batch}", "train.optimizer=sgd"])
    cfg.model.clip = str(ROOT / cfg.model.clip)
    cfg.model.decoder, cfg.loss.focal = decoder, focal  # as the options that the page declares
    model = build.build_model(cfg)
    text = build.embed_names(model.text_encoder, ["cat", "dog"], cfg.model)
    targets = torch.zeros(2, 128, 128, dtype=torch.uint8)
    targets[:, 10:70, 5:90], targets[:, :4] = 1, 255
    batch = TrainBatch(torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8), targets, torch.tensor([1, 2]))
    done, = train_one_epoch(model, build.build_losses(model, cfg), text, [batch], make_optimizer(model, cfg.train),
                            Position(), 1, cfg.train, torch.device("cpu"), torch.autocast("cpu", enabled=False))
    return done["losses"], model.trainable_state()


def test_another_decoder_trains_and_micro_batches_change_no_number():
    (whole, trained), (in_parts, parts) = (step("pointwise", 0.0, micro_batch) for micro_batch in (0, 1))
    assert trained["decoder.res.0.weight"].shape[2:] == (1, 1)
    assert in_parts == pytest.approx(whole, rel=1e-5)
    for name, tensor in trained.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_term_is_weighed_summed_and_reported():
    (found, _), (in_parts, _), (without, _) = (step("convolutions", *given) for given in ((0.5, 0), (0.5, 1), (0, 0)))
    assert found.keys() - without.keys() == {"focal"} and 0 < found["focal"] < found["main"]
    assert found["loss"] == pytest.approx(without["loss"] + 0.5 * found["focal"], rel=1e-5)
    assert in_parts == pytest.approx(found, rel=1e-5)

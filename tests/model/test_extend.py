"""The recipes of docs/extend.md: every block of Python in it runs, and what it registers trains."""
import re

import pytest
import torch
from reference_clip import small_clip

from data.dataset import TrainBatch
from model import build, losses
from model.build import build_esda, build_losses, embed_names
from model.clip.weights import ClipWeights, WeightsError
from util.config import ROOT
from util.options import Loss, Model, Train
from util.runtime.processes import SINGLE_PROCESS
from util.training.loop import Progress, train_one_epoch
from util.training.optim import make_optimizer

TABLES = (losses.TERMS, build.DECODERS, build.BRANCHES, build.INTERACTORS)


@pytest.fixture(scope="module")
def recipes():
    """Everything of the page registered, as a user would have it."""
    before, names = [dict(table) for table in TABLES], {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/extend.md").read_text(), flags=re.DOTALL):
        exec(block, names)
    yield [table.keys() - old.keys() for table, old in zip(TABLES, before)]
    for table, old in zip(TABLES, before):
        table.clear()
        table.update(old)


def weights() -> ClipWeights:
    clip = small_clip()  # width 128, 3 blocks, patch 16
    text = dict(clip.text.state_dict())
    text["token_embedding.weight"] = torch.randn(49408, 192, generator=torch.Generator().manual_seed(1))
    return ClipWeights(clip.visual.state_dict(), text, clip.logit_scale.detach(), "small")


def steps(model_options: Model, loss_options: Loss, micro_batch: int) -> tuple[list[dict], dict]:
    """The losses of two steps on four samples, and the weights after them."""
    torch.manual_seed(4)
    model = build_esda(model_options, weights())
    text = embed_names(model.text_encoder, ["cat", "dog"], model_options)
    images = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8)
    targets = torch.zeros(4, 48, 48, dtype=torch.uint8)
    targets[:, 10:30, 5:40], targets[:, :4] = 1, 255
    batch = TrainBatch(images, targets, torch.tensor([1, 2, 2, 1]))
    options = Train(micro_batch=micro_batch, text_noise=0.3, epochs=1, lr=0.01)
    done = list(train_one_epoch(model, build_losses(model, loss_options, model_options), text, [batch, batch],
                                make_optimizer(model, options), Progress(), 2, options, torch.device("cpu"),
                                torch.autocast("cpu", enabled=False), SINGLE_PROCESS))
    return [step["losses"] for step in done], model.trainable_state()


def model_options(**changes) -> Model:
    return Model(size=48, replace_indices=[1], prompt="{}", **changes)


def weighed(**weights) -> Loss:
    loss = Loss()
    for name, weight in weights.items():
        setattr(loss, name, weight)  # as the option that the recipe declares
    return loss


@pytest.mark.parametrize("changes", [{"decoder": "linear"}, {"branch": "bottleneck"}, {"interactor": "film"}],
                         ids=lambda changes: next(iter(changes)))
def test_another_part_trains_and_micro_batches_change_no_number(changes, recipes):
    (first, second), trained = steps(model_options(**changes), weighed(focal=0), 0)
    in_parts, parts = steps(model_options(**changes), weighed(focal=0), 1)
    (usual, _), described = steps(model_options(), weighed(focal=0), 0)
    assert trained.keys() != described.keys()
    assert [x["loss"] for x in in_parts] == pytest.approx([first["loss"], second["loss"]], rel=1e-5)
    for name, tensor in trained.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-5)
    assert second["loss"] != first["loss"]


def test_a_term_is_weighed_summed_and_reported(recipes):
    (first, _), _ = steps(model_options(), weighed(focal=0.5), 0)
    (in_parts, _), _ = steps(model_options(), weighed(focal=0.5), 1)
    (without, _), _ = steps(model_options(), weighed(focal=0.0), 0)
    assert first.keys() - without.keys() == {"focal"} and 0 < first["focal"] < first["main"]
    assert first["loss"] == pytest.approx(without["loss"] + 0.5 * first["focal"], rel=1e-5)
    assert in_parts == pytest.approx(first, rel=1e-5)


def test_the_page_registers_one_of_each(recipes):
    assert recipes == [{"focal"}, {"linear"}, {"bottleneck"}, {"film"}]


@pytest.mark.parametrize("option", ["decoder", "branch", "interactor"])
def test_a_design_that_is_not_registered_is_named(option):
    with pytest.raises(WeightsError, match=f"model.{option}='nosuch' is none of .*; did you mean"):
        build_esda(model_options(**{option: "nosuch"}), weights())

"""Logits, losses and every gradient against a second, independent implementation, with each deviation of the released
code and with all of them.
"""
import pytest
import torch
from released_reference import FACTS, OPTIONS, Reference

from model.build import build_losses, build_model
from model.clip.formats import from_released, our_name
from model.clip.weights import ClipWeights
from model.esda import Noise
from model.released import ReleasedInteractor
from util.options import Config, Model

SWITCHES = {  # by the name of the fact in the reference, which is our option's: the section and the released value
    "token_order": ("model", "released"), "sign": ("loss", "released"), "ignored": ("loss", "background"),
    "cls_twice": ("model", True), "mask_padding": ("model", False), "align_corners": ("model", True)}
SEEDS = {"token_order": 13, "cls_twice": 5, "mask_padding": 21, "+".join(FACTS): 15}  # of random weights; see Margins
NO_DROPOUT = Noise(torch.ones(2, 64, 1, 1))


class Margins:
    """How far the reference's forward pass stays from the kinks of its gradient, as shares of what is typical.

    They are ReLU's at zero, and the lowest and highest cosine of a similarity map where another patch has nearly the
    same: within rounding of a kink, the gradient may jump on one processor and not on another.
    """
    LEAST = 5e-5  # fifty times the rounding of fp32

    def __init__(self, reference: Reference):
        self.least, self._similarity = 1.0, reference.similarity
        reference.similarity = self.similarity
        for module in reference.modules():
            if isinstance(module, torch.nn.ReLU):
                module.register_forward_hook(
                    lambda module, args, output: self.see((args[0].abs().min() / args[0].std()).detach()))

    def see(self, margin) -> None:
        self.least = min(self.least, margin.item())

    def similarity(self, patches, vectors):
        maps = self._similarity(patches, vectors)                            # in [0, 1]
        for values in maps.detach().flatten(1).sort().values:
            self.see(min(values[1], 1 - values[-2]))
        return maps


def cfg_of(facts) -> Config:
    """The options with the switches of ``facts`` on."""
    cfg = Config(model=Model(**OPTIONS))
    for fact in facts:
        section, value = SWITCHES[fact]
        setattr(getattr(cfg, section), fact, value)
    return cfg


def ours(reference: Reference, cfg: Config):
    """Our model with the weights of ``reference``."""
    clip, trained = from_released(reference.state_dict())
    visual = {name.removeprefix("visual."): t for name, t in clip.items() if name.startswith("visual.")}
    text = {name: t for name, t in clip.items() if not name.startswith("visual.") and name != "logit_scale"}
    model = build_model(cfg, ClipWeights(visual, text, clip["logit_scale"], "reference"))
    assert trained.keys() == model.trainable_state().keys()
    model.load_state_dict(trained, strict=False)
    return model.train()


def batch():
    torch.manual_seed(3)
    images = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    ids = torch.zeros(2, 10, dtype=torch.long)
    ids[0, :4], ids[1, :6] = torch.tensor([48, 5, 7, 49]), torch.tensor([48, 9, 3, 3, 8, 49])
    target = torch.zeros(2, 48, 48, dtype=torch.uint8)
    target[:, 6:27, 11:38] = 1
    target[0, :3], target[1, :, 41:] = 255, 255
    return images, ids, target


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("facts", [(), *[(fact,) for fact in FACTS], FACTS], ids="+".join)
def test_logits_loss_and_every_gradient_agree_with_the_reference(facts):
    reference = Reference(facts=facts).fill(SEEDS.get("+".join(facts), 20))
    margins, cfg = Margins(reference), cfg_of(facts)
    model = ours(reference, cfg)
    images, ids, target = batch()
    with torch.no_grad():
        text = model.text_encoder(ids)
    output = model(images, text, NO_DROPOUT)
    loss = build_losses(model, cfg)(output, target)["loss"]
    loss.backward()
    logits, prior, after = reference(images, ids)
    expected = reference.loss(logits, prior, after, target)
    expected.backward()
    assert margins.least > Margins.LEAST, "the case says nothing: choose another seed"
    assert difference(output.logits, logits) < 1e-4 and difference(output.prior, prior) < 1e-4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs = {our_name(name): p for name, p in reference.named_parameters()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) > 60
    for name, p in trained.items():
        assert theirs[name].grad.abs().max() > 0, f"{name} is not put to the test"
        assert difference(p.grad, theirs[name].grad) < 1e-4, name


class Untouched(torch.nn.Module):
    """Stands for a block, to see where tokens go."""

    def forward(self, tokens, mask=None):
        return tokens


def test_token_order_gives_the_published_counts():
    semantic, patches = -1 - torch.arange(79.0), torch.arange(900.0)  # each token is its number
    read = {}
    for order in ("described", "released"):
        interactor = ReleasedInteractor(1, 1, 1, 1, 2, moves_tokens=order == "released")
        for stacks in (interactor.vl, interactor.iee, interactor.sse):
            for i in range(len(stacks)):
                stacks[i] = Untouched()
        interactor.semantic_tokens = lambda *_: (semantic[None, :, None], torch.ones(1, 79, dtype=torch.bool))
        read[order] = interactor(None, None, patches[None, :, None])[0, :, 0]
    assert torch.equal(read["described"], patches)
    found, shift = set(read["released"].tolist()), read["released"] - patches
    assert (shift == 158).sum() == 742 and not (shift == 0).any()
    assert set(semantic.tolist()) < found and len(set(patches.tolist()) - found) == 79

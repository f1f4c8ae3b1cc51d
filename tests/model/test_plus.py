"""ESDA+: what its channels are, which names it knows, what trains, and what runs once an image."""
import pytest
import torch
import torch.nn.functional as F

from model.build import build_losses, build_model, embed_classes
from model.clip.clip import CLIP
from model.clip.text_encoder import TextEmbedding, TextEncoder
from model.clip.vision_transformer import VisionTransformer
from model.clip.weights import ClipWeights, WeightsError, build_clip
from model.plus import plus as plus_module
from model.plus.plus import AffinityInteractor, ESDAPlus, PresenceHead, similarity_channels
from util.options import Config, Model, Plus, Train

NAMES = ["cat", "dog", "bird", "house", "a tree", "sheep"]
SEEN = (1, 2, 4)


@pytest.fixture(scope="module")
def weights() -> ClipWeights:
    torch.manual_seed(1)
    clip = CLIP(VisionTransformer(32, 8, 128, 3, 2, 12), TextEncoder(49408, 16, 64, 1, 1, 12))
    return ClipWeights(clip.visual.state_dict(), clip.text.state_dict(), clip.logit_scale.detach(), "tiny")


def cfg_of(decoder: str = "convolutions", **changes) -> Config:
    """changes: of section ``plus``."""
    return Config(model=Model(kind="plus", size=32, interactor_layers=2, decoder=decoder), plus=Plus(**changes),
                  train=Train(absent_names=0.2))


def plus(weights, names=NAMES, seen=SEEN, **changes) -> tuple[ESDAPlus, TextEmbedding]:
    cfg = cfg_of(**changes)
    torch.manual_seed(2)
    model = build_model(cfg, weights).eval()
    return model, embed_classes(model, names, seen, cfg)


def images_of(count: int, height: int = 32) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randint(0, 256, (count, 3, height, 32), dtype=torch.uint8)


def test_the_channels_are_what_they_are_said_to_be():
    torch.manual_seed(0)
    match, rivals = torch.rand(2, 2, 9), torch.rand(2, 2, 9, 4)
    allowed = torch.tensor([[True, False, True, True], [False] * 4])
    found = similarity_channels(match, rivals, allowed, 3.0)
    centred = match - match.mean(dim=2, keepdim=True)
    assert torch.allclose(found[:, :, 0], 3 * match)
    assert torch.allclose(found[:, :, 1], centred / match.std(dim=2, correction=0, keepdim=True), atol=1e-4)
    lead = torch.stack([torch.stack([c - max(by[r] for r in (0, 2, 3)) for c, by in zip(*of_map)])
                        for of_map in zip(match[0], rivals[0])])
    assert torch.allclose(found[0, :, 2], 3 * lead, atol=1e-6)
    assert torch.allclose(found[1, :, 2], 3 * centred[1], atol=1e-6)     # without rivals
    assert torch.allclose(found[1:], similarity_channels(match[1:], rivals[1:, ..., :0], allowed[1:, :0], 3.0))
    even = torch.full((1, 1, 9), 0.2)
    assert similarity_channels(even, even[..., None], torch.ones(1, 1, dtype=torch.bool), 3.0).isfinite().all()


def test_unseen_names_are_no_rivals_and_neither_is_a_name_of_its_own(weights, monkeypatch):
    """Other unseen names, or more of them, change nothing for any name, asked for alone or among all."""
    images = images_of(2)
    model, text = plus(weights)
    renamed = [name if i in SEEN else f"another thing {i}" for i, name in enumerate(NAMES, 1)]
    other, other_text = plus(weights, [*renamed, "one more"])
    assert torch.equal(model.rivals, other.rivals)
    for row in (0, 2):
        alone = model(images, text[[row, row]]).logits
        assert torch.equal(other(images, text[[row, row]]).logits, alone)
        among = torch.cat(list(model.all_names(images, text, 4)), dim=1)[:, row]
        few = torch.cat(list(model.all_names(images, text[[2, row]], 4)), dim=1)[:, 1]
        for found in (among, few):
            assert torch.allclose(found, alone[:, 1] - alone[:, 0], atol=1e-5)
    changed, _ = plus(weights, ["chair", *NAMES[1:]])  # a seen name does matter, or the above would prove nothing
    assert (changed(images, text[[2, 2]]).logits - model(images, text[[2, 2]]).logits).abs().max() > 1e-4
    told = []
    monkeypatch.setattr(plus_module, "similarity_channels",
                        lambda *given: told.append(given[2].tolist()) or similarity_channels(*given))
    model(images_of(6), text)
    assert told == [[[seen != name for seen in SEEN] for name in range(1, 7)]]


def test_a_checkpoint_stands_alone_by_its_rivals(weights):
    """They are saved with what trains and replace those of other names, of whatever number, or none."""
    model, text = plus(weights)
    saved, images = model.trainable_state(), images_of(2)
    assert saved["rivals"].shape == (3, 12) and not any(k.startswith(("text_", "image_")) for k in saved)
    expected, none = model(images, text[[2, 4]]).logits, plus(weights, rivals="none")[0]
    assert none.rivals.shape == (0, 12) and none(images, text[[2, 4]]).logits.isfinite().all()
    for other in (build_model(cfg_of(), weights).eval(), plus(weights, seen=(1, 3, 5, 6))[0], none):
        missing, unexpected = other.load_state_dict(saved, strict=False)
        assert not unexpected and not set(missing) & saved.keys()
        assert torch.equal(other.rivals, model.rivals) and other.rivals.dtype == torch.float32
        assert torch.equal(other(images, text[[2, 4]]).logits, expected)


def test_only_the_similarity_of_the_name_is_read(weights):
    model, text = plus(weights)
    images, named = images_of(2), text[[0, 1]]
    same = named._replace(cls=5 * named.cls, tokens=torch.randn_like(named.tokens), valid=~named.valid)
    assert torch.allclose(model(images, same).logits, model(images, named).logits, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"decoder": "guided"}, {"width": 64}, {"patches": "affinity"},
                                     {"maps": ["kk", "qq", "value"], "channels": ["lead"]}, {"maps": ["cls", "kk"]}])
def test_all_names_is_what_each_name_gives_alone(changes, weights):
    model, text = plus(weights, **changes)
    images = images_of(2, height=24)  # the part of the input that `cut` leaves
    found = torch.cat(list(model.all_names(images, text, 4)), dim=1)
    assert found.shape == (2, 6, 24, 32)
    for i, k in ((0, 0), (1, 2), (0, 5)):
        output = model(images[i:i + 1], text[[k]])
        assert output.logits.shape == (1, 2, 24, 32) and output.prior.shape == (1, 1, 3, 4)
        assert torch.allclose(output.logits[0, 1] - output.logits[0, 0], found[i, k], atol=1e-5)


def test_the_encoder_runs_once_an_image_whatever_the_number_of_names(weights):
    model, text = plus(weights, maps=["output", "value"])
    images, seen = images_of(2), []
    model.image_encoder.transformer.resblocks[0].register_forward_hook(lambda *_: seen.append(1))
    assert torch.cat(list(model.all_names(images, text, 2)), dim=1).shape == (2, 6, 32, 32) and len(seen) == 1


@pytest.mark.parametrize("decoder", ["convolutions", "guided"])
def test_nothing_of_clip_is_touched_by_training(decoder, weights):
    model, text = plus(weights, decoder=decoder)
    losses = build_losses(model, cfg_of())
    assert losses.weights == {"main": 1.0}                               # the maps of the others are the frozen CLIP's
    target = torch.zeros(2, 32, 32, dtype=torch.uint8)
    target[:, 4:20, 8:24] = 1
    model.train()
    losses(model(images_of(2), text[[0, 1]], model.sample_noise(2, text)), target)["loss"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained | {"rivals"} == set(model.trainable_state())
    assert all(name.startswith(("interactor.", "decoder.")) for name in trained)


def test_the_random_numbers_of_a_step_are_drawn_for_the_whole_batch(weights, monkeypatch):
    monkeypatch.setattr(plus_module, "RIVAL_DROP", 0.5)
    model, text = plus(weights)
    model.train()
    torch.manual_seed(4)
    noise = model.sample_noise(64, text)
    assert noise.decoder.shape == (64, 64, 1, 1) and noise.rivals.shape == (64, 3)
    assert 0.35 < noise.rivals.float().mean() < 0.65
    images, names, state = images_of(4), text[[0, 1, 0, 5]], torch.get_rng_state()
    whole = model(images, names, noise[:4]).logits
    parts = torch.cat([model(images[part], names[part], noise[part]).logits for part in (slice(0, 2), slice(2, 4))])
    assert torch.allclose(whole, parts, atol=1e-5) and torch.equal(torch.get_rng_state(), state)
    others = noise[:4]._replace(rivals=~noise.rivals[:4])
    assert (model(images, names, others).logits - whole).abs().max() > 1e-3


def test_clips_own_verdict_is_part_of_presence_but_not_of_its_training(weights):
    model, text = plus(weights, presence_head=True)
    images, names, clip = images_of(2), text[[0, 3]], build_clip(weights).visual
    with torch.no_grad():
        tokens = F.normalize(clip.project(clip(model.normalise(images))), dim=-1)    # (2, 17, 12), [CLS] first
        expected = weights.logit_scale.exp() * (tokens[:, 0] * F.normalize(names.cls, dim=-1)).sum(dim=1)
        assert torch.allclose(model.clip_presence(model.before_names(images), names), expected, atol=1e-3)
        told = model(images, names).presence
        noise = model.sample_noise(2, text)._replace(rivals=torch.ones(2, 3, dtype=torch.bool))
        alone = model.train()(images, names, noise).presence
        model.asks_clip = False
        without = model.eval()(images, names).presence
    assert torch.allclose(told - alone, 2 * expected, atol=1e-3) and torch.allclose(without, alone, atol=1e-5)


def test_of_patches_by_affinity_only_who_looks_like_whom_is_read(weights):
    assert plus(weights, patches="affinity")[0].before_names(images_of(2)).patches.shape == (2, 16, 16)
    torch.manual_seed(7)
    reader, maps = AffinityInteractor(64, 1, 2, 1), torch.rand(1, 2, 2, 3)
    tokens = torch.randn(1, 6, 2) @ torch.randn(2, 24)      # in a plane, so that some look alike
    affinity = reader.look(tokens)
    unit = F.normalize(tokens[0] - tokens[0].mean(dim=0), dim=1)
    for i in range(6):
        weights = torch.tensor([10 * float(unit[i] @ unit[j]) for j in range(6)]).exp()
        assert torch.allclose(affinity[0, i], weights / weights.sum(), atol=1e-5)
    turned = tokens @ torch.linalg.qr(torch.randn(24, 24)).Q + 3      # other tokens that resemble each other alike
    assert torch.allclose(reader.look(turned), affinity, atol=1e-4)
    averaged = torch.einsum("ij,cj->ci", affinity[0], maps[0].flatten(1)).view(1, 2, 2, 3)
    expected = reader.blocks(reader.read(torch.cat([maps, averaged], dim=1)).flatten(2).transpose(1, 2))
    assert torch.allclose(reader(affinity, maps), expected, atol=1e-5)


def test_a_width_that_does_not_fit_is_named(weights):
    for width in (96, 256):
        with pytest.raises(WeightsError, match=f"plus.width={width}"):
            build_model(cfg_of(width=width), weights)


def test_the_presence_head_is_a_soft_maximum_that_trains_without_the_decoder(weights):
    head, patches = PresenceHead(8), torch.randn(2, 5, 8)
    each = head.read(F.layer_norm(patches, (8,)))[..., 0]
    assert torch.allclose(head(patches), each.exp().mean(dim=1).log(), atol=1e-6)
    model, text = plus(weights, presence_head=True)
    images, asked = images_of(3), text[[0, 2, 4]]
    output = model.train()(images, asked, model.sample_noise(3, text))
    losses = build_losses(model, cfg_of())(output, torch.zeros(3, 32, 32, dtype=torch.uint8))     # all are absent
    assert set(losses) == {"loss", "main", "presence"} and losses["main"] == 0
    losses["loss"].backward()
    assert not any(p.grad.any() for p in model.decoder.parameters() if p.grad is not None)
    assert all(p.grad.any() for p in [*model.presence_head.parameters(), *model.interactor.read.parameters()])
    with torch.no_grad():
        output = model.eval()(images, asked)
        every = torch.cat([present for _, present in model.names_and_presence(images, text, 4)], dim=1)
    assert torch.allclose(every[range(3), [0, 2, 4]], output.presence, atol=1e-5)
    assert plus(weights)[0](images, asked).presence is None

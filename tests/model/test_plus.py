"""ESDA+: what its channels are, which names it knows, what trains, and what runs once an image."""
import pytest
import torch
import torch.nn.functional as F

from model import build
from model.build import build_losses, build_plus, embed_classes
from model.clip.clip import CLIP
from model.clip.text_encoder import TextEmbedding, TextEncoder
from model.clip.tokenizer import Tokenizer
from model.clip.vision_transformer import VisionTransformer
from model.clip.weights import ClipWeights, WeightsError
from model.plus.decoder import PLACES, GuidedDecoder
from model.plus.plus import ESDAPlus
from model.plus.presence import PresenceHead
from model.plus.similarity import min_max, others_than, similarity_channels
from model.similarity import bilinear
from util.options import Loss, Model

NAMES = ["cat", "dog", "bird", "house", "a tree", "sheep"]
SEEN = (1, 2, 4)
TOKENIZER = Tokenizer()


@pytest.fixture(scope="module")
def weights() -> ClipWeights:
    torch.manual_seed(1)
    clip = CLIP(VisionTransformer(32, 8, 128, 3, 2, 12), TextEncoder(49408, 16, 64, 1, 1, 12))
    return ClipWeights(clip.visual.state_dict(), clip.text.state_dict(), clip.logit_scale.detach(), "tiny", "quickgelu")


@pytest.fixture(autouse=True)
def one_tokenizer(monkeypatch):
    """Reading the vocabulary is most of what embed_classes takes."""
    monkeypatch.setattr(build, "Tokenizer", lambda: TOKENIZER)


def options_of(**changes) -> Model:
    return Model(**{"kind": "plus", "size": 32, "branch_rank": 0, "replace_indices": [], "interactor_layers": 2,
                    **changes})


def plus(weights, names=NAMES, seen=SEEN, **changes) -> tuple[ESDAPlus, TextEmbedding]:
    options = options_of(**changes)
    torch.manual_seed(2)
    model = build_plus(options, weights).eval()
    return model, embed_classes(model, names, seen, options)


def images_of(count: int, height: int = 32) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randint(0, 256, (count, 3, height, 32), dtype=torch.uint8)


def test_the_channels_are_what_they_are_said_to_be():
    torch.manual_seed(0)
    match, rivals = torch.rand(2, 2, 9), torch.rand(2, 2, 9, 4)
    allowed = torch.tensor([[True, False, True, True], [False] * 4])
    found = similarity_channels(match, rivals, allowed, 3.0)
    for b in range(2):
        for v in range(2):
            c = match[b, v]
            assert torch.allclose(found[b, v, 0], 3 * c)
            assert torch.allclose(found[b, v, 1], (c - c.mean()) / c.std(correction=0), atol=1e-4)
            lead = torch.stack([c[i] - max(rivals[b, v, i, r] for r in (0, 2, 3)) for i in range(9)]) if b == 0 else \
                c - c.mean()  # without rivals
            assert torch.allclose(found[b, v, 2], 3 * lead, atol=1e-6)
    assert torch.allclose(found[1:], similarity_channels(match[1:], rivals[1:, ..., :0], allowed[1:, :0], 3.0))


def test_an_even_map_stays_finite():
    even = torch.full((1, 1, 9), 0.2)
    assert similarity_channels(even, even[..., None], torch.ones(1, 1, dtype=torch.bool), 3.0).isfinite().all()
    assert not min_max(even[0]).any()


def test_a_name_is_no_rival_of_its_own(weights):
    model, text = plus(weights)
    allowed = others_than(F.normalize(text.cls, dim=-1), model.rivals)
    expected = [[seen != name for seen in SEEN] for name in range(1, len(NAMES) + 1)]
    assert allowed.tolist() == expected


def test_unseen_names_are_no_rivals(weights):
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


def test_rivals_can_be_left_away_and_background_words_added(weights):
    assert plus(weights)[0].rivals.shape == (3, 12)
    assert plus(weights, rivals="none")[0].rivals.shape == (0, 12)
    model, _ = plus(weights, rivals="none", background_words=["sky", "wall"])
    assert model.rivals.shape == (2, 12)
    model(images_of(1), plus(weights)[1][[0]])
    silent, text = plus(weights, rivals="none")
    assert silent(images_of(1), text[[0]]).logits.isfinite().all()


def test_without_rivals_set_it_says_so(weights):
    with pytest.raises(RuntimeError, match="set_rivals"):
        build_plus(options_of(), weights).before_names(images_of(1))


def test_only_the_similarity_of_the_name_is_read(weights):
    model, text = plus(weights)
    images = images_of(2)
    named = text[[0, 1]]
    output = model(images, named)
    same = named._replace(cls=5 * named.cls, tokens=torch.randn_like(named.tokens), valid=~named.valid)
    assert torch.allclose(model(images, same).logits, output.logits, atol=1e-5)
    # A direction that no patch and no rival has a part in changes nothing either.
    views = model.before_names(images)
    basis = torch.linalg.qr(torch.cat([views.joint.flatten(0, 2)[:4], model.rivals]).T).Q              # (12, 7)
    views = views._replace(joint=views.joint @ basis @ basis.T)
    hidden = torch.randn(2, 12)
    hidden = F.normalize(hidden - hidden @ basis @ basis.T, dim=-1)
    name = F.normalize(named.cls, dim=-1)
    inside = F.normalize(name @ basis @ basis.T, dim=-1)
    turned = [model.similarity(views, named._replace(cls=inside * 0.6 + 0.8 * sign * hidden)) for sign in (1, -1)]
    assert torch.allclose(*turned, atol=1e-5)


NAVIGATION = {"replace_indices": [1, 2], "interactor_width": 64}


@pytest.mark.parametrize("changes", [{}, {"decoder": "guided"}, {"branch_rank": 2}, NAVIGATION])
def test_a_sample_is_answered_alike_alone_and_in_a_batch(changes, weights):
    model, text = plus(weights, **changes)
    images, names = images_of(3), text[[0, 2, 5]]
    together = model(images, names)
    for i in range(3):
        alone = model(images[i:i + 1], names[[i]])
        assert torch.allclose(alone.logits[0], together.logits[i], atol=1e-5)
        assert torch.allclose(alone.prior[0], together.prior[i], atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"decoder": "guided"}, {"branch_rank": 2}, {"interactor_width": 64},
                                     {"map_kernel": 7, "maps": ["kk", "qq", "value"], "channels": ["lead"]},
                                     NAVIGATION])
def test_all_names_is_what_each_name_gives(changes, weights):
    model, text = plus(weights, **changes)
    images = images_of(2, height=24)  # the part of the input that `cut` leaves
    found = torch.cat(list(model.all_names(images, text, 4)), dim=1)
    assert found.shape == (2, 6, 24, 32)
    for k in range(len(NAMES)):
        output = model(images, text[[k, k]])
        assert output.logits.shape == (2, 2, 24, 32) and output.prior.shape == (2, 1, 3, 4)
        assert torch.allclose(output.logits[:, 1] - output.logits[:, 0], found[:, k], atol=1e-5)


@pytest.mark.parametrize("changes, runs", [({}, 1), ({"branch_rank": 2}, 2), ({"maps": ["kk"]}, 2), (NAVIGATION, 2)])
def test_the_encoder_runs_once_an_image_whatever_the_number_of_names(changes, runs, weights):
    """Once more for the branches, and where CLIP's verdict needs an output that is no map."""
    model, text = plus(weights, **changes)
    images, seen = images_of(2), []
    model.image_encoder.transformer.resblocks[0].register_forward_hook(lambda *_: seen.append(1))
    shared = model.before_names(images)
    patches = model.clip_patches(images, shared)
    evidence = torch.cat(list(model.all_names(images, text, 2, shared)), dim=1)
    assert len(seen) == runs and model.presence(patches, evidence, text, 0).shape == (2, 6)
    expected = plus(weights)[0].before_names(images).joint[:, 0]
    assert torch.allclose(patches, expected, atol=1e-6)


def backward(model: ESDAPlus, text: TextEmbedding, loss: Loss, options: Model) -> None:
    model.train()
    noise = model.draw_noise(2, text)
    target = torch.zeros(2, 32, 32, dtype=torch.uint8)
    target[:, 4:20, 8:24] = 1
    build_losses(model, loss, options)(model(images_of(2), text[[0, 1]], noise), target)["loss"].backward()


@pytest.mark.parametrize("decoder", ["convolutions", "guided"])
def test_without_branches_nothing_of_clip_is_touched_by_training(decoder, weights):
    model, text = plus(weights, decoder=decoder)
    backward(model, text, Loss(), options_of(decoder=decoder))
    trained = set(model.trainable_state())
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert all(name.startswith(("interactor.", "decoder.")) for name in trained)
    assert not model.before_names(images_of(1)).encoding.tokens.requires_grad
    assert build_losses(model, Loss(last=0.2, others=0.1), options_of()).weights == {"main": 1.0}


def test_with_branches_they_train_and_the_maps_stay_those_of_clip(weights):
    options = options_of(branch_rank=2)
    model, text = plus(weights, branch_rank=2)
    assert not any(name.startswith("image_encoder.text_proj") for name in model.state_dict())
    losses = build_losses(model, Loss(last=0.2, others=0.1), options)
    assert losses.weights == {"main": 1.0, "others": 0.1}
    frozen = model.before_names(images_of(2)).joint
    with torch.no_grad():
        for branch in model.image_encoder.branches.values():
            branch.up += 0.1 * torch.randn_like(branch.up)
    backward(model, text, Loss(last=0.2, others=0.1), options)
    assert all(branch.down.grad.any() and branch.up.grad.any() for branch in model.image_encoder.branches.values())
    views = model.before_names(images_of(2))
    assert torch.equal(views.joint, frozen) and not views.joint.requires_grad and views.patches.requires_grad


@pytest.mark.parametrize("rank", [0, 2])
def test_with_text_navigation_the_name_steers_the_encoder_and_the_maps_stay_those_of_clip(rank, weights, monkeypatch):
    changes = {**NAVIGATION, "branch_rank": rank, "text_start": "clip"}
    model, text = plus(weights, **changes)
    assert torch.equal(model.image_encoder.text_proj.weight,
                       model.image_encoder.ln_post.weight[:, None] * model.image_encoder.proj)
    views = model.before_names(images_of(2))
    assert torch.equal(views.joint, plus(weights)[0].before_names(images_of(2)).joint)
    with monkeypatch.context() as blind:        # the name's similarity is hidden: it has another way in
        blind.setattr(model, "similarity", lambda *_: torch.zeros(2, 2, 3, 16))
        one, two = (model.segment(views, text[names], (32, 32)).logits for names in ([0, 1], [2, 3]))
    assert not torch.allclose(one, two, atol=1e-5)
    backward(model, text, Loss(last=0, others=0.1), options_of(**changes))
    assert model.image_encoder.text_proj.weight.grad.any()
    assert all(branch.up.grad.any() for branch in model.image_encoder.branches.values())
    assert {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()} <= set(
        model.trainable_state())


def test_the_random_numbers_of_a_step_are_drawn_for_the_whole_batch(weights):
    model, text = plus(weights, rival_drop=0.5)
    model.train()
    torch.manual_seed(4)
    noise = model.draw_noise(64, text)
    assert noise.decoder.shape == (64, 64, 1, 1) and noise.rivals.shape == (64, 3)
    assert 0.35 < noise.rivals.float().mean() < 0.65
    images, names = images_of(4), text[[0, 1, 0, 5]]
    whole = model(images, names, noise[:4]).logits
    parts = torch.cat([model(images[part], names[part], noise[part]).logits for part in (slice(0, 2), slice(2, 4))])
    assert torch.allclose(whole, parts, atol=1e-5)
    state = torch.get_rng_state()
    model(images, names, noise[:4])
    assert torch.equal(torch.get_rng_state(), state)  # nothing else is drawn
    assert not plus(weights, rival_drop=1.0)[0].draw_noise(8, text).rivals.any()


def test_the_guides_weights_are_what_they_are_said_to_be():
    torch.manual_seed(5)
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
        for p, (down, right) in enumerate(PLACES):
            if 0 <= row + down < 24 and 0 <= column + right < 32:
                unlike = (cells[1, :, row + down, column + right] - here).abs() / (spread + 1e-3)
                expected[p] = decoder.place[p, 0, 0] - decoder.sharpness[p, 0, 0].exp() * unlike.mean()
        assert torch.allclose(weights[1, :, row, column], expected.softmax(dim=0), atol=1e-5)
    steps = (-1, 0, 1)
    assert sorted(PLACES) == sorted((d * i, d * j) for d in (1, 2, 4, 8) for i in steps for j in steps if i or j)


def test_guided_evidence_stays_on_its_side_of_a_border():
    """A patch of evidence that lies across a border in the image goes to the side on which more of it lies."""
    decoder = GuidedDecoder(8, channels=8, rounds=20)
    image = torch.full((1, 3, 64, 64), -1.0)
    image[..., 36:] = 1                                                  # in the middle of the fifth patch: cell 18
    found = torch.where(torch.arange(8) < 4, 1.0, -1.0).expand(1, 1, 8, 8)
    found = bilinear(found, (32, 32))
    assert (found[..., :16] > 0).all() and (found[..., 16:] < 0).all()
    with torch.no_grad():
        found = decoder.spread(found, decoder.guide(image, (8, 8)))
    assert (found[..., :18] > 0).all() and (found[..., 18:] < 0).all()


def test_each_image_is_guided_by_its_own_guide_whatever_the_names(weights):
    model, text = plus(weights, decoder="guided")
    images = images_of(2)
    views = model.before_names(images)
    mixed = views.encoding._replace(guide=views.encoding.guide.flip(0))  # the same patches, another picture beside them
    mixed = views._replace(encoding=mixed)
    one, other = (model.segment(v, text[[0, 0]], (32, 32)).logits for v in (views, mixed))
    assert (one - other).abs().max() > 1e-4
    model.set_rivals(torch.randn(2, 12))
    assert torch.equal(model.before_names(images).encoding.guide, views.encoding.guide)


def test_clips_own_verdict_is_part_of_presence_but_not_of_its_training(weights):
    model, text = plus(weights, presence_head=True)
    images, names = images_of(2), text[[0, 3]]
    clip = CLIP(VisionTransformer(32, 8, 128, 3, 2, 12), TextEncoder(49408, 16, 64, 1, 1, 12)).visual
    clip.load_state_dict(weights.visual)
    with torch.no_grad():
        tokens = F.normalize(clip.project(clip(model.normalise(images))), dim=-1)            # (2, 17, 12)
        cosines = (tokens @ F.normalize(names.cls, dim=-1)[:, :, None])[..., 0]
        expected = weights.logit_scale.exp() * cosines[:, 1:].amax(dim=1)                    # of 16 patches the best
        assert torch.allclose(model.clip_presence(model.before_names(images), names), expected, atol=1e-3)
        told = model(images, names).presence
        noise = model.draw_noise(2, text)._replace(rivals=torch.ones(2, 3, dtype=torch.bool))
        alone = model.train()(images, names, noise).presence
    assert torch.allclose(told - alone, 2 * expected, atol=1e-3)


@pytest.mark.parametrize("changes, wrong", [({"interactor_width": 96}, "model.interactor_width=96"),
                                            ({"interactor_width": 256}, "model.interactor_width=256"),
                                            ({"decoder": "guide"}, "did you mean 'guided'"),
                                            ({"branch_rank": 2, "branch_indices": [3]}, "block 3")])
def test_what_does_not_fit_is_named(changes, wrong, weights):
    with pytest.raises(WeightsError, match=wrong.replace("?", ".")):
        build_plus(options_of(**changes), weights)


def test_the_presence_head_is_a_soft_maximum_that_trains_without_the_decoder(weights):
    head = PresenceHead(8)
    patches = torch.randn(2, 5, 8)
    each = head.read(F.layer_norm(patches, (8,)))[..., 0]
    assert torch.allclose(head(patches), each.exp().mean(dim=1).log(), atol=1e-6)
    model, text = plus(weights, presence_head=True)
    images, asked = images_of(3), text[torch.tensor([0, 2, 4])]
    output = model.train()(images, asked, model.draw_noise(3, text))
    losses = build_losses(model, Loss(last=0, others=0), options_of(presence_head=True))(
        output, torch.zeros(3, 32, 32, dtype=torch.uint8))                # all three names are absent
    assert set(losses) == {"loss", "main", "presence"} and losses["main"] == 0
    losses["loss"].backward()
    assert not any(p.grad.any() for p in model.decoder.parameters() if p.grad is not None)
    assert all(p.grad.any() for p in [*model.presence_head.parameters(), *model.interactor.read.parameters()])
    with torch.no_grad():
        output = model.eval()(images, asked)
        every = torch.cat([present for _, present in model.names_and_presence(images, text, 4)], dim=1)
    assert torch.allclose(every[range(3), [0, 2, 4]], output.presence, atol=1e-5)
    assert plus(weights)[0](images, asked).presence is None

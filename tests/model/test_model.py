"""The model's promises: sizes, what trains, what stays, which token is where, and what is computed when."""
import shutil

import pytest
import torch

from model.build import build_esda
from model.clip.clip import CLIP
from model.clip.layers import attend
from model.clip.text_encoder import TextEmbedding, TextEncoder
from model.clip.vision_transformer import VisionTransformer
from model.clip.weights import ClipWeights, WeightsError
from model.esda import ESDA
from model.image_encoder import ImageEncoder
from model.interactor import Interactor
from model.losses import EsdaLosses
from model.mask_decoder import MaskDecoder
from model.released import ReleasedInteractor
from model.similarity import similarity_map
from util.options import Model

OPTIONS = dict(size=32, replace_indices=[1, 2], pixel_mean=[0.5] * 3, pixel_std=[0.5] * 3)


def tiny_weights(embed_dim: int = 12) -> ClipWeights:
    torch.manual_seed(1)
    clip = CLIP(VisionTransformer(32, 8, 64, 3, 1, embed_dim), TextEncoder(50, 10, 64, 1, 1, embed_dim))
    return ClipWeights(clip.visual.state_dict(), clip.text.state_dict(), clip.logit_scale.detach(), "tiny")


def tiny_esda(**changes) -> ESDA:
    weights = tiny_weights(changes.pop("embed_dim", 12))
    torch.manual_seed(2)
    return build_esda(Model(**{**OPTIONS, **changes}), weights)


def batch(model: ESDA, size: int = 2):
    torch.manual_seed(3)
    images = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8)
    ids = torch.zeros(size, 10, dtype=torch.long)
    ids[:, :4] = torch.tensor([48, 5, 7, 49])
    ids[1:, 1] = 9
    target = torch.zeros(size, 32, 32, dtype=torch.uint8)
    target[:, 4:20, 8:24] = 1
    target[:, :2] = 255
    with torch.no_grad():
        return images, model.text_encoder(ids), target


def losses(output, target):
    return EsdaLosses({"main": 1.0, "last": 0.2, "others": 0.1})(output, target)


def step(model: ESDA, images, text, target, bf16: bool = False) -> list[torch.Tensor]:
    """Logits, loss and gradients of one training step, with the same dropout each time."""
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model.train()(images, text)
    loss = losses(output, target)["loss"]
    return [output.logits, loss, *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]


def test_vit_b16_at_480_px_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = ESDA(TextEncoder(49408, 77, 512, 12, 8, 512), ImageEncoder(480, 16, 768, 12, 12, 512),
                     Interactor(768, 12, 512, 512, layers=2), MaskDecoder(768), [0.5] * 3, [0.5] * 3)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 39_191_938
    assert sum(p.numel() for p in model.parameters()) == 189_353_346


def test_only_what_esda_adds_gets_gradients_and_clip_stays_as_it_is():
    model = tiny_esda().train()
    images, text, target = batch(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(3):  # the branches' first factor has no gradient until the second one has left zero
        optimizer.zero_grad()
        losses(model(images, text), target)["loss"].backward()
        with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    added = {name for name in before if name.startswith(("interactor.", "decoder.", "image_encoder.text_proj.",
                                                         "image_encoder.branches."))}
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    # attention is blind to a constant added to all keys, so nothing else than these may stand still
    assert with_gradient == added == set(model.trainable_state())
    assert moved == added


def test_branches_start_from_clip_itself():
    with_branches, without = tiny_esda(), tiny_esda(branch_rank=0)
    without.load_state_dict(with_branches.state_dict(), strict=False)
    images, text, _ = batch(with_branches)
    pixels = (images / 255 - 0.5) / 0.5
    assert torch.equal(with_branches.image_encoder(pixels, text.cls).patches,
                       without.image_encoder(pixels, text.cls).patches)


def test_branch_adds_the_low_rank_product():
    model = tiny_esda(branch_indices=[1]).eval()
    branch = model.image_encoder.branches["1"]
    assert list(model.image_encoder.branches) == ["1"] and branch.down.shape == (64, 2)
    torch.nn.init.normal_(branch.up)
    x = torch.randn(2, 5, 64)
    assert torch.allclose(branch(x), x @ (branch.down @ branch.up), atol=1e-4)
    assert torch.linalg.matrix_rank(branch.down @ branch.up) == 2


def test_the_text_enters_where_replace_indices_say():
    images, text, _ = batch(tiny_esda())
    other = TextEmbedding(text.cls + 1, text.tokens, text.valid)
    for indices, changes in (([], False), ([1], True), ([0], True)):
        encoder = tiny_esda(replace_indices=indices).image_encoder.eval()
        a, b = (encoder(images / 255, t.cls).patches for t in (text, other))
        assert (not torch.equal(a, b)) == changes
    encoder = tiny_esda(replace_indices=[2]).image_encoder.train()  # blocks 0 and 1 have not met the text
    a, b = (encoder(images / 255, t.cls).blocks for t in (text, other))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@pytest.mark.parametrize("field", ["replace_indices", "branch_indices", "prior_indices"])
def test_a_block_that_is_not_there_is_named(field):
    with pytest.raises(WeightsError, match=f"model.{field} names block 7"):
        tiny_esda(**{field: [7]})


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_patch_tokens_keep_their_places_through_the_interactor(layers):
    interactor = Interactor(64, 1, 12, 64, layers).eval()
    text = TextEmbedding(torch.randn(2, 12), torch.randn(2, 10, 64), torch.arange(10).expand(2, -1) < 4)
    image, patches = torch.randn(2, 12), torch.randn(2, 16, 64)
    swapped = patches.clone()
    swapped[:, [3, 11]] = patches[:, [11, 3]]
    a, b = interactor(text, image, patches), interactor(text, image, swapped)
    expected = a.clone()
    expected[:, [3, 11]] = a[:, [11, 3]]
    assert torch.allclose(b, expected, atol=1e-5)
    assert (a[:, 3] - a[:, 11]).abs().max() > 0.01  # or the swap would prove nothing


def test_padding_is_hidden_except_in_the_released_interactor():
    text = TextEmbedding(torch.randn(1, 12), torch.randn(1, 10, 64), torch.arange(10)[None] < 4)
    noise = text._replace(tokens=torch.where(text.valid[..., None], text.tokens, torch.randn(1, 10, 64)))
    shown = text._replace(tokens=text.tokens + (torch.arange(10) == 2)[None, :, None])
    image, patches = torch.randn(1, 12), torch.randn(1, 16, 64)
    hiding = Interactor(64, 1, 12, 64, 2).eval()
    assert torch.allclose(hiding(text, image, patches), hiding(noise, image, patches), atol=1e-6)
    assert not torch.allclose(hiding(text, image, patches), hiding(shown, image, patches), atol=1e-4)
    seeing = ReleasedInteractor(64, 1, 12, 64, 2, moves_tokens=False).eval()
    assert not torch.allclose(seeing(text, image, patches), seeing(noise, image, patches), atol=1e-4)


def test_one_linear_serves_cls_and_tokens_where_their_widths_agree():
    assert Interactor(64, 1, 64, 64, 2).token_proj is None
    assert Interactor(64, 1, 12, 64, 2).token_proj.in_features == 64
    assert Interactor(64, 1, 12, 64, 2, text_tokens=False).token_proj is None


def test_training_and_evaluation_return_the_same_fields_and_the_same_logits_but_for_dropout():
    model = tiny_esda(dropout=0.0)
    images, text, _ = batch(model)
    training, evaluation = model.train()(images, text), model.eval()(images, text)
    assert training._fields == evaluation._fields
    assert torch.allclose(training.logits, evaluation.logits, atol=1e-6)
    assert training.logits.shape == (2, 2, 32, 32) and training.prior.shape == (2, 1, 4, 4)
    assert sorted(training.blocks) == [0, 1] and evaluation.blocks == {}  # only the losses want them


def test_prior_indices_choose_the_maps():
    model = tiny_esda(prior_indices=[1]).train()
    images, text, _ = batch(model)
    assert sorted(model(images, text).blocks) == [1]


def test_esda_takes_the_guided_decoder_whose_guide_is_made_once_an_image():
    model = tiny_esda(decoder="guided")
    images, text, target = batch(model)
    made = []
    model.decoder.register_forward_pre_hook(lambda _, __, kwargs: made.append(kwargs["guide"]), with_kwargs=True)
    gradients = step(model, images, text, target)[2:]
    assert len(gradients) == len([p for p in model.parameters() if p.requires_grad])
    assert model.decoder.place.requires_grad and model.decoder.sharpness.requires_grad
    model.eval()
    with torch.no_grad():
        alone = model(images, text).logits
        every = torch.cat(list(model.all_names(images, text, 2)), dim=1)
    assert torch.allclose(every[[0, 1], [0, 1]], alone[:, 1] - alone[:, 0], atol=1e-5)
    assert torch.equal(made[-1][:2], made[-1][0].expand(2, *made[-1][0].shape))     # of one image, for two names


def test_a_sample_does_not_depend_on_its_batch():
    model = tiny_esda().eval()
    images, text, _ = batch(model, 3)
    alone = model(images[1:2], text[torch.tensor([1])]).logits
    assert torch.allclose(model(images, text).logits[1:2], alone, atol=1e-5)


def test_prior_mask_is_the_min_max_normalised_cosine_with_the_text():
    model = tiny_esda().eval()
    images, text, _ = batch(model)
    out = model.image_encoder((images / 255 - 0.5) / 0.5, text.cls)
    by_hand = []
    for patches, t in zip(out.patches, out.text):
        cosine = torch.stack([p @ t / (p.norm() * t.norm()) for p in patches])
        by_hand.append((cosine - cosine.min()) / (cosine.max() - cosine.min()))
    prior = model(images, text).prior
    assert torch.allclose(prior.flatten(1), torch.stack(by_hand), atol=1e-4)
    assert prior.amin().item() == 0 and prior.amax().item() == pytest.approx(1, abs=1e-4)


def test_an_even_similarity_map_stays_finite():
    patches = torch.ones(1, 16, 8, requires_grad=True)
    similarity_map(patches, torch.zeros(1, 8)).sum().backward()
    assert torch.isfinite(patches.grad).all()


def test_text_can_start_where_clip_would_look_for_it():
    model = tiny_esda(text_start="clip", branch_rank=0, replace_indices=[]).eval()
    encoder = model.image_encoder
    images, text, _ = batch(model)
    with torch.no_grad():
        encoder.ln_post.bias.zero_()
        out = encoder((images / 255 - 0.5) / 0.5, text.cls)
        by_clip = encoder.project(out.patches) @ text.cls[:, :, None]             # CLIP's patch-text match
        centred = (out.patches - out.patches.mean(-1, keepdim=True)) @ out.text[:, :, None]
        spread = out.patches.std(-1, keepdim=True, correction=0)
    assert torch.allclose(centred / spread, by_clip, atol=1e-3)


@pytest.mark.parametrize("mask", ["none", "keys", "causal"])
def test_attention_in_bf16_on_a_cpu_is_attention(mask):
    """The plain products against torch's kernel in fp32: outputs and gradients as near as bf16 can be."""
    torch.manual_seed(0)
    qkv = torch.randn(3, 2, 4, 33, 16)
    masks = {"none": None, "keys": torch.rand(2, 1, 1, 33) < 0.7, "causal": torch.ones(33, 33, dtype=torch.bool).tril()}
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        parts = [x.to(dtype).requires_grad_() for x in qkv]
        out = attend(*parts, masks[mask])
        (out.float() * torch.linspace(0, 1, 16)).sum().backward()
        found.append([out, *(x.grad for x in parts)])
        with torch.no_grad():
            assert torch.equal(attend(*parts, masks[mask]), out)
    for exact, fast in zip(*found):
        assert (fast.float() - exact).abs().max() < 0.03 * exact.abs().max()


def test_frozen_weights_held_in_bf16_change_no_number():
    model = tiny_esda()
    given = batch(model)
    before = step(model, *given, bf16=True)
    model.cast_frozen(torch.bfloat16)
    assert model.image_encoder.transformer.resblocks[0].mlp.c_fc.weight.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    assert all(torch.equal(a, b) for a, b in zip(before, step(model, *given, bf16=True)))


def test_the_residual_stream_in_bf16_is_for_evaluation_alone():
    """Under autocast the image encoder's tokens are bf16 in evaluation and fp32 in training; logits agree."""
    model = tiny_esda(dropout=0.0).eval()
    images, text, _ = batch(model)
    exact, found, types = model(images, text).logits, {}, {}
    model.image_encoder.transformer.resblocks[-1].register_forward_hook(
        lambda module, args, out: types.update({torch.is_grad_enabled(): out.dtype}))
    for trains in (True, False):
        with torch.set_grad_enabled(trains), torch.autocast("cpu", torch.bfloat16):
            found[trains] = model(images, text).logits
        assert (found[trains] - exact).abs().max() < 0.03 * exact.abs().max()
    assert types == {True: torch.float32, False: torch.bfloat16}
    with torch.inference_mode():
        assert torch.allclose(model(images, text).logits, exact, atol=1e-6)  # fp32 stays fp32


@pytest.mark.parametrize("bf16", [False, True])
def test_blocks_computed_again_in_backward_change_no_number(bf16):
    model, found, kept = tiny_esda(), [], []
    given = batch(model)
    for again in (False, True):
        if again:
            model.recompute_blocks()
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=saved: to.append(x.numel()) or x, lambda x: x):
            found.append(step(model, *given, bf16))
        kept.append(sum(saved))
    assert all(torch.equal(a, b) for a, b in zip(*found))
    assert kept[1] < 0.6 * kept[0]  # weights, which are kept in any case, are among them


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_keep_names_and_numbers():
    """One block is computed again in backward, so that both kinds are compiled."""
    model = tiny_esda(interactor_layers=1)
    images, text, target = batch(model)
    names, found = list(model.state_dict()), []
    for compiled in (False, True):
        if compiled:
            model.compile_blocks()
            model.image_encoder.transformer.resblocks[-1].recomputed = True
        found.append(step(model, images, text, target))
        with torch.inference_mode():
            found[-1].append(model.eval()(images, text).logits)
    assert list(model.state_dict()) == names
    for eager, compiled in zip(*found):
        torch.testing.assert_close(compiled, eager, atol=1e-4, rtol=1e-3)
    torch._dynamo.reset()

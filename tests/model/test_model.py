"""The model's promises: sizes, what trains, what stays, which token is where, and what is computed when."""
from functools import partialmethod

import pytest
import torch

from model.build import build_model
from model.clip.clip import CLIP
from model.clip.layers import Block
from model.clip.text_encoder import TextEncoder
from model.clip.vision_transformer import VisionTransformer
from model.clip.weights import ClipWeights, WeightsError
from model.esda import ESDA
from model.image_encoder import ImageEncoder
from model.interactor import Interactor
from model.losses import EsdaLosses
from model.mask_decoder import MaskDecoder
from util.options import Config, Model

OPTIONS = dict(size=32, replace_indices=[1, 2], pixel_mean=[0.5] * 3, pixel_std=[0.5] * 3)
PAPER = EsdaLosses({"main": 1.0, "last": 0.2, "others": 0.1})


def tiny_esda(**changes) -> ESDA:
    torch.manual_seed(1)
    clip = CLIP(VisionTransformer(32, 8, 64, 3, 1, 12), TextEncoder(50, 10, 64, 1, 1, 12))
    weights = ClipWeights(clip.visual.state_dict(), clip.text.state_dict(), clip.logit_scale.detach(), "tiny")
    return build_model(Config(model=Model(**{**OPTIONS, **changes})), weights)


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


def encoded(model: ESDA, images, text):
    """What the image encoder makes of images and names."""
    encoder = model.image_encoder
    return encoder.with_text(encoder.before_text(model.normalise(images)), text.cls)


def step(model: ESDA, images, text, target, bf16: bool = False) -> list[torch.Tensor]:
    """Logits, loss and gradients of one training step, with the same dropout each time."""
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model.train()(images, text)
    loss = PAPER(output, target)["loss"]
    return [output.logits, loss, *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]


def test_vit_b16_at_480_px_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = ESDA(TextEncoder(49408, 77, 512, 12, 8, 512), ImageEncoder(480, 16, 768, 12, 12, 512), [0.5] * 3,
                     [0.5] * 3, 100.0, interactor=Interactor(768, 12, 512, 512, layers=2), decoder=MaskDecoder(768))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 39_191_938
    assert sum(p.numel() for p in model.parameters()) == 189_353_346


def test_only_what_esda_adds_gets_gradients_and_clip_stays_as_it_is():
    model = tiny_esda().train()
    images, text, target = batch(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(3):  # the branches' first factor has no gradient until the second one has left zero
        optimizer.zero_grad()
        PAPER(model(images, text), target)["loss"].backward()
        with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    added = {name for name in before if name.startswith(("interactor.", "decoder.", "image_encoder.text_proj.",
                                                         "image_encoder.branches."))}
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert with_gradient == added == set(model.trainable_state()) == moved


def test_branches_start_from_clip_itself():
    model, without = tiny_esda(), tiny_esda(branch_rank=0)
    without.load_state_dict(model.state_dict(), strict=False)
    images, text, _ = batch(model)
    assert torch.equal(encoded(model, images, text).patches, encoded(without, images, text).patches)


def test_blocks_before_the_first_that_reads_the_text_have_not_met_it():
    model = tiny_esda(replace_indices=[2]).train()
    images, text, _ = batch(model)
    a, b = (encoded(model, images, t) for t in (text, text._replace(cls=text.cls + 1)))
    assert torch.equal(a.blocks[1], b.blocks[1]) and not torch.equal(a.patches, b.patches)
    with pytest.raises(WeightsError, match=r"model.replace_indices=\[1, 3\]: .* blocks 0 to 2"):
        tiny_esda(replace_indices=[1, 3])


def test_a_step_draws_its_random_numbers_for_the_whole_batch_and_its_parts_take_their_rows():
    model = tiny_esda().train()
    images, text, _ = batch(model, 4)
    torch.manual_seed(5)
    noise = model.sample_noise(4, text, 0.5)
    assert noise.decoder.shape == (4, 64, 1, 1) and noise.decoder.unique().tolist() == pytest.approx([0, 1 / 0.9])
    state = torch.get_rng_state()
    whole = model(images, text, noise).logits
    parts = torch.cat([model(images[k:k + 2], text[range(k, k + 2)], noise[k:k + 2]).logits for k in (0, 2)])
    assert torch.allclose(whole, parts, atol=1e-5) and torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(whole, model(images, text, noise._replace(text=None)).logits, atol=1e-3)
    assert model.sample_noise(4, text).text is None


@pytest.mark.parametrize("decoder", ["convolutions", "guided"])
def test_all_names_is_what_each_name_gives_and_the_decoder_trains(decoder):
    model = tiny_esda(decoder=decoder)
    images, text, target = batch(model, 3)
    assert all(gradient.isfinite().all() for gradient in step(model, images, text, target))
    with torch.inference_mode():
        every = torch.cat(list(model.eval().all_names(images, text, 2)), dim=1)
        for k in range(3):  # each alone, too
            alone = model(images[k:k + 1], text[[k]]).logits
            assert torch.allclose(every[k:k + 1, k], alone[:, 1] - alone[:, 0], atol=1e-5)


def test_text_can_start_where_clip_would_look_for_it():
    model = tiny_esda(text_start="clip", branch_rank=0, replace_indices=[]).eval()
    images, text, _ = batch(model)
    with torch.no_grad():
        model.image_encoder.ln_post.bias.zero_()
        out = encoded(model, images, text)
        by_clip = model.image_encoder.project(out.patches) @ text.cls[:, :, None]             # CLIP's patch-text match
        centred = (out.patches - out.patches.mean(-1, keepdim=True)) @ out.text[:, :, None]
        spread = out.patches.std(-1, keepdim=True, correction=0)
    assert torch.allclose(centred / spread, by_clip, atol=1e-3)


def test_the_residual_stream_in_bf16_is_for_evaluation_alone():
    """Under autocast the image encoder's tokens are bf16 in evaluation and fp32 in training; logits agree."""
    model = tiny_esda().eval()
    images, text, _ = batch(model)
    exact, types = model(images, text).logits, {}
    model.image_encoder.transformer.resblocks[-1].register_forward_hook(
        lambda module, args, out: types.update({torch.is_grad_enabled(): out.dtype}))
    for trains in (True, False):
        with torch.set_grad_enabled(trains), torch.autocast("cpu", torch.bfloat16):
            assert (model(images, text).logits - exact).abs().max() < 0.03 * exact.abs().max()
    assert types == {True: torch.float32, False: torch.bfloat16}


@pytest.mark.parametrize("bf16", [False, True])
def test_frozen_weights_in_bf16_and_blocks_computed_again_change_no_number(bf16):
    model, found, kept = tiny_esda(), [], []
    given = batch(model)
    for again in (False, True):
        if again:
            model.recompute_blocks()
            if bf16:
                model.cast_frozen(torch.bfloat16)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=saved: to.append(x.numel()) or x, lambda x: x):
            found.append(step(model, *given, bf16))
        kept.append(sum(saved))
    assert all(torch.equal(a, b) for a, b in zip(*found))
    assert kept[1] < 0.6 * kept[0]  # weights, which are kept in any case, are among them
    types = {p.dtype for p in model.image_encoder.parameters() if not p.requires_grad}
    assert (torch.bfloat16 in types) == bf16
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_compiled_blocks_keep_names_and_numbers(monkeypatch):
    """By the graphs that torch.compile makes, without its compiler. One block is computed again in backward."""
    monkeypatch.setattr(Block, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
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
    assert list(model.state_dict()) == names and torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for eager, compiled in zip(*found):
        torch.testing.assert_close(compiled, eager, atol=1e-4, rtol=1e-3)
    torch._dynamo.reset()

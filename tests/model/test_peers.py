"""Other papers' heads: each core formula against a few lines of its own, what trains, which names a head may see."""
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from data.dataset import TrainBatch
from model.build import build_losses, build_model, embed_classes
from model.clip.clip import CLIP
from model.clip.text_encoder import TextEncoder
from model.clip.vision_transformer import VisionTransformer
from model.clip.weights import ClipWeights, WeightsError
from model.peers.catseg import CLIP_RATE, GuidedBlock
from model.peers.lseg import Bottleneck
from model.peers.zegclip import relationship
from util.options import Config, Eval, Model, Peers, Train
from util.training.loop import Position, train_one_epoch
from util.training.optim import make_optimizer

NAMES, SEEN = ["cat", "dog", "bird", "house", "a tree", "sheep"], (1, 2, 4, 5)
BLOCKS = {"lseg": [0, 1, 2, 3], "clipseg": [0, 1, 3], "zegclip": [0], "catseg": [0, 2]}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights() -> ClipWeights:
    torch.manual_seed(1)
    clip = CLIP(VisionTransformer(32, 8, 64, 4, 1, 12), TextEncoder(49408, 16, 64, 1, 1, 12))
    return ClipWeights(clip.visual.state_dict(), clip.text.state_dict(), clip.logit_scale.detach(), "tiny")


def made(weights, kind, names=NAMES, **peers):
    cfg = Config(model=Model(kind=kind, size=32), peers=Peers(**{"blocks": BLOCKS[kind], "names": 3, **peers}),
                 train=Train(optimizer="adamw", lr=1e-2), eval=Eval())
    torch.manual_seed(2)
    model = build_model(cfg, weights).eval()
    for name, parameter in model.named_parameters():    # no zero and no one where a formula might forget a term
        if parameter.requires_grad and not name.startswith("image_encoder"):
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model, embed_classes(model, names, SEEN, cfg), cfg


def images_of(count: int, height: int = 32) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randint(0, 256, (count, 3, height, 32), dtype=torch.uint8)


@pytest.mark.parametrize("kind", BLOCKS)
def test_bf16_is_fp32_but_for_rounding_and_its_operations_can_be_counted(kind, weights):
    model, text, _ = made(weights, kind)
    images, found = images_of(2), []
    for on in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=on), \
                FlopCounterMode(display=False) as counter:
            margins, = model.all_names(images, text, len(NAMES))
        found.append(margins.float())
        assert counter.get_total_flops() > 1e6
    fp32, bf16 = (margins - margins.mean() for margins in found)
    assert F.cosine_similarity(fp32.flatten(), bf16.flatten(), dim=0) > 0.98


def attention(q, k, v, heads):
    """Softmax attention, one head and one query at a time; (N, C) each."""
    out, d = torch.zeros_like(q), q.shape[1] // heads
    for h in range(heads):
        at = slice(h * d, (h + 1) * d)
        for i in range(len(q)):
            out[i, at] = (k[:, at] @ q[i, at] / d ** 0.5).softmax(0) @ v[:, at]
    return out


@pytest.mark.parametrize("kind", BLOCKS)
def test_names_do_not_change_each_other_and_sizes_hold(kind, weights):
    model, text, _ = made(weights, kind)
    images = images_of(2, 24)
    among = torch.cat(list(model.all_names(images, text, 4)), dim=1)         # (2, 6, 24, 32)
    for row in (0, 2):
        alone = model(images, text[[row, row]])
        assert alone.logits.shape == (2, 2, 24, 32) and alone.prior.shape == (2, 1, 3, 4)
        assert 0 <= alone.prior.min() and alone.prior.max() <= 1 and alone.logits.isfinite().all()
        assert torch.allclose(among[:, row], alone.logits[:, 1] - alone.logits[:, 0], atol=1e-4)
    assert not torch.allclose(among[:, 0], among[:, 2], atol=1e-3)           # the name decides
    patches = model.clip_patches(images, model.before_names(images))
    assert patches.shape == (2, 12, 12) and torch.allclose(patches.norm(dim=-1), torch.ones(2, 12), atol=1e-5)


def trained(weights, kind, optimizer: str, micro_batch: int = 0):
    """A model after one step on two samples, and its state before."""
    model, text, cfg = made(weights, kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cfg.train.micro_batch, cfg.train.optimizer = micro_batch, optimizer
    targets = torch.zeros(2, 32, 32, dtype=torch.uint8)
    targets[:, 3:20, 5:30], targets[:, :2] = 1, 255
    batch = TrainBatch(images_of(2), targets, torch.tensor([1, 2]))
    losses = build_losses(model, cfg)
    done, = train_one_epoch(model, losses, text, [batch], make_optimizer(model, cfg.train), Position(), 1, cfg.train,
                            CPU, torch.autocast("cpu", enabled=False))
    assert set(losses.weights) == {"main"} and done["losses"]["loss"] > 0
    return model, before


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_step_trains_the_head_and_its_part_of_clip_alone(kind, weights):
    model, before = trained(weights, kind, "adamw")
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert changed <= model.trainable_state().keys()
    of_clip = {name.removeprefix("image_encoder.") for name in changed if name.startswith("image_encoder.")}
    if kind == "lseg":
        assert of_clip == {name for name, _ in model.image_encoder.named_parameters()
                           if not name.startswith(("proj", "ln_post"))}
    else:
        assert {name.split(".")[-1] for name in of_clip} == {"catseg": {"query", "value"}}.get(kind, set())


@pytest.mark.parametrize("kind", BLOCKS)
def test_parts_of_a_batch_change_nothing(kind, weights):
    (whole, _), (parts, _) = (trained(weights, kind, "sgd", micro_batch) for micro_batch in (0, 1))
    for name, tensor in whole.trainable_state().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def test_clipseg_is_its_formula(weights):
    """FiLM on the deepest of three layers, then post-norm blocks that each take a shallower one."""
    model, text, _ = made(weights, "clipseg")
    images = images_of(1)
    with torch.no_grad():
        x, after = model.image_encoder.embed(model.normalise(images)), []
        for block in model.image_encoder.transformer.resblocks:
            after.append(x := block(x))
        y = 0
        for i, layer in enumerate((3, 1, 0)):
            y = y + after[layer][0] @ model.reduces[i].weight.T + model.reduces[i].bias
            if i == 0:
                y = model.film_mul(text.cls[2]) * y + model.film_add(text.cls[2])
            block = model.blocks[i]
            q, k, v = (y @ block.self_attn.in_proj_weight.T + block.self_attn.in_proj_bias).chunk(3, dim=1)
            y = block.norm1(y + block.self_attn.out_proj(attention(q, k, v, 4)))
            y = block.norm2(y + block.linear2(block.linear1(y).relu()))
        margin = torch.zeros(32, 32)
        for i, cell in enumerate(y[1:]):
            at = [slice(8 * k, 8 * k + 8) for k in divmod(i, 4)]
            margin[at[0], at[1]] = (cell[:, None, None] * model.trans_conv.weight[:, 0]).sum(0) + model.trans_conv.bias
        found = model(images, text[[2]]).logits
    assert torch.allclose(found[0, 1] - found[0, 0], margin, atol=1e-4)


def test_lsegs_regularisation_is_one_kernel_and_the_best_label_whatever_their_order():
    torch.manual_seed(0)
    block, maps = Bottleneck().requires_grad_(False), torch.randn(1, 3, 4, 5)
    assert torch.allclose(block(maps), maps + maps.amax(1, keepdim=True))    # as it starts
    block.depthwise.weight.data.normal_()
    found, padded = block(maps), F.pad(maps, [1] * 4)
    for label in range(3):
        for y in range(4):
            for x in range(5):
                around = (padded[0, label, y:y + 3, x:x + 3] * block.depthwise.weight[0, 0]).sum()
                assert found[0, label, y, x] == pytest.approx(float(around + maps[0, :, y, x].max()), abs=1e-5)
    assert torch.allclose(block(maps[:, [2, 0, 1]]), found[:, [2, 0, 1]], atol=1e-6)


def test_lsegs_logits_are_scaled_cosines_of_two_labels(weights):
    model, text, _ = made(weights, "lseg")
    model.regularise = torch.nn.ModuleList()
    model.regularise.append(torch.nn.Identity())
    images = images_of(2)
    dense = model.before_names(images).pixels                                # (2, 12, 32, 32): 8 cells a patch
    assert torch.allclose(dense.norm(dim=1), torch.ones(2, 32, 32), atol=1e-5)
    expected = torch.stack([F.cosine_similarity(dense, label[:, None, None], dim=1)
                            for label in (model.others[0], text.cls[4])], dim=1) / 0.07
    assert torch.allclose(model(images, text[[4, 4]]).logits, expected, atol=1e-4)


def test_zegclip_is_its_formula(weights):
    """The relationship descriptor; the last layer's attention scores are the mask."""
    t, g = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
    assert torch.allclose(relationship(t, g), torch.tensor([[0, 1.6, 0.6 * 2 ** 0.5, 0.8 * 2 ** 0.5]]), atol=1e-6)
    model, text, _ = made(weights, "zegclip")
    images = images_of(1)
    with torch.no_grad():
        x = model.image_encoder.embed(model.normalise(images))
        for i, block in enumerate(model.image_encoder.transformer.resblocks):    # prompts are new in every block
            y = block(torch.cat([x[0], model.prompts[i]])[None])
            x = y[:, :x.shape[1]]
        joint = model.image_encoder.project(x)[0]
        query = model.relate(relationship(text.cls[3:4], joint[:1]))
        for i, match in enumerate(model.match):
            scores = match.query(match.norm_query(query)) @ match.key(match.norm_patches(joint[1:])).T / 12 ** 0.5
            if i < 2:
                update = model.update[i]
                query = query + update.out(scores.softmax(1) @ update.value(update.norm_patches(joint[1:])))
                query = query + update.mlp(update.norm_mlp(query))
        found = model.segment(model.before_names(images), text[[3]], (4 * 8, 4 * 8)).logits
        margin = F.interpolate(scores.view(1, 1, 4, 4), size=(32, 32), mode="bilinear", align_corners=False)[0, 0]
    assert torch.allclose(found[0, 1] - found[0, 0], margin, atol=1e-4)


def test_catsegs_block_reads_the_guidance_for_whom_to_attend_alone():
    torch.manual_seed(0)
    block, x, guide = GuidedBlock(64), torch.randn(1, 5, 64), torch.randn(1, 5, 64)
    with torch.no_grad():
        y = block.norms[0](x[0])
        q, k = block.query_key(torch.cat([y, guide[0]], dim=1)).chunk(2, dim=1)
        expected = x[0] + block.out(attention(q, k, block.value(y), 4))
        expected = expected + block.mlp(block.norms[1](expected))
        assert torch.allclose(block(x, guide)[0], expected, atol=1e-5)


def test_catseg_aggregates_costs_over_places_and_over_names(weights):
    model, text, _ = made(weights, "catseg")
    images = images_of(1)
    with torch.no_grad():
        shared = model.before_names(images)
        names = model.beside(F.normalize(text.cls[2:3], dim=-1), shared.image)[0]                  # (3, 12)
        cost = torch.stack([F.cosine_similarity(shared.joint[0], name, dim=-1) for name in names])      # (3, 16)
        x = torch.stack([model.embed(one.view(1, 1, 4, 4))[0].flatten(1).T for one in cost])       # (3, 16, 64)
        for over_places, over_names in zip(model.places, model.classes):
            x = torch.stack([over_places(one[None], shared.look)[0] for one in x])
            x = torch.stack([over_names(x[:, i][None], model.guide(names)[None])[0] for i in range(16)], dim=1)
        found = model.aggregate(cost[None], shared.look, model.guide(names)[None], (4, 4))[0]
    assert torch.allclose(found, x, atol=1e-5)


def test_catseg_upsamples_the_asked_name_with_the_shallower_block_first(weights):
    model, text, _ = made(weights, "catseg")
    images = images_of(1)
    with torch.no_grad():
        shared = model.before_names(images)
        names = model.beside(F.normalize(text.cls[2:3], dim=-1), shared.image)
        cost = model.logit_scale * names @ shared.joint.transpose(1, 2)
        x = model.aggregate(cost, shared.look, model.guide(names), (4, 4))[:, 0]
        x = x.transpose(1, 2).unflatten(2, (4, 4))
        tokens = model.image_encoder.embed(model.normalise(images))
        for i, block in enumerate(model.image_encoder.transformer.resblocks):
            tokens = block(tokens)
            if i in (0, 2):
                up, guide = model.up[i // 2], tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
                x = up.rise(x.relu() if i else x)
                guide = F.interpolate(up.narrow(guide), size=x.shape[2:], mode="bilinear", align_corners=False)
                x = up.mix(torch.cat([x, guide], dim=1))
        margin = F.interpolate(model.head(x), size=(32, 32), mode="bilinear", align_corners=False)[0, 0]
        found = model(images, text[[2]]).logits[0]
    assert torch.allclose(found[1] - found[0], margin, atol=1e-4)


def test_catseg_sees_only_seen_names_beside_the_one_asked_for(weights):
    model, text, _ = made(weights, "catseg")
    seen = F.normalize(text.cls[[i - 1 for i in SEEN]], dim=-1)
    shared = model.before_names(images_of(2))
    for row in range(len(NAMES)):
        beside = model.beside(F.normalize(text.cls[[row, row]], dim=-1), shared.image)
        assert torch.equal(beside[:, 0], F.normalize(text.cls[[row, row]], dim=-1))
        for image, others in zip(shared.image, beside[:, 1:]):
            likely = sorted((float((image @ name).detach()), i) for i, name in enumerate(seen))
            allowed = [i for _, i in reversed(likely) if SEEN[i] != row + 1][:2]    # without the name itself
            assert torch.allclose(others, seen[allowed], atol=1e-6)
    renamed = [name if i in SEEN else f"another thing {i}" for i, name in enumerate(NAMES, 1)]
    other, other_text, _ = made(weights, "catseg", [*renamed, "one more"])
    images = images_of(2)
    assert torch.equal(other(images, text[[2, 2]]).logits, model(images, text[[2, 2]]).logits)
    model.set_rivals(text.cls[:0])                                           # nobody beside it
    assert model(images, text[[2, 2]]).logits.isfinite().all()


def test_catseg_tunes_queries_and_values_not_keys(weights):
    model, *_ = made(weights, "catseg")
    attn = model.image_encoder.transformer.resblocks[1].attn
    own = weights.visual["transformer.resblocks.1.attn.in_proj_weight"]
    assert torch.equal(attn.in_proj_weight, own)                             # training starts from CLIP
    added = attn.parametrizations.in_proj_weight[0]
    added.query.data += 1
    added.value.data += 2
    q, k, v = (attn.in_proj_weight - own).chunk(3)
    assert torch.allclose(q, torch.tensor(CLIP_RATE)) and torch.allclose(v, torch.tensor(2 * CLIP_RATE)) and not k.any()


def test_a_block_that_clip_has_not_is_named(weights):
    with pytest.raises(WeightsError, match="peers.blocks=.0, 4.: .* has blocks 0 to 3"):
        made(weights, "catseg", blocks=[0, 4])

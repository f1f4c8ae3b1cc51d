"""Dense CLIP: each reading of the last block against its formula, a few lines over single heads and places."""
import pytest
import torch
import torch.nn.functional as F

from model.clip.dense import READINGS, dense_clip
from model.clip.vision_transformer import VisionTransformer

SIDE, PATCH, WIDTH, HEADS = 48, 8, 64, 2


@pytest.fixture(scope="module")
def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    encoder = VisionTransformer(SIDE, PATCH, WIDTH, 3, HEADS, 12).eval()
    for parameter in encoder.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)  # no bias of zero and no norm of one
    return encoder.requires_grad_(False)


def by_formula(encoder: VisionTransformer, images: torch.Tensor, reading: str, grid: tuple[int, int]) -> torch.Tensor:
    """The joint embedding of each patch, one head and one query at a time, in double precision."""
    if reading == "cls":
        return added_by_formula(encoder, images)
    with torch.no_grad():
        x = encoder.embed(images)
        for block in encoder.transformer.resblocks[:-1]:
            x = block(x)
        last = encoder.transformer.resblocks[-1]
        x, last = x.double(), last.double()
        weight, bias = last.attn.in_proj_weight, last.attn.in_proj_bias
        q, k, v = (last.ln_1(x) @ weight.T + bias).chunk(3, dim=-1)
        d = WIDTH // HEADS
        mixed = torch.zeros_like(x)
        for head in range(HEADS):
            at = slice(head * d, (head + 1) * d)
            left, right = {"output": (q, k), "kk": (k, k), "qq": (q, q), "value": (q, k)}[reading]
            for i in range(x.shape[1]):
                score = (right[:, :, at] * left[:, i:i + 1, at]).sum(-1) / d ** 0.5            # (B, N)
                for j in range(x.shape[1]):
                    if reading == "kk" and i and j:
                        (a, b), (c, e) = divmod(i - 1, grid[1]), divmod(j - 1, grid[1])
                        score[:, j] += torch.exp(torch.tensor(-((a - c) ** 2 + (b - e) ** 2) / 50.0))
                    if reading == "value" and i != j:
                        score[:, j] = -torch.inf
                mixed[:, i, at] = (score.softmax(1)[..., None] * v[:, :, at]).sum(1)
        y = last.attn.out_proj(mixed)
        if reading in ("output", "value"):
            y = x + y
            y = y + last.mlp(last.ln_2(y))
        last.float()
        return F.normalize(F.layer_norm(y[:, 1:].float(), (WIDTH,), encoder.ln_post.weight, encoder.ln_post.bias)
                           @ encoder.proj, dim=-1)


def added_by_formula(encoder: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """What each patch adds to [CLS] in all blocks, one head and one patch at a time, through the last LayerNorm."""
    x, d = encoder.embed(images), WIDTH // HEADS
    n = x.shape[1] - 1
    added = torch.zeros(len(x), n, WIDTH)
    for block in encoder.transformer.resblocks:
        q, k, v = (block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=-1)
        for at in (slice(head * d, (head + 1) * d) for head in range(HEADS)):
            share = ((k[:, :, at] * q[:, :1, at]).sum(-1) / d ** 0.5).softmax(1)
            for j in range(n):
                added[:, j] += share[:, j + 1, None] * v[:, j + 1, at] @ block.attn.out_proj.weight[:, at].T
        x = block(x)
    cls, norm = x[:, 0], encoder.ln_post
    assert torch.allclose((cls - cls.mean(1, keepdim=True)) / (cls.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
                          * norm.weight + norm.bias, norm(cls), atol=1e-5)
    parts = (added - added.mean(2, keepdim=True)) / (cls.var(1, correction=0)[:, None, None] + 1e-5).sqrt()
    return n ** 0.5 * (parts * norm.weight) @ encoder.proj / (norm(cls) @ encoder.proj).norm(dim=1)[:, None, None]


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("height", [SIDE, SIDE - PATCH])  # a square, and the part of it that `cut` leaves
def test_each_reading_is_its_formula(reading, height, encoder):
    images = torch.randn(2, 3, height, SIDE)
    found = dense_clip(encoder, images, (reading,)).joint[:, 0]
    expected = by_formula(encoder, images, reading, (height // PATCH, SIDE // PATCH))
    assert torch.allclose(found, expected, atol=2e-6)


def test_readings_come_in_the_order_asked_for_and_without_gradient(encoder):
    images = torch.randn(1, 3, SIDE, SIDE)
    tokens, joint, _ = dense_clip(encoder, images, READINGS)
    assert joint.shape == (1, 5, 36, 12) and torch.equal(tokens, encoder(images))
    assert not joint.requires_grad and not tokens.requires_grad
    for k, reading in enumerate(READINGS):
        assert torch.equal(joint[:, k], dense_clip(encoder, images, (reading,)).joint[:, 0])


def test_taps_are_the_tokens_after_the_blocks_asked_for(encoder):
    images = torch.randn(1, 3, SIDE, SIDE)
    _, joint, taps = dense_clip(encoder, images, (), (2, 0))
    first = encoder.transformer.resblocks[0](encoder.embed(images))
    assert joint is None and torch.equal(taps[:, 0], encoder(images)) and torch.equal(taps[:, 1], first)

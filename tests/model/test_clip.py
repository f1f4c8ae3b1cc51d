"""Tokenizer and both CLIP encoders, against OpenAI's tokens and a plain reference of its architecture."""
import pytest
import torch
from reference_clip import ReferenceCLIP, small_clip, small_ids

from model.clip.errors import WeightsError
from model.clip.tokenizer import Tokenizer
from model.clip.vision_transformer import resize_position_embedding

tokenizer = Tokenizer()


# Ids of OpenAI's simple_tokenizer, and texts that mean the same once they are mended.
@pytest.mark.parametrize("text, ids, same", [
    ("hello world!", [3306, 1002, 256], "HELLO  world!"),
    ("diningtable", [1462, 653, 2175], " diningtable\n"),
    ("tv/monitor", [1583, 270, 10198], "TV/monitor"),
    ("don't", [847, 713], "don’t"),
    ("24", [273, 275], "2\x074"),  # digits stand alone
    ("a café", [320, 15304], "a cafÃ©"),
    ("東京 tower", [48338, 21078, 361, 4730], "東京\ttower"),
    ("🙂", [14860], "🙂"),
    ("a <b> & c", [320, 283, 321, 285, 261, 322], "a &lt;b&gt; &amp;amp; c"),
])
def test_tokenizer_gives_openai_s_ids(text, ids, same):
    assert tokenizer.encode(text) == tokenizer.encode(same) == ids


def test_tokenizer_pads_and_names_a_text_that_is_too_long():
    assert tokenizer("a photo of a cat").tolist() == [[49406, 320, 1125, 539, 320, 2368, 49407] + 70 * [0]]
    assert (tokenizer.start, tokenizer.end) == (49406, 49407)  # the last two of 49408 words
    assert tokenizer("cat " * 75).argmax() == 76  # with start and end exactly the 77 that CLIP has
    with pytest.raises(WeightsError, match=r"77 tokens.*78"):
        tokenizer("cat " * 76)


def test_embeddings_and_gradients_equal_the_reference():
    ours, images, ids = small_clip(), torch.randn(2, 3, 48, 48), small_ids()
    reference = ReferenceCLIP(ours).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours.visual.project(ours.visual(images)[:, 0]), reference.visual(images))
        similarity = ours.logit_scale.exp() * ours.encode_image(images) @ ours.encode_text(ids).T
        torch.testing.assert_close(similarity, reference(images, ids), rtol=1e-4, atol=1e-4)
    reference(images, ids).square().mean().backward()
    (ours.logit_scale.exp() * ours.encode_image(images) @ ours.encode_text(ids).T).square().mean().backward()
    parameters = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = parameters[name.removeprefix("text.")].grad
        assert torch.allclose(parameter.grad, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item()), name


@torch.no_grad()
def test_padding_is_told_and_more_of_it_changes_no_embedding():
    clip, ids = small_clip(), small_ids()
    full, trimmed = clip.text(ids), clip.text(ids[:2, :5])
    assert full.valid.tolist() == [[position < length for position in range(12)] for length in (5, 3, 12)]
    torch.testing.assert_close(trimmed.cls, full.cls[:2], rtol=0, atol=1e-5)
    torch.testing.assert_close(trimmed.tokens, full.tokens[:2, :5], rtol=0, atol=1e-5)


@pytest.mark.parametrize("old, new", [(14, 30), (4, 9), (9, 4)])
def test_a_resized_ramp_is_a_ramp_inside(old, new):
    """Channel 0 grows by row and channel 1 by column, in shares of the image, whatever the grid."""
    def ramp(grid):
        centres = (torch.arange(grid) + 0.5) / grid
        return torch.stack([centres[:, None].expand(grid, grid), centres[None].expand(grid, grid)], dim=-1)

    embedding = torch.cat([torch.full((1, 2), 7.0), ramp(old).flatten(0, 1)])
    assert resize_position_embedding(embedding, old) is embedding
    cls, resized = resize_position_embedding(embedding, new).split([1, new * new])
    expected = ramp(new).clamp(0.5 / old, 1 - 0.5 / old)  # beyond the outermost old centres nothing is left to mix
    assert (cls == 7).all() and (resized.unflatten(0, (new, new)) - expected).abs().max() < 1e-5

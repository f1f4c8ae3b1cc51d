"""Tokenizer and both CLIP encoders, against OpenAI's tokens and a plain reference of its architecture."""
import pytest
import torch
from reference_clip import ReferenceCLIP, small_clip, small_ids

from model.clip.clip import CLIP
from model.clip.tokenizer import Tokenizer
from model.clip.vision_transformer import resize_position_embedding


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return small_clip()


def test_tokenizer_gives_openai_ids(tokenizer):
    assert tokenizer("a photo of a cat").tolist() == [[49406, 320, 1125, 539, 320, 2368, 49407] + 70 * [0]]
    assert tokenizer.encode("hello world!") == [3306, 1002, 256]
    assert (tokenizer.start, tokenizer.end) == (49406, 49407)  # the last two of 49408 words


# Ids of OpenAI's simple_tokenizer.
@pytest.mark.parametrize("text, ids", [
    ("diningtable", [1462, 653, 2175]),
    ("tv/monitor", [1583, 270, 10198]),
    ("don't", [847, 713]),
    ("24", [273, 275]),  # digits stand alone
    ("a café", [320, 15304]),
    ("東京 tower", [48338, 21078, 361, 4730]),
    ("🙂", [14860]),
])
def test_tokenizer_on_odd_words(tokenizer, text, ids):
    assert tokenizer.encode(text) == ids


@pytest.mark.parametrize("text, same", [
    ("A Photo  of\n\ta CAT ", "a photo of a cat"),
    ("cat &amp; dog", "cat & dog"),
    ("cat &amp;amp; dog", "cat & dog"),
    ("24 &lt;b&gt;", "24 <b>"),
    ("a cafÃ©", "a café"),
    ("it’s", "it's"),
    ("ÜBER", "über"),
])
def test_tokenizer_mends_text_first(tokenizer, text, same):
    assert tokenizer.encode(text) == tokenizer.encode(same)


def test_tokenizer_pads_a_list_to_one_length(tokenizer):
    ids = tokenizer(["cat", "a photo of a cat"], context_length=8)
    assert ids.dtype == torch.long
    assert ids.tolist() == [[49406, 2368, 49407, 0, 0, 0, 0, 0], [49406, 320, 1125, 539, 320, 2368, 49407, 0]]


def test_too_long_text_names_its_length(tokenizer):
    assert tokenizer("cat " * 75).argmax() == 76  # with start and end exactly the 77 that CLIP has
    with pytest.raises(ValueError, match=r"78 tokens.*77"):
        tokenizer("cat " * 76)


@torch.no_grad()
def test_image_encoder_equals_reference(clip):
    reference, images = ReferenceCLIP(clip).eval(), torch.randn(2, 3, 48, 48)
    expected = reference.encode_image(images)
    assert (clip.visual.project(clip.visual(images)[:, 0]) - expected).abs().max() < 1e-5
    assert (clip.encode_image(images) - expected / expected.norm(dim=-1, keepdim=True)).abs().max() < 1e-5


@torch.no_grad()
def test_text_encoder_equals_reference(clip):
    reference, ids = ReferenceCLIP(clip).eval(), small_ids()
    expected = reference.encode_text(ids)
    assert (clip.text(ids).cls - expected).abs().max() < 1e-5
    assert (clip.encode_text(ids) - expected / expected.norm(dim=-1, keepdim=True)).abs().max() < 1e-5


def test_gradients_equal_reference(clip):
    reference, images, ids = ReferenceCLIP(clip).eval(), torch.randn(2, 3, 48, 48), small_ids()
    reference(images, ids).square().mean().backward()
    parameters = dict(reference.named_parameters())
    ours = small_clip()
    (ours.logit_scale.exp() * ours.encode_image(images) @ ours.encode_text(ids).T).square().mean().backward()
    for name, parameter in ours.named_parameters():
        expected = parameters[name.removeprefix("text.")].grad
        assert torch.allclose(parameter.grad, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item()), name


@torch.no_grad()
def test_text_valid_ends_with_end_of_text(clip):
    valid = clip.text(small_ids()).valid
    assert valid.dtype == torch.bool
    assert valid.tolist() == [[position < length for position in range(12)] for length in (5, 3, 12)]


@torch.no_grad()
def test_more_padding_changes_no_embedding(clip):
    ids = small_ids()[:2]
    full, trimmed = clip.text(ids), clip.text(ids[:, :5])
    torch.testing.assert_close(trimmed.cls, full.cls, rtol=0, atol=1e-5)
    torch.testing.assert_close(trimmed.tokens, full.tokens[:, :5], rtol=0, atol=1e-5)
    assert trimmed.tokens.shape == (2, 5, 192) and torch.equal(trimmed.valid, full.valid[:, :5])


@torch.no_grad()
def test_text_embedding_rows_are_names(clip):
    text = clip.text(small_ids())
    rows = torch.tensor([2, 0, 2])
    for part, chosen in zip(text, text[rows]):
        assert torch.equal(chosen, part[rows])


def test_resizing_keeps_cls_and_dtype_and_what_has_the_size():
    embedding = torch.randn(1 + 5 * 5, 8).half()
    assert torch.equal(resize_position_embedding(embedding, 5), embedding)
    resized = resize_position_embedding(embedding, 7)
    assert resized.shape == (1 + 7 * 7, 8) and resized.dtype == torch.float16
    assert torch.equal(resized[0], embedding[0])


@pytest.mark.parametrize("old, new", [(14, 30), (4, 9), (9, 4)])
def test_resized_ramp_is_a_ramp_inside(old, new):
    """Channel 0 grows by row and channel 1 by column, in shares of the image, whatever the grid."""
    def ramp(grid):
        centres = (torch.arange(grid) + 0.5) / grid
        return torch.stack([centres[:, None].expand(grid, grid), centres[None].expand(grid, grid)], dim=-1)

    resized = resize_position_embedding(torch.cat([torch.zeros(1, 2), ramp(old).flatten(0, 1)]), new)
    resized, expected = resized[1:].reshape(new, new, 2), ramp(new)
    expected = expected.clamp(0.5 / old, 1 - 0.5 / old)  # beyond the outermost old centres nothing is left to mix
    assert (resized - expected).abs().max() < 1e-5


def test_resize_refuses_what_is_no_square():
    with pytest.raises(ValueError, match="13"):
        resize_position_embedding(torch.zeros(13, 8), 4)


@torch.no_grad()
def test_resized_encoder_takes_images_of_the_new_side():
    visual = small_clip().visual
    visual.resize(80)
    assert visual(torch.randn(1, 3, 80, 80)).shape == (1, 1 + 5 * 5, 128)

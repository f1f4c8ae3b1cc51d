"""CLIP in plain torch, under OpenAI's names: what ours is compared with."""
import torch
from released_reference import Stack
from torch import nn

from model.clip.clip import CLIP
from model.clip.text_encoder import TextEncoder
from model.clip.vision_transformer import VisionTransformer


class ReferenceVision(nn.Module):
    def __init__(self, side, patch, width, layers, heads, embed_dim):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((side // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Stack(width, layers, heads)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    def forward(self, images):
        x = self.conv1(images)
        x = x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1)
        x = torch.cat([self.class_embedding.repeat(x.shape[0], 1, 1), x], dim=1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj


class ReferenceCLIP(nn.Module):
    """CLIP under OpenAI's names, on torch's own attention; made to hold the weights of ``clip``."""

    def __init__(self, clip: CLIP):
        super().__init__()
        visual, text = clip.visual, clip.text
        width, embed_dim = visual.proj.shape
        blocks = visual.transformer.resblocks
        self.visual = ReferenceVision(visual.side, visual.patch, width, len(blocks), blocks[0].attn.heads, embed_dim)
        vocabulary, width = text.token_embedding.weight.shape
        blocks = text.transformer.resblocks
        self.transformer = Stack(width, len(blocks), blocks[0].attn.heads)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        self.logit_scale = nn.Parameter(torch.empty([]))
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(0))
        self.load_state_dict(clip.state_dict_openai())

    def encode_image(self, images):
        return self.visual(images)

    def encode_text(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding[:ids.shape[1]]
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf"), dtype=x.dtype).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(ids)), ids.argmax(dim=-1)] @ self.text_projection

    def forward(self, images, ids):
        image, text = self.encode_image(images), self.encode_text(ids)
        image, text = image / image.norm(dim=-1, keepdim=True), text / text.norm(dim=-1, keepdim=True)
        return self.logit_scale.exp() * image @ text.t()


def small_clip() -> CLIP:
    """Random weights everywhere, those that start as constants included, lest a mix-up of them go unseen."""
    torch.manual_seed(0)
    clip = CLIP(VisionTransformer(side=48, patch=16, width=128, layers=3, heads=2, embed_dim=24),
                TextEncoder(vocabulary=100, context_length=12, width=192, layers=2, heads=3, embed_dim=24))
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return clip.eval()


def small_ids() -> torch.Tensor:
    """Start 98, end 99, texts of different lengths, one that fills the context."""
    ids = torch.zeros(3, 12, dtype=torch.long)
    for row, words in zip(ids, ([5, 6, 7], [42], list(range(10, 20)))):
        row[:len(words) + 2] = torch.tensor([98, *words, 99])
    return ids

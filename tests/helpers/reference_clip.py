"""CLIP in plain torch, under OpenAI's names, and a small one of ours to compare with it."""
import torch
from released_reference import TextEncoder as ReferenceText
from released_reference import VisionTransformer as ReferenceVision
from torch import nn

from model.clip.clip import CLIP
from model.clip.text_encoder import TextEncoder
from model.clip.vision_transformer import VisionTransformer


class ReferenceCLIP(ReferenceText):
    """CLIP under OpenAI's names, on torch's own attention, with the weights of ``clip``."""

    def __init__(self, clip: CLIP):
        visual, text = clip.visual, clip.text
        width, dim = visual.proj.shape
        super().__init__(len(text.token_embedding.weight), text.context_length, len(text.text_projection),
                         len(text.transformer.resblocks), dim)
        self.visual = ReferenceVision(visual.side, visual.patch, width, len(visual.transformer.resblocks), dim)
        self.logit_scale = nn.Parameter(torch.empty([]))
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(0))
        self.load_state_dict(clip.state_dict_openai())

    def forward(self, images, ids):
        image, text = self.visual(images), super().forward(ids)[0]
        image, text = image / image.norm(dim=-1, keepdim=True), text / text.norm(dim=-1, keepdim=True)
        return self.logit_scale.exp() * image @ text.t()


def small_clip() -> CLIP:
    """Random weights everywhere, those that start as constants included, which fp16 holds without rounding."""
    torch.manual_seed(0)
    clip = CLIP(VisionTransformer(side=48, patch=16, width=128, layers=3, heads=2, embed_dim=24),
                TextEncoder(vocabulary=100, context_length=12, width=192, layers=2, heads=3, embed_dim=24))
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).half())
    return clip.eval()


def small_ids() -> torch.Tensor:
    """Start 98, end 99, texts of different lengths, one that fills the context."""
    ids = torch.zeros(3, 12, dtype=torch.long)
    for row, words in zip(ids, ([5, 6, 7], [42], list(range(10, 20)))):
        row[:len(words) + 2] = torch.tensor([98, *words, 99])
    return ids

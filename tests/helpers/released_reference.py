"""The released model written down a second time, plainly and on torch's own modules, for ours to be compared with.

Nothing of model/ is imported, and the names of parameters are those of the released checkpoints, so that
``Reference(...).state_dict()`` is one. ``facts`` says what it does as the released code; the rest is as described.
"""
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

FACTS = ("token_order", "sign", "ignored", "cls_twice", "mask_padding", "align_corners")
# The options of ours for the small Reference that is the default here.
OPTIONS = dict(size=48, replace_indices=[1, 2], pixel_mean=[0.485, 0.456, 0.406], pixel_std=[0.229, 0.224, 0.225])


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(),
                                             c_proj=nn.Linear(4 * width, width)))

    def forward(self, x, hidden=None, causal=None):
        y = self.ln_1(x).transpose(0, 1)
        x = x + self.attn(y, y, y, key_padding_mask=hidden, attn_mask=causal, need_weights=False)[0].transpose(0, 1)
        return x + self.mlp(self.ln_2(x))


class Stack(nn.Module):
    def __init__(self, width, layers, heads):
        super().__init__()
        self.resblocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])

    def forward(self, x, causal=None):
        for block in self.resblocks:
            x = block(x, causal=causal)
        return x


class TextEncoder(nn.Module):
    def __init__(self, vocabulary, length, width, layers, dim):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(length, width))
        self.transformer = Stack(width, layers, width // 64)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, dim))

    def forward(self, ids):
        length = ids.shape[1]
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        tokens = self.ln_final(self.transformer(x, torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1)))
        ends = [row.tolist().index(max(row.tolist())) for row in ids]
        cls = torch.stack([tokens[b, end] @ self.text_projection for b, end in enumerate(ends)])
        padding = torch.tensor([[position > end for position in range(length)] for end in ends])
        return cls, tokens, padding


class VisionTransformer(nn.Module):
    def __init__(self, side, patch, width, layers, dim):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + (side // patch) ** 2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Stack(width, layers, width // 64)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, dim))

    def embed(self, pixels, twice=False):
        patches = self.conv1(pixels).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], 1) + self.positional_embedding
        if twice:
            x = torch.cat([x[:, :1] + self.class_embedding, x[:, 1:]], 1)
        return self.ln_pre(x)

    def forward(self, pixels):
        return self.ln_post(self.transformer(self.embed(pixels))[:, 0]) @ self.proj


class ImageEncoder(VisionTransformer):
    def __init__(self, side, patch, width, layers, dim, replaced, twice):
        super().__init__(side, patch, width, layers, dim)
        self.text_cls_proj = nn.Linear(dim, width)
        self.prompt = nn.ParameterList([torch.empty(shape) for _ in range(layers)
                                        for shape in ((width, 2), (2, width))])
        self.replaced, self.twice = replaced, twice

    def forward(self, pixels, text_cls):
        """The patch tokens after each block, t, and the normalised image embedding."""
        text, x, after = self.text_cls_proj(text_cls), self.embed(pixels, self.twice), []
        for i, block in enumerate(self.transformer.resblocks):
            if i in self.replaced:
                x = torch.cat([text[:, None], x[:, 1:]], 1)
            x = block(x) + (x @ self.prompt[2 * i]) @ self.prompt[2 * i + 1]
            after.append(x[:, 1:])
        image = self.ln_post(x[:, 0]) @ self.proj
        return after, text, image / image.norm(dim=-1, keepdim=True)


class Decoder(nn.Module):
    def __init__(self, width, dim, layers, facts):
        super().__init__()
        self.text_embedding_proj = nn.Linear(dim, width)
        self.text_img_concat_proj = nn.Linear(2 * dim, width)
        self.VL_interaction = nn.ModuleList([Stack(width, 1, width // 64) for _ in range(layers)])
        self.IEE = nn.ModuleList([Stack(width, 1, width // 64) for _ in range(layers)])
        self.SSE = nn.ModuleList([Stack(width, 1, width // 64) for _ in range(layers - 1)])
        self.res2 = nn.Sequential(nn.Conv2d(width + 1, 256, 3, padding=1, bias=False), nn.ReLU(),
                                  nn.Conv2d(256, 128, 3, padding=1, bias=False), nn.ReLU())
        self.cls = nn.Sequential(nn.Conv2d(128, 64, 3, padding=1, bias=False), nn.ReLU(), nn.Dropout2d(0.0),
                                 nn.Conv2d(64, 2, 1))
        self.facts = facts

    def forward(self, cls, text_tokens, padding, image, patches, prior):
        """The sequence as a list of tokens (B, C), each with whether it is padding (B,)."""
        m, n = 2 + text_tokens.shape[1], patches.shape[1]
        fused = self.text_img_concat_proj(torch.cat([cls, image], 1))
        sequence = [self.text_embedding_proj(cls), *self.text_embedding_proj(text_tokens).unbind(1), fused,
                    *patches.unbind(1)]
        no = torch.zeros(len(cls), dtype=torch.bool)
        hidden = [no, *padding.unbind(1), *[no] * (n + 1)]
        if "mask_padding" in self.facts:
            hidden = [no] * (m + n)

        def through(stack, tokens, hide):
            return list(stack.resblocks[0](torch.stack(tokens, 1), torch.stack(hide, 1)).unbind(1))

        for i in range(len(self.VL_interaction)):
            sequence = through(self.VL_interaction[i], sequence, hidden)
            semantic, semantic_hidden = sequence[:m], hidden[:m]
            visual, visual_hidden = sequence[-n:], hidden[-n:]
            visual = through(self.IEE[i], visual, visual_hidden)
            if i + 1 < len(self.VL_interaction):
                semantic = through(self.SSE[i], semantic, semantic_hidden)
            if "token_order" in self.facts:
                sequence, hidden = visual + semantic, visual_hidden + semantic_hidden
            else:
                sequence, hidden = semantic + visual, semantic_hidden + visual_hidden
        side = int(n ** 0.5)
        grid = torch.stack(sequence[-n:], 2).reshape(len(cls), -1, side, side)
        return self.cls(self.res2(torch.cat([grid, prior], 1)))


class Reference(nn.Module):
    def __init__(self, *, side=48, patch=8, width=128, layers=4, dim=64, vocabulary=50, length=10, text_layers=2,
                 replaced=(1, 2), facts=FACTS):
        super().__init__()
        self.text_encoder = TextEncoder(vocabulary, length, dim, text_layers, dim)
        self.image_encoder = ImageEncoder(side, patch, width, layers, dim, replaced, "cls_twice" in facts)
        self.decoder = Decoder(width, dim, 2, facts)
        self.facts = facts

    @torch.no_grad()
    def fill(self, seed):
        """Random values of a size that lets every part matter, biases and branches included."""
        generator = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "ln_" in name and name.endswith("weight"):
                p.copy_(1 + 0.1 * noise)
            elif "prompt." in name:
                p.copy_(noise if int(name.rsplit(".", 1)[1]) % 2 == 0 else 0.02 * noise)
            elif p.ndim == 1:
                p.copy_(0.1 * noise)
            else:
                p.copy_(noise * p[0].numel() ** -0.5 if p.ndim > 1 else noise)
        return self

    def resize(self, x, size):
        return F.interpolate(x, size=size, mode="bilinear", align_corners="align_corners" in self.facts)

    def similarity(self, patches, vectors):
        """Cosine of each patch with its image's vector, min-max normalised an image: (B, 1, h, h)."""
        side, maps = int(patches.shape[1] ** 0.5), []
        for image, vector in zip(patches, vectors):
            cosine = torch.stack([patch @ vector / (patch.norm() * vector.norm()) for patch in image])
            maps.append(((cosine - cosine.min()) / (cosine.max() - cosine.min())).reshape(1, side, side))
        return torch.stack(maps)

    def forward(self, images, ids):
        """images (B, 3, S, S) uint8, ids (B, L): logits (B, 2, S, S), prior mask and patch tokens after each block."""
        mean, std = (torch.tensor(OPTIONS[key]).reshape(1, 3, 1, 1) for key in ("pixel_mean", "pixel_std"))
        with torch.no_grad():
            cls, tokens, padding = self.text_encoder(ids)
        after, text, image = self.image_encoder((images / 255 - mean) / std, cls)
        prior = self.similarity(after[-1], text)
        logits = self.decoder(cls, tokens, padding, image, after[-1], prior)
        return self.resize(logits, images.shape[2:]), prior, after

    def loss(self, logits, prior, after, target):
        """The total, of a target (B, S, S) of 0, 1 and 255."""
        target = target.long()
        if "ignored" in self.facts:
            target = torch.where(target == 255, torch.zeros_like(target), target)

        def of_map(s):
            s = self.resize(s, target.shape[1:])
            two = [s, 1 - s] if "sign" in self.facts else [1 - s, s]
            return F.cross_entropy(torch.cat(two, 1), target, ignore_index=255)

        others = []
        for patches in after[:-1]:
            side = int(patches.shape[1] ** 0.5)
            cover = self.resize((target == 1).float()[:, None], (side, side)).flatten(1)
            prototypes = [sum(weight * patch for weight, patch in zip(*pair)) / pair[0].sum()
                          for pair in zip(cover, patches)]
            others.append(of_map(self.similarity(patches, prototypes)))
        return (F.cross_entropy(logits, target, ignore_index=255) + 0.2 * of_map(prior)
                + 0.1 * sum(others) / len(others))

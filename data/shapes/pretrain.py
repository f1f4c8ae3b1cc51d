"""Pretrain the miniature CLIP of an embedded benchmark on scenes and captions, and measure how well it knows its words.

    python -m data.shapes.pretrain [FILE.yaml]      default: config/shapes/pretrain.yaml, which explains the options

A stopped command goes on where it was, from OUT.part, if its options are the same.
"""
import io
import json
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from data.folds import Classes
from data.shapes.artwork import artwork, pictures
from data.shapes.captioned import TILES, Captioned, Pair, said, single_object
from data.shapes.scene import Style, scene
from data.shapes.silhouettes import silhouette
from model.clip.clip import CLIP
from model.clip.text_encoder import TextEncoder
from model.clip.tokenizer import Tokenizer
from model.clip.vision_transformer import VisionTransformer
from util.config import ROOT, Model
from util.run.atomic import write_bytes_atomically
from util.runtime.device import autocast
from util.runtime.errors import UserError, run_main
from util.runtime.progress import progress
from util.runtime.workers import start_worker
from util.training.optim import make_optimizer, set_share

CONFIG = ROOT / "config/shapes/pretrain.yaml"
PROMPTS = ("a photo of a {}", "a photo of the {}", "a picture of a {}", "an image of a {}", "a {}", "the {}", "{}")
CHECK_SEED = 7_000_000  # scenes for the accuracy, from a series of their own
SAVE_EVERY = 300.0      # s
BEST = 12               # patches whose mean match stands for a tile; the least tile has 36


def read_config(file: str | Path = CONFIG) -> SimpleNamespace:
    """Read the options of a YAML as nested attributes. Nothing checks them."""
    return json.loads(json.dumps(yaml.safe_load(Path(file).read_text())), object_hook=lambda d: SimpleNamespace(**d))


def names_of(cfg: SimpleNamespace) -> list[str]:
    """List the names that captions tell: of all pictures, or of the silhouettes' classes."""
    return list(pictures()) if cfg.artists else Classes.read(cfg.classes).names


def first_synonyms(names: list[str]) -> list[str]:
    """Replace each picture's name by its first synonym, if it has any."""
    return [(pictures()[name].synonyms or [name])[0] for name in names]


def new_clip(cfg: SimpleNamespace) -> CLIP:
    """Build a CLIP with random weights and heads of 64 channels, as in every CLIP."""
    return CLIP(VisionTransformer(cfg.cycles[0].stages[0].side, cfg.patch, cfg.vision_width, cfg.vision_layers,
                                  cfg.vision_width // 64, cfg.embed_dim),
                TextEncoder(Tokenizer().end + 1, cfg.context_length, cfg.text_width, cfg.text_layers,
                            cfg.text_width // 64, cfg.embed_dim))


def normalise(images: Tensor) -> Tensor:
    """Normalise uint8 (B, 3, S, S) by CLIP's own pixel statistics."""
    mean, std = torch.tensor([Model().pixel_mean, Model().pixel_std], device=images.device)[..., None, None]
    return (images / 255 - mean) / std


@torch.inference_mode()
def accuracy(clip: CLIP, names: list[str], style: Style, count: int = 2000, picture_of=silhouette,
             words: list[str] | None = None) -> float:
    """Compute zero-shot top-1, in 0..1, of fresh single-object images against "a photo of a NAME" for all names.

    words: other ones to ask by, one a name; None: the names.
    """
    device = clip.logit_scale.device
    prompts = Tokenizer()([f"a photo of a {word}" for word in words or names], clip.text.context_length)
    text = clip.encode_text(prompts.to(device))
    right = 0
    for start in range(0, count, 250):
        batch = range(start, min(start + 250, count))
        scenes = [scene(names, np.ones(len(names), int), CHECK_SEED, i, style, picture_of) for i in batch]
        images = torch.from_numpy(np.stack([image for image, _, _ in scenes])).permute(0, 3, 1, 2).to(device)
        truth = torch.tensor([names.index(things[0].name) for _, _, things in scenes], device=device)
        right += int(((clip.encode_image(normalise(images)) @ text.T).argmax(1) == truth).sum())
    return right / count


def schedule(cfg: SimpleNamespace) -> list[tuple]:
    """List every stage as (its cycle, the stage, steps of the cycle before it, steps of the whole cycle)."""
    stages = []
    for cycle in cfg.cycles:
        counts = [stage.samples // cfg.batch_size for stage in cycle.stages]
        stages += [(cycle, stage, sum(counts[:k]), sum(counts)) for k, stage in enumerate(cycle.stages)]
    return stages


def train(cfg: SimpleNamespace, names: list[str]) -> CLIP:
    """Train all cycles; save the weights after each stage."""
    torch.manual_seed(cfg.cycles[0].seed)
    cv2.setNumThreads(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clip, tokenize, part = new_clip(cfg).to(device), Tokenizer(), Path(f"{cfg.out}.part")
    saved = torch.load(part, weights_only=True) if part.is_file() else {}
    if saved and saved["options"] != repr(cfg):
        raise UserError(f"{part}: was left by other options; remove it, or take those again")
    for number, (cycle, stage, step, steps) in enumerate(schedule(cfg)):
        clip.visual.resize(stage.side)
        if number < saved.get("stage", 0):
            continue
        optimizer = make_optimizer(clip.train(), SimpleNamespace(    # anew, for the resized position embedding
            optimizer="muon", muon_lr=cycle.muon_lr, lr=cfg.adamw_lr, weight_decay=cfg.weight_decay))
        first = 0
        if number == saved.get("stage"):
            clip.load_state_dict(saved["clip"])
            optimizer.load_state_dict(saved["optimizer"])
            first = saved["batch"]
        dataset = Captioned(stage, names, cycle.seed, cfg.context_length, cfg.patch, cycle.attributes, cfg.artists,
                            cfg.other_words)
        loader = DataLoader(Subset(dataset, range(first * cfg.batch_size, len(dataset))), cfg.batch_size,
                            num_workers=cfg.workers, drop_last=True, worker_init_fn=start_worker)
        bar, last = progress(loader, f"pretraining at {stage.side} px", first + len(loader), first), time.monotonic()
        for batch, pairs in enumerate(bar, start=first + 1):
            # Linear warm-up, flat, linear decay to zero.
            at = step + batch
            set_share(optimizer, min(1.0, at / max(1, cycle.warmup * steps),
                                     (steps - at + 1) / max(1, cycle.decay * steps)))
            pairs = Pair(*(part.to(device) for part in pairs))
            words, sentence = said(names, cfg.other_words, np.random.default_rng(at)), PROMPTS[(at - 1) % len(PROMPTS)]
            prompt = tokenize([sentence.format(word) for word in words], cfg.context_length).to(device)
            with autocast(device, "auto"):
                loss = contrastive_loss(clip, normalise(pairs.image), pairs, prompt, stage.keep, cycle)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                clip.logit_scale.clamp_(max=np.log(cycle.max_scale))  # 100 in CLIP, section 2.5
            bar.note = f"loss {loss.item():.3f}"
            if time.monotonic() - last > SAVE_EVERY:
                last = time.monotonic()
                _save(part, {"options": repr(cfg), "stage": number, "batch": batch, "clip": clip.state_dict(),
                             "optimizer": optimizer.state_dict()})
        # A plain state dict in OpenAI's names, fp16 as OpenAI ships.
        _save(cfg.out, {name: tensor.half() if tensor.is_floating_point() else tensor
                        for name, tensor in clip.state_dict_openai().items()})
    part.unlink(missing_ok=True)
    return clip.eval()


def _save(path: str | Path, content: dict) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes_atomically(path, buffer.getbuffer())


# The loss

def contrastive_loss(clip: CLIP, images: Tensor, pairs: Pair, prompts: Tensor, keep: float, weights) -> Tensor:
    """Sum four terms, all from captions alone, with ``weights`` of the last three.

    images: (B, 3, S, S) normalised; prompts: (K, L) ids, one a class; keep: share of patches encoded (FLIP, Li 2023).
    """
    scale = clip.logit_scale.exp()
    tokens = F.normalize(clip.visual.project(clip.visual(images, keep)).float(), dim=-1)  # (B, 1 + n, D)
    texts = clip.encode_text(torch.cat([prompts, pairs.tokens])).float()                  # (K + B, D)
    names, captions = texts[:len(prompts)], texts[len(prompts):]
    loss = F.cross_entropy(scale * tokens[:, 0] @ names.T, pairs.named)  # each image against the names of all classes
    matches, same = scale * tokens[:, 0] @ captions.T, torch.arange(len(captions), device=captions.device)
    # CLIP's own loss (Radford 2021, figure 3): the matching pairs are on the diagonal
    loss = loss + weights.caption_weight * (F.cross_entropy(matches, same) + F.cross_entropy(matches.T, same)) / 2
    if weights.tile_weight:
        loss = loss + weights.tile_weight * tile_contrast(scale, tokens[:, 1:], names, pairs)
    if weights.spread_weight:
        loss = loss + weights.spread_weight * spread(names)
    return loss


def tile_contrast(scale: Tensor, patches: Tensor, names: Tensor, pairs: Pair) -> Tensor:
    """Contrast each tile's BEST patches of (B, n, D) with names (K, D): patches, too, learn words (FILIP, Yao 2021)."""
    match = patches @ names.T                                                             # (B, n, K)
    inside = F.one_hot(pairs.tile_of, TILES).bool()                                       # (B, n, 4)
    best = match[:, :, None].masked_fill(~inside[..., None], -1).topk(BEST, dim=1).values.mean(1)  # (B, 4, K)
    there = pairs.tiles.any(-1)                                                           # (B, 4)
    return F.cross_entropy(scale * best[there], pairs.tiles[there])


def spread(names: Tensor) -> Tensor:
    """Return the names' uniformity: log mean exp(-2 |a - b|^2) over pairs (Wang and Isola 2020, section 4)."""
    count = len(names)
    near = (4 * (names @ names.T - 1)).exp()  # |a - b|^2 = 2 - 2 cos
    return ((near.sum() - count) / (count * (count - 1))).log()


def main() -> None:
    cfg = read_config(*sys.argv[1:])
    names = names_of(cfg)
    clip, style = train(cfg, names), single_object(cfg.cycles[-1].stages[-1])
    for artist in cfg.artists or ["silhouettes"]:
        drawn = partial(artwork, artist) if cfg.artists else silhouette
        for how, words in {"": names, **({" by synonyms": first_synonyms(names)} if cfg.artists else {})}.items():
            top1 = accuracy(clip, names, style, picture_of=drawn, words=words)
            print(f"{cfg.out}: image-to-text top-1 {top1:.4f}{how} on 2000 fresh images of one object, {artist}, "
                  f"{len(names)} names")


if __name__ == "__main__":
    run_main(main)

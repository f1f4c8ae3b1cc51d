"""Pretrain the miniature CLIP of Shapes-5i on scenes and captions, and measure how well it knows its words.

    python -m data.shapes.pretrain [key=value ...]     options: config/shapes/pretrain.yaml
    python -m data.shapes.pretrain init=FILE ...       go on from weights instead of starting anew
    python -m data.shapes.pretrain check               only the accuracy of the shipped weights
"""
import sys
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from data.loader import Loader
from data.shapes.make import shapes_of
from data.shapes.pretrain.caption import PROMPTS
from data.shapes.pretrain.captioned import Captioned, Pair, Stage
from data.shapes.pretrain.contrast import contrastive_loss
from data.shapes.scene import Style, scene
from model.clip.clip import CLIP
from model.clip.text_encoder import TextEncoder
from model.clip.tokenizer import Tokenizer
from model.clip.vision_transformer import VisionTransformer
from model.clip.weights import WeightsError, build_clip, read_clip
from util import config as configuration
from util.options import option
from util.run.checkpoint import write_atomically
from util.runtime.errors import UserError, run_main
from util.runtime.progress import progress

CONFIG = configuration.ROOT / "config" / "shapes" / "pretrain.yaml"
CHECK_SEED = 7_000_000  # scenes for the accuracy, from a series of their own


@dataclass
class Cycle:
    """Stages under one learning rate schedule and one loss."""
    muon_lr: float = option(least=0, most=1)
    warmup: float = option(least=0, most=1)
    decay: float = option(least=0, most=1)
    seed: int = option(least=0, most=2**62)
    attributes: list[float] = option(least=0, most=1, length=3)
    max_scale: float = option(least=1, most=100)
    caption_weight: float = option(least=0)
    tile_weight: float = option(least=0)
    spread_weight: float = option(least=0)
    stages: list[Stage]


@dataclass
class Pretrain:
    """config/shapes/pretrain.yaml says what each is for. Raises UserError for values that do not fit together."""
    out: str
    init: str
    classes: str
    patch: int = option(least=1, most=32)
    vision_width: int = option(least=64, most=1024)
    vision_layers: int = option(least=1, most=48)
    text_width: int = option(least=64, most=1024)
    text_layers: int = option(least=1, most=48)
    context_length: int = option(least=16, most=77)
    embed_dim: int = option(least=1, most=1024)
    cycles: list[Cycle]
    batch_size: int = option(least=2, most=100_000)
    adamw_lr: float = option(least=0, most=1)
    weight_decay: float = option(least=0, most=1)
    workers: int = option(least=0, most=1000)
    threads: int = option(least=1, most=1000)

    def __post_init__(self):
        sides = [stage.side for cycle in self.cycles for stage in cycle.stages]
        few = [stage.samples for cycle in self.cycles for stage in cycle.stages if stage.samples < self.batch_size]
        if few or not all(cycle.stages for cycle in self.cycles) or not sides:
            raise UserError(f"cycles= needs at least one cycle, and each cycle a stage, of at least a batch of "
                            f"{self.batch_size} samples each")
        if self.vision_width % 64 or self.text_width % 64:
            raise UserError(f"vision_width={self.vision_width} and text_width={self.text_width} should be multiples of "
                            f"64, the width of a head")
        if any(side % self.patch for side in sides):
            raise UserError(f"patch={self.patch} should divide the sides of all stages, {sides}")
        if not self.out:
            raise UserError("out= is empty; name the file that the weights are written to")


def _optimizers(clip: CLIP, cfg: Pretrain, muon_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer blocks, AdamW for the rest."""
    matrices = [p for name, p in clip.named_parameters() if "resblocks" in name and p.ndim == 2]
    rest = [p for name, p in clip.named_parameters() if "resblocks" not in name or p.ndim != 2]
    return [torch.optim.Muon(matrices, lr=muon_lr, weight_decay=cfg.weight_decay),
            torch.optim.AdamW(rest, lr=cfg.adamw_lr, weight_decay=cfg.weight_decay)]


def _rate(step: int, steps: int, cycle: Cycle) -> float:
    """Share of the learning rate at ``step``: linear warm-up, flat, linear decay to zero."""
    return min(1.0, (step + 1) / max(1, cycle.warmup * steps), (steps - step) / max(1, cycle.decay * steps))


def new_clip(cfg: Pretrain) -> CLIP:
    visual = VisionTransformer(cfg.cycles[0].stages[0].side, cfg.patch, cfg.vision_width, cfg.vision_layers,
                               cfg.vision_width // 64, cfg.embed_dim)
    text = TextEncoder(Tokenizer().end + 1, cfg.context_length, cfg.text_width, cfg.text_layers,
                       max(1, cfg.text_width // 64), cfg.embed_dim)
    return CLIP(visual, text)


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) to CLIP's own statistics (OpenAI CLIP, clip.py)."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], device=images.device).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], device=images.device).view(3, 1, 1)
    return (images / 255 - mean) / std


@torch.inference_mode()
def accuracy(clip: CLIP, names: list[str], style: Style, count: int = 2000, seed: int = CHECK_SEED) -> float:
    """Top-1 of fresh single-object images against "a photo of a NAME" for all names."""
    tokenize = Tokenizer()
    device = clip.logit_scale.device
    prompts = tokenize([f"a photo of a {name}" for name in names], clip.text.context_length).to(device)
    text = clip.encode_text(prompts)
    right = seen = 0
    for start in range(0, count, 250):
        drawn = [scene(names, range(1, len(names) + 1), seed, start + i, style) for i in range(min(250, count - start))]
        images = torch.from_numpy(np.stack([image for image, _, _ in drawn])).permute(0, 3, 1, 2).to(device)
        truth = torch.tensor([names.index(things[0].name) for _, _, things in drawn], device=device)
        guess = (clip.encode_image(normalise(images)) @ text.T).argmax(1)
        right += int((guess == truth).sum())
        seen += len(drawn)
    return right / seen


def train(cfg: Pretrain, names: list[str]) -> CLIP:
    """All cycles; the weights are saved after each stage."""
    torch.manual_seed(cfg.cycles[0].seed)
    torch.set_num_threads(cfg.threads)
    cv2.setNumThreads(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clip = (build_clip(read_clip(cfg.init)) if cfg.init else new_clip(cfg)).to(device)
    for cycle in cfg.cycles:
        _train_cycle(clip, cycle, cfg, names, device)
    return clip.eval()


def _train_cycle(clip: CLIP, cycle: Cycle, cfg: Pretrain, names: list[str], device: torch.device) -> None:
    tokenize = Tokenizer()
    prompts = [tokenize([p.format(n) for n in names], cfg.context_length).to(device) for p in PROMPTS]
    steps = sum(stage.samples // cfg.batch_size for stage in cycle.stages)
    step = 0
    for stage in cycle.stages:
        clip.visual.resize(stage.side)
        optimizers = _optimizers(clip.train(), cfg, cycle.muon_lr)  # anew, for the resized position embedding
        base = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        dataset = Captioned(stage, names, cycle.seed, cfg.context_length, cfg.patch, cycle.attributes)
        loader = Loader(dataset, default_collate, cfg.workers, batch_size=cfg.batch_size, drop_last=True)
        bar = progress(loader, f"pretraining at {stage.side} px")
        for pairs in bar:
            for optimizer, rates in zip(optimizers, base):
                for group, rate in zip(optimizer.param_groups, rates):
                    group["lr"] = rate * _rate(step, steps, cycle)
            pairs, prompt = Pair(*(part.to(device) for part in pairs)), prompts[step % len(prompts)]
            with torch.autocast(device.type, torch.bfloat16):
                loss = contrastive_loss(clip, normalise(pairs.image), pairs, prompt, stage.keep, cycle)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            with torch.no_grad():
                clip.logit_scale.clamp_(max=np.log(cycle.max_scale))  # 100 in CLIP, section 2.5
            step += 1
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if step % 250 == 0:
                top1 = accuracy(clip.eval(), names, stage.style(single=True), 500)
                print(f"step {step}/{steps}  loss {loss.item():.3f}  top-1 {top1:.3f}", flush=True)
                clip.train()
        save(clip, cfg.out)


def save(clip: CLIP, path: str) -> None:
    """A plain state dict in OpenAI's names, fp16 as OpenAI ships."""
    state = {name: tensor.half() if tensor.is_floating_point() else tensor
             for name, tensor in clip.state_dict_openai().items()}
    write_atomically(path, state)


def main() -> None:
    arguments = sys.argv[1:]
    check = arguments[:1] == ["check"]
    cfg = configuration.load(Pretrain, CONFIG, arguments[check:])
    names = shapes_of(cfg.classes)
    if not check:
        save(train(cfg, names), cfg.out)
    clip = build_clip(read_clip(cfg.out)).eval()
    print(f"{cfg.out}: image-to-text top-1 {accuracy(clip, names, cfg.cycles[-1].stages[-1].style(single=True)):.4f} "
          f"on 2000 fresh images of one object, {len(names)} names")


if __name__ == "__main__":
    run_main(main, WeightsError)

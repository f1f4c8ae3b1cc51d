"""What is measured: a model at its config's sizes, class names, and batches in memory, which hold nothing to learn."""
import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.dataset import EvalBatch, TrainBatch, mean_colour
from data.folds import Classes, classes_of
from data.samples import Sample
from data.transform import FITS
from model.build import build_esda, embed_names
from model.clip.clip import CLIP
from model.clip.text_encoder import TextEmbedding, TextEncoder
from model.clip.tokenizer import Tokenizer
from model.clip.vision_transformer import VisionTransformer
from model.clip.weights import ClipWeights, read_clip
from model.esda import ESDA
from util.benchmark.plain import PlainLosses, Released, Tokens, with_plain_attention
from util.benchmark.switches import Switches
from util.config import Config
from util.runtime.device import autocast
from util.training.optim import make_optimizer
from util.training.trainer import losses_of

ORIGINAL = 500, 375      # px, width and height of most images of PASCAL


@dataclass
class Subject:
    """What all variants share. base: the ESDA in fp32 on the device; ids (K, L): the names' tokens, all positions."""
    cfg: Config
    device: torch.device
    base: ESDA
    classes: Classes
    ids: Tensor
    words: TextEmbedding
    weights: str         # where CLIP's come from

    @staticmethod
    def make(cfg: Config, device: torch.device, names: int) -> "Subject":
        """With the first ``names`` of the data set's classes."""
        torch.manual_seed(cfg.seed)
        cfg = replace(cfg, train=replace(cfg.train, text_noise=0.0))  # of which the released code has none
        there = Path(cfg.model.clip).is_file()
        weights = read_clip(cfg.model.clip) if there else random_vit_b16()
        base = build_esda(cfg.model, weights)
        known = classes_of(cfg.data).names[:names]
        classes = Classes(known, (tuple(range(1, len(known) + 1)),))
        texts = [cfg.model.prompt.format(name) for name in known]
        ids = Tokenizer()(texts, base.text_encoder.context_length).to(device)
        words = embed_names(base.text_encoder, known, cfg.model).to(device)
        return Subject(cfg, device, base.to(device), classes, ids, words,
                       cfg.model.clip if there else "ViT-B/16 at random weights")

    def train_batch(self, images: int) -> TrainBatch:
        size = self.cfg.model.size
        pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8)
        targets = torch.zeros(images, size, size, dtype=torch.uint8)
        targets[:, size // 4:size // 2, size // 4:size // 2] = 1
        targets[:, -size // 8:] = 255                                        # the padding of a batch
        return as_loaded(TrainBatch(pixels, targets, torch.arange(images) % len(self.classes.names) + 1), self.device)

    def eval_batches(self, images: int, batch: int) -> list[EvalBatch]:
        """``images`` of ORIGINAL size, fitted to the input, ``batch`` at a time."""
        rng, (width, height) = np.random.default_rng(0), ORIGINAL
        fit = FITS[self.cfg.eval.fit]
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        canvas, valid = fit.to_input(image, self.cfg.model.size, mean_colour(self.cfg.model.pixel_mean))
        canvas = torch.from_numpy(canvas.transpose(2, 0, 1).copy())
        samples = [Sample(i, 1 + i % len(self.classes.names)) for i in range(images)]
        batches = []
        for chunk in (samples[first:first + batch] for first in range(0, images, batch)):
            masks = [np.zeros((height, width), np.uint8) for _ in chunk]
            for mask, sample in zip(masks, chunk):
                mask[height // 4:height // 2, width // 4:width // 2] = sample.class_id
            batches.append(as_loaded(EvalBatch(canvas.expand(len(chunk), -1, -1, -1).contiguous(),
                                               [valid] * len(chunk), masks, chunk), self.device))
        return batches


def as_loaded(batch: TrainBatch | EvalBatch, device: torch.device) -> TrainBatch | EvalBatch:
    """The batch as data/loader.py hands it on: for CUDA its tensors are pinned; masks, which are numpy's, are not."""
    if device.type != "cuda":
        return batch
    return type(batch)(*(part.pin_memory() if torch.is_tensor(part) else part for part in batch))


class Variant:
    """One way to compute: a model that shares its weights with all others but those it holds in bf16."""

    def __init__(self, subject: Subject, switches: Switches):
        self.subject, self.switches = subject, switches
        cfg, base, device = subject.cfg, subject.base, subject.device
        held = {id(p) for p in base.image_encoder.parameters() if switches.held and not p.requires_grad}
        esda = copy.deepcopy(base, {id(p): p for p in base.parameters() if id(p) not in held})
        if switches.held:
            esda.hold_frozen(torch.bfloat16)
        if not switches.attention:
            with_plain_attention(esda)
        if switches.recomputed:
            esda.recompute_blocks()
        if switches.compiled:
            esda.compile_blocks()
        self.esda = esda
        released = not (switches.text and switches.maps)
        self.model = Released(esda, not switches.text, not switches.maps) if released else esda
        self.text = subject.words if switches.text else Tokens(subject.ids)
        ours = losses_of(esda, cfg)
        self.losses_of = ours if switches.losses else PlainLosses(ours)
        self.optimizer = make_optimizer(esda, cfg.train)
        if not switches.optimiser:
            for part in getattr(self.optimizer, "parts", [self.optimizer]):
                for group in part.param_groups:
                    group["fused"] = None
        self.autocast = autocast(device, "bf16" if switches.precision == "bf16" else "fp32")

    def start_optimizer(self) -> None:
        """Let the optimiser make its state, as its first step does."""
        for parameter in self.esda.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> list[Tensor]:
        """All that stays between two steps: weights, the optimiser's state, names."""
        optimizers = getattr(self.optimizer, "parts", [self.optimizer])
        kept = [x for part in optimizers for state in part.state.values() for x in state.values() if torch.is_tensor(x)]
        return [*self.esda.parameters(), *self.esda.buffers(), *kept]


def random_vit_b16() -> ClipWeights:
    """Weights of the official shapes: speed does not depend on their values."""
    clip = CLIP(VisionTransformer(224, 16, 768, 12, 12, 512), TextEncoder(49408, 77, 512, 12, 8, 512))
    return ClipWeights(clip.visual.state_dict(), clip.text.state_dict(), clip.logit_scale.detach(), "random")

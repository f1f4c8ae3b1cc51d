"""Benchmark of training, evaluation, generalised inference and loading, beside the same work done the released way.

    python -m util.benchmark [--what train] [--config FILE] [key=value ...] [--against FILE [key=value ...]] ...

Needs no data and no weights. ``plain`` computes the numbers of model/ as the released code does: in fp32, with
``nn.MultiheadAttention``, every name encoded whenever it is used and at full length, one image at a time in evaluation,
and a whole forward pass for every name of an image.
"""
import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from data.fold import FoldData
from data.folds import classes_of
from data.samples import Sample, exhaustive
from model import IGNORE
from model.build import build_losses
from model.clip.clip import CLIP
from model.clip.layers import Block
from model.clip.text_encoder import TextEmbedding, TextEncoder
from model.clip.tokenizer import Tokenizer
from model.clip.vision_transformer import VisionTransformer
from model.clip.weights import ClipWeights, read_clip
from util.config import ROOT, Config, load
from util.evaluation.cost import count_flops
from util.evaluation.evaluate import evaluate
from util.evaluation.experiment import Experiment
from util.evaluation.generalised import Labeller
from util.options import TRAINED
from util.run.folder import code_version
from util.runtime.device import computes_in_bf16, describe, make_deterministic, pick_device, set_tf32
from util.runtime.errors import Parser, UserError, run_main
from util.runtime.markdown import markdown_table
from util.training.loop import Position, train_one_epoch
from util.training.optim import make_optimizer

WHAT = ["train", "eval", "generalised", "loader"]
WIDTH, HEIGHT = 500, 375          # of most of PASCAL's images
IMAGES = 32                       # drawn for training, and as many for testing
LOADED = 128                      # images that the loader is timed on
NOISE = 7                         # grey levels: so the JPEGs are as large as photographs, 60 kB at PASCAL's size


def make_data(cfg: Config, folder: Path) -> Config:
    """Draw a data set into ``folder``, JPEGs and masks with one rectangle of one class; returns ``cfg`` on it."""
    rng, classes = np.random.default_rng(0), classes_of(cfg.data)
    folder.mkdir()
    for part, ids in ("train", classes.seen(cfg.fold)), ("val", classes.unseen(cfg.fold)):
        for i in range(IMAGES):
            coarse = rng.integers(0, 256, (HEIGHT // 25, WIDTH // 25, 3)).astype(np.uint8)
            image = cv2.resize(coarse, (WIDTH, HEIGHT)) + rng.normal(0, NOISE, (HEIGHT, WIDTH, 3))
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[HEIGHT // 4:HEIGHT // 2, WIDTH // 4:3 * WIDTH // 4] = ids[i % len(ids)]
            mask[::25] = IGNORE  # so that a crop of any size has some of it
            cv2.imwrite(f"{folder}/{part}{i}.jpg", image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
            cv2.imwrite(f"{folder}/{part}{i}.png", mask)
        (folder / f"{part}.txt").write_text("".join(f"{part}{i}.jpg {part}{i}.png\n" for i in range(IMAGES)))
    return replace(cfg, data=replace(cfg.data, root=str(folder), train_list=f"{folder}/train.txt",
                                     val_list=f"{folder}/val.txt", min_pixels=1))


def read_or_make(file: str, activation: str = "auto") -> ClipWeights:
    """Read CLIP's weights, or make random ones of ViT-B/16: speed does not depend on their values."""
    if Path(file).is_file():
        return read_clip(file, activation)
    clip = CLIP(VisionTransformer(224, 16, 768, 12, 12, 512), TextEncoder(49408, 77, 512, 12, 8, 512))
    return ClipWeights(clip.visual.state_dict(), clip.text.state_dict(), clip.logit_scale.detach(), "random")


def make_plain(model: nn.Module) -> None:
    """Let every block attend by ``nn.MultiheadAttention``, called as in CLIP: sequence first, without weights."""
    for block in (module for module in model.modules() if isinstance(module, Block)):
        ours = block.attn
        theirs = nn.MultiheadAttention(len(ours.out_proj.bias), ours.heads, device="meta")
        theirs.in_proj_weight, theirs.in_proj_bias = ours.in_proj_weight, ours.in_proj_bias
        theirs.out_proj = ours.out_proj
        block.forward = partial(_plain_block, block, theirs)


def _plain_block(block: Block, attention: nn.MultiheadAttention, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute Block.forward by ``attention``; mask (N, N) or (B, 1, 1, N), True where a key is visible."""
    y, hidden = block.ln_1(x).transpose(0, 1).contiguous(), {}               # (N, B, C), in memory too, as in CLIP
    if mask is not None:
        hidden = {"attn_mask": ~mask} if mask.ndim == 2 else {"key_padding_mask": ~mask[:, 0, 0]}
    x = x + attention(y, y, y, need_weights=False, **hidden)[0].transpose(0, 1)
    return x + block.mlp(block.ln_2(x))


class EncodedEachTime:
    """Text embeddings encoded anew whenever rows are asked for; ids (K, L): at full length."""

    def __init__(self, encoder: nn.Module, ids: Tensor):
        self.encoder, self.ids = encoder, ids

    @torch.no_grad()
    def __getitem__(self, rows: Tensor) -> TextEmbedding:
        return self.encoder(self.ids[rows])


class Variant(Experiment):
    """Way to compute ``cfg`` with equal weights and data; mode: fp32, tf32, bf16, or plain (fp32); name: in tables."""

    def __init__(self, cfg: Config, clip: ClipWeights, mode: str, name: str = ""):
        self.mode, self.name, self.plain = mode, name, mode == "plain"
        train = replace(cfg.train, text_noise=0.0)                           # the released code has none
        if self.plain:
            cfg, train = replace(cfg, compile=False), replace(train, checkpoint_blocks=False)
        super().__init__(replace(cfg, precision="fp32" if self.plain else mode, train=train), clip)
        self.losses = self.optimizer = None
        if cfg.model.kind in TRAINED:
            self.losses, self.optimizer = build_losses(self.model, cfg), make_optimizer(self.model, cfg.train)
        if self.plain:
            make_plain(self.model)
            for group in self.optimizer.param_groups if self.optimizer else ():
                group["fused"] = None
            texts = [cfg.model.prompt.format(cfg.model.same_word or name) for name in self.data.classes.names]
            ids = Tokenizer()(texts, self.model.text_encoder.context_length)
            self.text = EncodedEachTime(self.model.text_encoder, ids.to(self.device))

    def work(self, what: str, count: int) -> Callable:
        """Return a function that does ``what`` once and returns what the scripts' own function returns.

        what: train, a step of ``count`` images; eval, one name in each of ``count`` images (plain: one image at a
        time); generalised, one of ``count`` names for each pixel of an image (plain: each name's mask); loader,
        ``count`` training images by data.workers processes.
        """
        data, names = self.data, len(self.data.classes.names)
        if what == "loader":
            loaded = self._data(self.cfg.train.batch_size, count, self.cfg.data.workers)
            return lambda: sum(len(batch.images) for batch in loaded.training()[0])
        if what == "train":
            batches = list(self._data(count, count).training()[0])
            return lambda: self._set() or list(train_one_epoch(
                self.model, self.losses, self.text, batches, self.optimizer, Position(), 1, self.cfg.train, self.device,
                self.autocast))
        if what == "generalised" and not self.plain:
            batch, = self._data(1).loader([Sample(0, 1)])
            label = Labeller(self.model, self.text[[i % names for i in range(count)]], data.fit, self.device,
                             self.autocast, threshold=0.0)
            return lambda: self._set() or label(batch)
        samples, ids = (exhaustive(data.index, data.unseen, 1) * count)[:count], data.unseen
        if what == "generalised":
            samples, ids = [Sample(0, i % names + 1) for i in range(count)], range(1, names + 1)
        batches = list(self._data(1 if self.plain else self.cfg.eval.batch_size).loader(samples))
        return lambda: self._set() or evaluate(self.predictor(), batches, ids, data.classes, "exhaustive").scores

    def _set(self) -> None:
        """Set torch as the scripts have it; the released code does not ask for deterministic operations."""
        set_tf32(self.device, self.cfg.precision)
        torch.set_deterministic_debug_mode("default" if self.plain else "warn")

    def _data(self, batch: int, images: int = IMAGES, workers: int = 0) -> FoldData:
        """Build the fold's data in batches of ``batch``, an epoch of ``images``."""
        cfg = self.cfg
        return FoldData(replace(cfg, data=replace(cfg.data, workers=workers), eval=replace(cfg.eval, batch_size=batch),
                                train=replace(cfg.train, batch_size=batch, epoch_samples=images)))


def seconds_and_bytes(call: Callable, device: torch.device) -> tuple[float, int]:
    """Time one run in s, and measure the most bytes that it adds on a GPU; 0 on a CPU."""
    if gpu := device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    call()
    if gpu:
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, torch.cuda.max_memory_allocated(device) - before if gpu else 0


def measure(variants: list[Variant], what: str, count: int, rounds: int) -> list[dict]:
    """Measure a row a variant, ratios to the first; a round runs each once, so that a busy machine slows all alike."""
    device, images = variants[0].device, 1 if what == "generalised" else count
    calls = [variant.work(what, count) for variant in variants]
    flops = [count_flops(call) for call in calls]  # this run warms up, too
    taken = np.array([[seconds_and_bytes(call, device) for call in calls] for _ in range(rounds)])
    rows = []
    for variant, flop, (seconds, added) in zip(variants, flops, taken.transpose(1, 2, 0)):
        rows.append({"work": what, "count": count, "config": variant.name, "mode": variant.mode,
                     "ms": 1000 * median(seconds), "images/s": images / median(seconds),
                     "times the first": median(taken[:, 0, 0] / seconds), "added GiB": max(added) / 2 ** 30,
                     "GFLOP an image": flop / images / 1e9})
    return rows


def benchmark(given: argparse.Namespace) -> list[dict]:
    """Measure what was asked for: a row a kind of work and variant."""
    files = [(given.config, []), *((file, own) for file, *own in given.against)]
    configs = [load(Config, file, [*given.overrides, *own]) for file, own in files]
    if given.what != ["eval"] and not all(cfg.model.kind in TRAINED for cfg in configs):
        raise UserError("a model without training can be evaluated alone: give --what eval")
    device = pick_device(configs[0].device)
    gpu = device.type == "cuda"
    make_deterministic(configs[0].seed)
    modes = given.precisions or ["plain", "fp32", *["tf32"] * gpu, *["bf16"] * computes_in_bf16(device, "auto")]
    counts = {"train": given.images or (32 if gpu else 2), "eval": given.images or (32 if gpu else 4),
              "generalised": given.names, "loader": LOADED}
    rounds, variants, rows = given.rounds or (20 if gpu else 3), [], []
    print(f"{describe(device, 'fp32').replace(', fp32', '')}, code {code_version()}, {rounds} rounds\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for i, ((file, own), cfg) in enumerate(zip(files, configs)):
            cfg = make_data(replace(cfg, device=str(device)), Path(folder) / str(i))
            clip = read_or_make(cfg.model.clip, cfg.model.activation)
            name = " ".join([f"{Path(file).parent.name}/{Path(file).stem}", *own])
            variants += [Variant(cfg, clip, mode, name) for mode in modes if mode != "plain" or not i]
        for what in given.what or WHAT:
            rows += measure(variants[:1] if what == "loader" else variants, what, counts[what], rounds)
    return rows


def arguments(given: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m util.benchmark", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--what", action="append", choices=WHAT, help="may be given several times; default: all four")
    add("--config", default=ROOT / "config/pascal/esda.yaml", metavar="FILE", help="default: config/pascal/esda.yaml")
    add("--against", nargs="+", action="append", default=[], metavar=("FILE", "key=value"),
        help="another config, measured in the same rounds; the options that follow it are its own; several times")
    add("--precisions", action="append", choices=["plain", "fp32", "tf32", "bf16"],
        help="several times; default: plain, for --config alone, and what the device is fast in")
    add("--images", type=int, metavar="N", help="default: 2 in training and 4 in evaluation, on CUDA 32")
    add("--names", type=int, default=10, metavar="N", help="sought in one image; default: %(default)s")
    add("--rounds", type=int, metavar="N", help="default: 3 on a CPU, 20 on CUDA")
    add("overrides", nargs="*", metavar="key=value", help="options of all configs, e.g. device=cuda")
    return parser.parse_intermixed_args(given)


def main() -> None:
    rows = benchmark(arguments(sys.argv[1:]))
    cells = [[f"{cell:,.4g}" if isinstance(cell, float) else cell for cell in row.values()] for row in rows]
    print(markdown_table(list(rows[0]), cells))


if __name__ == "__main__":
    run_main(main)

"""What is measured: the scripts' own training step, evaluation and labelling, on images drawn for the occasion."""
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from data.fold import FoldData
from data.folds import classes_of
from data.loader import Loader
from data.samples import exhaustive
from model import IGNORE
from model.build import TRAINED, build_losses
from model.clip.clip import CLIP
from model.clip.text_encoder import TextEncoder
from model.clip.tokenizer import Tokenizer
from model.clip.vision_transformer import VisionTransformer
from model.clip.weights import ClipWeights, read_clip
from util.benchmark.plain import EncodedEachTime, make_plain, one_by_one
from util.config import Config
from util.evaluation.evaluate import evaluate
from util.evaluation.experiment import Experiment
from util.evaluation.generalised import Labeller
from util.runtime.device import set_tf32
from util.runtime.errors import UserError
from util.runtime.processes import SINGLE_PROCESS
from util.training.loop import Progress, train_one_epoch
from util.training.optim import make_optimizer

SIDES = {"coco": (640, 480)}      # width and height of most of a data set's images; of all others PASCAL's
PASCAL = 500, 375
IMAGES = 32                       # drawn for training, and as many for testing
NOISE = 7                         # grey levels: so the JPEGs are as large as photographs, 60 kB at PASCAL's size


def draw(cfg: Config, folder: Path) -> Config:
    """``cfg`` on a data set drawn into ``folder``: JPEGs and masks with one rectangle of one class."""
    rng, classes, (width, height) = np.random.default_rng(0), classes_of(cfg.data), SIDES.get(cfg.dataset, PASCAL)
    folder.mkdir()
    for part, ids in ("train", classes.seen(cfg.fold)), ("val", classes.unseen(cfg.fold)):
        for i in range(IMAGES):
            coarse = rng.integers(0, 256, (height // 25, width // 25, 3)).astype(np.uint8)
            image = cv2.resize(coarse, (width, height)) + rng.normal(0, NOISE, (height, width, 3))
            mask = np.zeros((height, width), np.uint8)
            mask[height // 4:height // 2, width // 4:3 * width // 4] = ids[i % len(ids)]
            mask[::25] = IGNORE  # so that a crop of any size has some of it
            cv2.imwrite(f"{folder}/{part}{i}.jpg", image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
            cv2.imwrite(f"{folder}/{part}{i}.png", mask)
        (folder / f"{part}.txt").write_text("".join(f"{part}{i}.jpg {part}{i}.png\n" for i in range(IMAGES)))
    return replace(cfg, data=replace(cfg.data, root=str(folder), train_list=f"{folder}/train.txt",
                                     val_list=f"{folder}/val.txt", min_pixels=1))


def read_or_make(file: str) -> ClipWeights:
    """CLIP's weights, or where there are none random ones of ViT-B/16: speed does not depend on their values."""
    if Path(file).is_file():
        return read_clip(file)
    clip = CLIP(VisionTransformer(224, 16, 768, 12, 12, 512), TextEncoder(49408, 77, 512, 12, 8, 512))
    return ClipWeights(clip.visual.state_dict(), clip.text.state_dict(), clip.logit_scale.detach(), "random")


class Variant(Experiment):
    """One way to compute what ``cfg`` says. Variants of one config have the same weights and images.

    mode: fp32, tf32 or bf16, as train.py and test.py work at that precision; or plain, in fp32. name: for tables.
    """

    def __init__(self, cfg: Config, weights: ClipWeights, mode: str, name: str = ""):
        self.mode, self.name, self.plain = mode, name, mode == "plain"
        train = replace(cfg.train, text_noise=0.0)                           # the released code has none
        if self.plain:
            cfg, train = replace(cfg, compile=False), replace(train, checkpoint_blocks=False)
        super().__init__(replace(cfg, precision="fp32" if self.plain else mode, train=train), weights)
        names, text, encoder = self.data.classes.names, self.text, self.model.text_encoder
        self.losses = self.optimizer = None
        if any(p.requires_grad for p in self.model.parameters()):
            self.losses = build_losses(self.model, cfg.loss, cfg.model)
            self.optimizer = make_optimizer(self.model, cfg.train)
        if self.plain:
            make_plain(self.model)
            if self.optimizer:
                self.losses = one_by_one(self.losses)
                for group in self.optimizer.param_groups:
                    group["fused"] = None
            ids = Tokenizer()([cfg.model.prompt.format(cfg.model.same_word or name) for name in names],
                              encoder.context_length).to(self.device)
            self.text_of = lambda rows: EncodedEachTime(encoder, ids[rows])
        else:
            self.text_of = lambda rows: text[rows]
        self.text = self.text_of(range(len(names)))

    def state(self) -> list[Tensor]:
        """Tensors that stay between two steps: weights, buffers, the optimiser's state."""
        parts = getattr(self.optimizer, "parts", [self.optimizer] if self.optimizer else [])
        kept = [x for part in parts for state in part.state.values() for x in state.values() if torch.is_tensor(x)]
        return [*self.model.parameters(), *self.model.buffers(), *kept]

    def require(self, what: str) -> None:
        """Raise UserError for what the model cannot do."""
        if what != "eval" and self.cfg.model.kind not in TRAINED:
            raise UserError(f"--what {what}: model.kind={self.cfg.model.kind} cannot do it; leave it out of --what")

    def work(self, what: str, count: int) -> Callable:
        """A function that does ``what`` once and returns what the scripts' own function returns.

        what: train, a step of ``count`` images; eval, one name in each of ``count`` images (plain: one image at a
        time); generalised, one of ``count`` names for each pixel of an image (the data set's, over and over again).
        """
        if what == "train":
            batches = list(self._loaded(count, count))
            return lambda: self._steps(batches, 1)
        if what == "eval":
            batches = list(self._loaded(count, 1 if self.plain else self.cfg.eval.batch_size, testing=True))
            return lambda: self._set() or evaluate(self.predictor(), batches, self.data.unseen, self.data.classes,
                                                   "exhaustive").scores
        text = self.text_of([i % len(self.data.classes.names) for i in range(count)])
        label = Labeller(self.model, text, self.data.fit, self.device, self.autocast, self.cfg.eval.presence,
                         self.cfg.eval.chunk)
        batch, = self._loaded(1, 1, testing=True)
        return lambda: self._set() or label(batch)

    def _set(self) -> None:
        """Torch's settings as the scripts have them. The released code does not ask for deterministic operations."""
        set_tf32(self.device, self.cfg.precision)
        torch.set_deterministic_debug_mode("default" if self.plain else "warn")

    def _steps(self, batches: Iterable, steps: int) -> list[dict]:
        self._set()
        return list(train_one_epoch(self.model, self.losses, self.text, batches, self.optimizer, Progress(), steps,
                                    self.cfg.train, self.device, self.autocast, SINGLE_PROCESS))

    def _loaded(self, images: int, batch: int, workers: int = 0, testing: bool = False) -> Loader:
        """``images`` images for training or testing, in batches."""
        cfg = self.cfg
        data = FoldData(replace(cfg, data=replace(cfg.data, workers=workers), eval=replace(cfg.eval, batch_size=batch),
                                train=replace(cfg.train, batch_size=batch, epoch_samples=images)))
        samples = exhaustive(data.index, data.unseen, 1)
        return data.loader((samples * images)[:images]) if testing else data.training()[0]

    def load(self, images: int, steps: int) -> dict:
        """The loader: images a second that one process makes for training and for evaluation; and of ``steps`` training
        steps fed by data.workers processes the ms of one and the share of waiting for images, 0..1.

        Two steps before them warm up. On CUDA as many more are left out as the workers may have worked ahead for.
        """
        workers, found = self.cfg.data.workers, {}
        for what in "training", "evaluation":
            loader = self._loaded(IMAGES, 1, 1, what == "evaluation")
            for _ in range(2):  # the first time starts the process
                waits = []
                count = len(list(_timed(loader, waits)))
            found[what] = count / sum(waits)
        first, waits = 2 + 2 * workers * (self.device.type == "cuda"), []
        done = self._steps(_timed(self._loaded(images * (first + steps), images, workers), waits), first + steps)
        seconds = sum(step["seconds"] for step in done[first:])
        return {**found, "images": images, "workers": workers, "steps": steps, "precision": self.cfg.precision,
                "ms": 1000 * seconds / steps, "waiting": sum(waits[first:]) / seconds}


def _timed(batches: Iterable, waits: list[float]) -> Iterator:
    """The batches. ``waits`` gets the seconds that each of them took to arrive."""
    batches = iter(batches)
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        waits.append(time.perf_counter() - start)
        yield batch

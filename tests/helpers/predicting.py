"""What the tests of prediction share: untrained checkpoints whose masks are neither empty nor full, and scenes."""
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from data.folds import classes_of
from data.shapes.scene import Style, scene
from model.build import build_model, embed_classes
from model.clip.weights import read_clip
from util.benchmark import Variant, make_data, read_or_make
from util.config import ROOT, load, to_dict
from util.options import OURS, Config
from util.run import checkpoint

NAMES = ["circle", "star", "key", "umbrella", "house"]
SIDE = 64


def checkpoint_of(kind: str, clip: Path, path: Path, threshold: float | None = None, foreground: float = 0.0) -> Path:
    """A checkpoint of an untrained model on Shapes-5i, fold 0. Random weights do: masks are only compared.

    threshold: of presence, in logits; None: the checkpoint has none. foreground: what is added to every evidence.
    """
    config = ROOT / "config" / "shapes" / f"{kind}.yaml"
    ours = kind in OURS
    cfg = load(Config, config, [f"model.clip={clip}", f"model.size={SIDE}", "precision=fp32",
                                *["model.interactor_layers=1"] * ours])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = build_model(cfg)
        classes = classes_of(cfg.data)
        embed_classes(model, classes.names, classes.seen(0), cfg)   # and so ESDA+'s rivals
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and name.startswith("decoder") and name.endswith("weight"):
                parameter.data *= 3  # logits far from 0
        if ours:
            model.decoder.cls[-1].bias.data[1] += foreground
    saved = {"model": model.trainable_state(), "epoch": 0, "clip": read_clip(clip).fingerprint, "config": to_dict(cfg)}
    checkpoint.save(path, {**saved, **({} if threshold is None else {"presence_threshold": threshold})})
    return path


def drawn_variant(clip: Path, folder: Path, *options: str, mode: str = "fp32") -> Variant:
    """ESDA on the benchmark's drawn images: its branches speak, and it finds a name in about half of an image."""
    cfg = load(Config, ROOT / "config/shapes/esda.yaml", [f"model.clip={clip}", f"model.size={SIDE}",
                                                          "train.optimizer=sgd", *options])
    cfg = make_data(cfg, Path(tempfile.mkdtemp(dir=folder)) / "set")
    variant, speaks = Variant(cfg, read_or_make(cfg.model.clip), mode), torch.Generator().manual_seed(0)
    with torch.no_grad(), variant.autocast:
        for branch in variant.model.image_encoder.branches.values():
            branch.up.copy_(0.05 * torch.randn(branch.up.shape, generator=speaks))
        image = torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8, generator=speaks).to(variant.device)
        logits = variant.model.eval()(image, variant.text[torch.tensor([0], device=variant.device)]).logits
        variant.model.decoder.cls[3].bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    return variant


def write_scene(path: Path, index: int = 0, size: tuple[int, int] | None = None) -> Path:
    """A scene of NAMES as an image file, (width, height) px."""
    image, _, _ = scene(NAMES, range(1, 6), 7, index, Style(side=SIDE, diameter=(20, 32)))
    if size:
        image = cv2.resize(image, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray(image[:, :, ::-1]))
    return path

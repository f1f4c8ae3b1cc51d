"""Checkpoints as train.py leaves them, of random weights on the miniature CLIP, and of few layers: made in a second."""
from pathlib import Path

import torch

from model.build import build_model
from util.config import Config, load, to_dict
from util.run import checkpoint


def make_checkpoint(folder: Path, kind: str, foreground: float = 0.0) -> Path:
    """``folder``/best.pt of kind esda or plus. foreground: what is added to every evidence."""
    cfg = load(Config, f"config/shapes/{kind}.yaml", ["model.interactor_layers=1", "precision=fp32"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model, clip = build_model(cfg.model)
        for parameter in model.parameters():    # some start at 0
            if parameter.requires_grad:
                parameter.data += 0.02 * torch.randn_like(parameter)
    model.decoder.cls[-1].bias.data[1] += foreground
    checkpoint.write_atomically(folder / "best.pt", {"model": model.trainable_state(), "epoch": 0,
                                                     "config": to_dict(cfg), "clip": clip.fingerprint})
    return folder / "best.pt"

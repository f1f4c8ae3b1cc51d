"""Fixtures shared by the tests: a tiny CLIP, a tiny Shapes-5i, and the real scripts run on them."""
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_runs import groups, made  # noqa: F401  fixtures
from runs import train

from data.shapes.make import ShapesData, make
from model.clip.clip import CLIP
from model.clip.text_encoder import TextEncoder
from model.clip.vision_transformer import VisionTransformer
from util.config import ROOT

TINY_SIDE = 64  # px, of the tiny set's images and of the network's input


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> Path:
    """A random CLIP as a plain fp16 state dict in OpenAI's names; only the vocabulary has the real size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        clip = CLIP(VisionTransformer(side=32, patch=8, width=64, layers=4, heads=1, embed_dim=12),
                    TextEncoder(49408, 16, 64, 1, 1, 12))
    path = tmp_path_factory.mktemp("clip") / "tiny_clip.pt"
    torch.save({name: tensor.half() if tensor.is_floating_point() else tensor
                for name, tensor in clip.state_dict_openai().items()}, path)
    return path


@pytest.fixture(scope="session")
def tiny_shapes(tmp_path_factory) -> Path:
    """The root of a small Shapes-5i. Tests that spoil files do so in a copy."""
    root = tmp_path_factory.mktemp("shapes") / "set"
    make(ShapesData(root=str(root), classes=str(ROOT / "lists/shapes/classes.yaml"), seed=5, train=60, val=40,
                    side=TINY_SIDE, objects=[2, 3], diameter=[20, 32], rotation=40, overlap=0.25, jpeg_quality=92))
    return root


@pytest.fixture(scope="session")
def options_for(tiny_clip) -> Callable[[Path, Path], list[str]]:
    """(data root, folder for runs) -> the overrides that let config/shapes/esda.yaml train there in seconds."""
    def options(root: Path, exp: Path) -> list[str]:
        return [f"exp={exp}", "device=cpu", "precision=fp32",
                f"data.root={root}", f"data.train_list={root}/lists/train.txt", f"data.val_list={root}/lists/val.txt",
                "data.min_pixels=32", "data.workers=0", f"model.clip={tiny_clip}", f"model.size={TINY_SIDE}",
                "train.epochs=2", "train.epoch_samples=16", "train.batch_size=8", "train.warmup=0",
                "eval.batch_size=8", "eval.seen_samples=8", "eval.name_check=false"]
    return options


@pytest.fixture
def tiny_options(options_for, tiny_shapes, tmp_path) -> list[str]:
    """Overrides of config/shapes/esda.yaml for the tiny set, with runs in the test's own folder ``exp``."""
    return options_for(tiny_shapes, tmp_path / "exp")


@pytest.fixture(scope="session")
def finished_run(options_for, tiny_shapes, tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of a run of one epoch, made in this process, and its options. Tests that spoil it do so in a copy."""
    exp = tmp_path_factory.mktemp("finished") / "exp"
    options = [*options_for(tiny_shapes, exp), "run=mine", "train.epochs=1"]
    return train(options, exp), options


@pytest.fixture(scope="module")
def checked_options(options_for, tiny_shapes, tmp_path_factory) -> list[str]:
    """As tiny_options, with the name check, for runs that several tests share; each gives its own exp= after these."""
    return [*options_for(tiny_shapes, tmp_path_factory.mktemp("unused")), "eval.name_check=true"]


@pytest.fixture(scope="module")
def whole(request, checked_options, tmp_path_factory) -> Path:
    """A run that nothing disturbed, of the config that the test's module names as CONFIG."""
    return train(checked_options, tmp_path_factory.mktemp("whole"), config=request.module.CONFIG)

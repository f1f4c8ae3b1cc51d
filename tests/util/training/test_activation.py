"""model.activation from the command line to what checkpoints know CLIP by."""
import pytest
import torch
from runs import complains, in_process

from model.clip.weights import read_clip
from util.run import checkpoint

CONFIG = ["--config", "config/shapes/esda.yaml"]


@pytest.fixture
def unsaid(tiny_clip, tmp_path):
    """The tiny CLIP as others publish theirs: no buffers, and values that are not of fp16."""
    state = torch.load(tiny_clip, weights_only=True)
    state = {name: tensor.float() for name, tensor in state.items() if tensor.is_floating_point()}
    state["visual.transformer.resblocks.0.mlp.c_fc.weight"] += 1e-5
    torch.save(state, tmp_path / "clip.pt")
    return tmp_path / "clip.pt"


def test_a_run_on_a_clip_with_gelu(unsaid, tiny_options, tmp_path):
    mine = [*CONFIG, *tiny_options, f"model.clip={unsaid}"]
    complains(in_process("train.py", *mine, "data.root=nowhere"), "clip.pt: the file does not tell", "=gelu")
    done = in_process("train.py", *mine, "model.activation=gelu", "train.epochs=1", "train.epoch_samples=8", "run=it")
    assert done.returncode == 0, done.stderr
    best = tmp_path / "exp/shapes/esda/fold0/it/checkpoints/best.pt"
    assert checkpoint.load(best)["clip"] == read_clip(unsaid, "gelu").fingerprint
    for activation, status in (("gelu", 0), ("quickgelu", 2)):
        done = in_process("test.py", *mine, f"model.activation={activation}", f"weights={best}")
        assert done.returncode == status, done.stderr
    complains(done, "other CLIP weights")

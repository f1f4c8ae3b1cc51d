"""model.activation from the command line to what checkpoints and results know CLIP by."""
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
    for script in ("train.py", "test.py"):
        kind = ["model.kind=maskclip"] if script == "test.py" else []
        complains(in_process(script, *mine, *kind, "data.root=nowhere"), "clip.pt: the file does not tell", "=gelu")
    gelu = ["model.activation=gelu", "train.epochs=1", "train.epoch_samples=8", "run=it"]
    done = in_process("train.py", *mine, *gelu)
    assert done.returncode == 0, done.stderr
    best = tmp_path / "exp/shapes/esda/fold0/it/checkpoints/best.pt"
    assert checkpoint.read(best, "")["clip"] == read_clip(unsaid).fingerprint + "+gelu"
    weights = [f"weights={best}", "run=again"]
    done = in_process("test.py", *mine, "model.activation=gelu", *weights)
    assert done.returncode == 0, done.stderr
    complains(in_process("test.py", *mine, "model.activation=quickgelu", *weights), "other CLIP weights")

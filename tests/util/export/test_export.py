"""python -m util.export: the graph computes what torch computes, for any number of images and names."""
import numpy as np
import pytest
import torch
from predicting import SIDE, checkpoint_of
from runs import complains, in_process

from model.build import embed_names
from util.export.__main__ import EXTRAS
from util.predict.segmenter import Segmenter
from util.requirements import problems
from util.runtime.errors import UserError

NAMES = ["star", "key", "traffic light", "house"]
missing = problems(EXTRAS)
needs_extras = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} ({EXTRAS.name})")


@pytest.fixture(scope="module")
def checkpoints(tiny_clip, tmp_path_factory) -> dict:
    """{kind: a checkpoint}"""
    return {kind: checkpoint_of(kind, tiny_clip, tmp_path_factory.mktemp(kind) / "best.pt")
            for kind in ("esda", "plus")}


def export(*arguments):
    return in_process("util/export/__main__.py", *arguments)


@pytest.mark.slow
@needs_extras
@pytest.mark.parametrize("kind", ["esda", "plus"])
def test_the_graph_computes_what_torch_computes(kind, checkpoints, tmp_path):
    import onnxruntime

    from util.export.graph import EvidenceGraph, compare
    done = export(checkpoints[kind], tmp_path / "model.onnx")
    assert done.returncode == 0 and "within" in done.stdout, done.stderr
    done = export(checkpoints[kind], tmp_path / "names.npz", "--names", *NAMES)
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    given = np.load(tmp_path / "names.npz")
    assert list(given["names"]) == NAMES
    segmenter = Segmenter.load(checkpoints[kind], device="cpu")
    text = embed_names(segmenter.model.text_encoder, NAMES, segmenter.cfg.model)
    images = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    inputs = {i.name: given[i.name] for i in session.get_inputs() if i.name != "images"}
    for batch, names in ((1, 1), (3, 4), (2, 3)):
        with torch.inference_mode():
            torch_says, = segmenter.model.all_names(images[:batch], text[list(range(names))], chunk=names)
        onnx_says, = session.run(None, {"images": images[:batch].numpy(), **{k: v[:names] for k, v in inputs.items()}})
        assert onnx_says.shape == torch_says.shape == (batch, names, SIDE, SIDE)
        np.testing.assert_allclose(onnx_says, torch_says, rtol=0, atol=1e-3 * float(torch_says.abs().max()))
    if kind == "plus":  # a graph that is not the model's is found out
        segmenter.model.set_rivals(text.cls[:2])
        with pytest.raises(UserError, match="differs from torch"), torch.no_grad():
            compare(EvidenceGraph(segmenter.model), (tmp_path / "model.onnx").read_bytes(), images,
                    {"cls": text.cls[:3]})


@pytest.mark.parametrize("out, more, told", [
    ("model.bin", [], ".onnx"), ("names.npz", [], "no names"), ("names.npz", ["--names", "star", "Star"], "the same"),
    ("none/names.npz", ["--names", "star"], "no such folder"), (".", ["--names", "star"], "OUT should end"),
    ("names.npz", ["--names", "word " * 99], "does not fit into 16")])
def test_wrong_arguments_are_one_line(out, more, told, checkpoints, tmp_path):
    complains(export(checkpoints["esda"], tmp_path / out, *more), told)
    assert not list(tmp_path.iterdir())


def test_a_missing_checkpoint_and_missing_extras_are_one_line(checkpoints, tmp_path, monkeypatch):
    complains(export(tmp_path / "no.pt", tmp_path / "names.npz", "--names", "star"), "no.pt: no such file")
    monkeypatch.setattr("util.requirements.problems", lambda file: ["onnx>=1.18,<2"])
    complains(export(checkpoints["esda"], tmp_path / "model.onnx"), "needs onnx>=1.18,<2", "requirements-export.txt")

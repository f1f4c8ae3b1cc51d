"""python -m util.export: the graph computes what torch computes, for any number of images and names."""
import numpy as np
import pytest
import torch
from predicting import NAMES, SIDE, checkpoint_of
from runs import complains, in_process

from model.build import embed_names
from util.export import EvidenceGraph, compare
from util.predict.segmenter import Segmenter


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["esda", "plus", "lseg", "clipseg", "zegclip", "catseg"])
def test_the_graph_computes_what_torch_computes(kind, tiny_clip, tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("model.plus.pamr.ROUNDS", 1)        # ESDA+'s decoder has five alike, and takes half a minute
    monkeypatch.setattr("model.plus.pamr.DISTANCES", (1, 2))
    checkpoint = checkpoint_of(kind, tiny_clip, tmp_path / "best.pt")
    for arguments in (["model.onnx"], ["names.npz", "--names", *NAMES]):
        done = in_process("util/export.py", checkpoint, tmp_path / arguments[0], *arguments[1:])
        assert done.returncode == 0 and arguments[0] in done.stdout, done.stderr
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    given = np.load(tmp_path / "names.npz")
    assert list(given["names"]) == NAMES
    segmenter = Segmenter.load(checkpoint, device="cpu")
    text = embed_names(segmenter.model.text_encoder, NAMES, segmenter.cfg.model)
    images = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    inputs = {i.name: given[i.name] for i in session.get_inputs() if i.name != "images"}
    for batch, names in ((1, 1), (3, 4), (2, 3)):
        with torch.inference_mode():
            torch_says, = segmenter.model.all_names(images[:batch], text[list(range(names))], chunk=names)
        onnx_says, = session.run(None, {"images": images[:batch].numpy(), **{k: v[:names] for k, v in inputs.items()}})
        np.testing.assert_allclose(onnx_says, torch_says, rtol=0, atol=1e-3 * float(torch_says.abs().max()))
    if kind in ("plus", "catseg"):  # a graph that is not the model's is found out
        segmenter.model.set_rivals(text.cls[:2])
        with pytest.raises(AssertionError), torch.no_grad():
            compare(EvidenceGraph(segmenter.model), (tmp_path / "model.onnx").read_bytes(), images,
                    {"cls": text.cls[:3]})


def test_wrong_arguments_are_one_line(tmp_path):
    complains(in_process("util/export.py", "best.pt", tmp_path / "model.onnx", "--names", "star"), "OUT ends in")

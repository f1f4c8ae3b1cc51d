"""A trained model as one ONNX graph: images and the embeddings of names in, evidence out.

The tokenizer and the text encoder stay in Python: names change seldom, and their embeddings are a few kB. What ESDA+
compares each name with (the rivals) is part of the graph.
"""
import io
import json
import warnings
from pathlib import Path
from statistics import median
from timeit import repeat

import numpy as np
import torch
from torch import Tensor, nn

from model.build import embed_names
from model.clip.text_encoder import TextEmbedding
from util.predict.segmenter import Segmenter
from util.runtime.errors import UserError

TOLERANCE = 1e-3                # of the largest evidence: what onnxruntime may differ from torch
TEXT = ("cls", "tokens", "valid")   # the graph's inputs besides images; ESDA+ reads cls alone
TRIED_WITH = ["a", "cat", "traffic light"]
ROUNDS = 5


class EvidenceGraph(nn.Module):
    """What is exported.

    Inputs: images (B, 3, S, S) uint8 RGB; cls (K, D) fp32; of ESDA also tokens (K, L, W) fp32 and valid (K, L) bool.
    B, K and L are free. Output: (B, K, S, S) fp32, foreground minus background logit of each name in each image.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, *text: Tensor) -> Tensor:
        batch, names = images.shape[0], text[0].shape[0]
        shared = self.model.before_names(images).repeat(names)
        # (B, K, ...) views and no index: torch's exporter has no integer division of sizes that are free.
        each = [part.expand(batch, *part.shape).flatten(0, 1) for part in text]
        logits = self.model.segment(shared, TextEmbedding(*each, *[None] * (3 - len(each))), images.shape[2:]).logits
        return (logits[:, 1] - logits[:, 0]).unflatten(0, (batch, names))


def load(checkpoint: Path) -> Segmenter:
    return Segmenter.load(checkpoint, device="cpu", precision="fp32")


def text_inputs(segmenter: Segmenter, names: list[str]) -> dict[str, Tensor]:
    """The graph's inputs for ``names``, by name."""
    text = embed_names(segmenter.model.text_encoder, names, segmenter.cfg.model)
    return dict(zip(TEXT if segmenter.cfg.model.kind == "esda" else TEXT[:1], text))


def embeddings(checkpoint: Path, names: list[str]) -> tuple[bytes, str]:
    """A npz with the graph's inputs for ``names`` and the names themselves, and a line on it."""
    inputs, out = text_inputs(load(checkpoint), names), io.BytesIO()
    np.savez(out, names=np.array(names), **{name: part.numpy() for name, part in inputs.items()})
    return out.getvalue(), ", ".join(f"{name} {tuple(part.shape)}" for name, part in inputs.items())


@torch.no_grad()
def onnx_graph(checkpoint: Path) -> tuple[bytes, str]:
    """The ONNX file of a checkpoint, and a line on how it compares with torch.

    Raises UserError where onnxruntime computes something else than torch does.
    """
    segmenter = load(checkpoint)
    size, graph = segmenter.cfg.model.size, EvidenceGraph(segmenter.model).eval()
    text = text_inputs(segmenter, TRIED_WITH)
    segmenter.model.text_encoder = None     # no part of the graph
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    graph(images, *text.values())           # fills the cache of bilinear weights, which are constants of the graph
    batch, names, length = map(torch.export.Dim, ("batch", "names", "length"))
    free = [{0: names, 1: length} if name != "cls" else {0: names} for name in text]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # of torch's own code
            program = torch.export.export(graph, (images, *text.values()), dynamic_shapes=({0: batch}, tuple(free)))
            exported = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["images", *text],
                                         output_names=["evidence"])
    except Exception as error:  # many kinds, for a part of one's own that has no ONNX
        raise UserError(f"{checkpoint}: torch {torch.__version__} cannot write this model as ONNX "
                        f"({type(error).__name__}: {' '.join(str(error).split())[:300]})") from None
    about = {**segmenter.about, "prompt": segmenter.cfg.model.prompt}
    for key, value in about.items():
        exported.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    data = exported.model_proto.SerializeToString()
    return data, f"{len(data) / 1e6:.1f} MB; {compare(graph, data, images, text)}"


def compare(graph: EvidenceGraph, data: bytes, images: Tensor, text: dict[str, Tensor]) -> str:
    """A line on how onnxruntime's numbers and times compare with torch's, on other sizes than those exported with."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch, names in ((1, 1), (2, 3), (1, 2)):
        inputs = {"images": images[:batch], **{name: part[:names] for name, part in text.items()}}
        ours = graph(*inputs.values()).numpy()
        theirs = session.run(None, {name: part.numpy() for name, part in inputs.items()})[0]
        worst = max(worst, float(np.abs(theirs - ours).max() / np.abs(ours).max()))
    if not worst <= TOLERANCE:
        raise UserError(f"onnxruntime {onnxruntime.__version__} differs from torch by {worst:.1e} of the largest "
                        f"evidence, and {TOLERANCE} is allowed; nothing was written; try another version of it")
    arrays = {name: part.numpy() for name, part in inputs.items()}
    ms = [1000 * median(repeat(call, number=1, repeat=ROUNDS))
          for call in (lambda: graph(*inputs.values()), lambda: session.run(None, arrays))]
    return (f"evidence within {worst:.0e} of torch's, relative to the largest; one image, two names, "
            f"{torch.get_num_threads()} threads: {ms[1]:.0f} ms, torch {ms[0]:.0f} ms")

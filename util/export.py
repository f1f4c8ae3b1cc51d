"""Write a trained model as an ONNX graph, or names as the embeddings that this graph reads.

    python -m util.export CHECKPOINT OUT.onnx
    python -m util.export CHECKPOINT OUT.npz --names star key "traffic light"

Tokenizer and text encoder stay in Python, the rivals of ESDA+ are part of the graph. Needs requirements-export.txt;
docs/predict.md has an example.
"""
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.build import embed_names
from model.clip.text_encoder import TextEmbedding
from model.esda import repeat
from util.predict.inputs import checked_names, split_names
from util.predict.segmenter import Segmenter
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import Parser, run_main

TOLERANCE = 1e-3                # of the largest margin: what onnxruntime may differ from torch
TEXT = ("cls", "tokens", "valid")   # the graph's inputs besides images; ESDA+ reads cls alone


class EvidenceGraph(nn.Module):
    """Exported part of a model: logit margins (B, K, S, S) fp32 of each name in each image.

    Inputs: images (B, 3, S, S) uint8 RGB; cls (K, D) fp32; of ESDA also tokens (K, L, W) fp32 and valid (K, L) bool. B,
    K and L are free.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, *text: Tensor) -> Tensor:
        batch, names = images.shape[0], text[0].shape[0]
        shared = repeat(self.model.before_names(images), names)
        # (B, K, ...) views and no index: torch's exporter has no integer division of sizes that are free.
        each = [part.expand(batch, *part.shape).flatten(0, 1) for part in text]
        logits = self.model.segment(shared, TextEmbedding(*each, *[None] * (3 - len(each))), images.shape[2:]).logits
        return (logits[:, 1] - logits[:, 0]).unflatten(0, (batch, names))


def text_inputs(segmenter: Segmenter, names: list[str]) -> dict[str, Tensor]:
    """Embed ``names`` as the graph's inputs besides the images, by name."""
    text = embed_names(segmenter.model.text_encoder, names, segmenter.cfg.model)
    return dict(zip(TEXT if segmenter.cfg.model.kind == "esda" else TEXT[:1], text))


@torch.no_grad()
def onnx_graph(segmenter: Segmenter) -> bytes:
    """Export a model, on the CPU in fp32, and check it with ``compare``."""
    size, graph = segmenter.cfg.model.size, EvidenceGraph(segmenter.model).eval()
    text = text_inputs(segmenter, ["a", "cat", "traffic light"])
    segmenter.model.text_encoder = None     # no part of the graph
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    graph(images, *text.values())           # fills the cache of bilinear weights, which are constants of the graph
    batch, names, length = map(torch.export.Dim, ("batch", "names", "length"))
    free = tuple({0: names, 1: length} if name != "cls" else {0: names} for name in text)
    program = torch.export.export(graph, (images, *text.values()), dynamic_shapes=({0: batch}, free))
    exported = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["images", *text],
                                 output_names=["evidence"])
    data = exported.model_proto.SerializeToString()
    compare(graph, data, images, text)
    return data


def compare(graph: EvidenceGraph, data: bytes, images: Tensor, text: dict[str, Tensor]) -> None:
    """Compare onnxruntime with torch on several sizes. Raises AssertionError beyond TOLERANCE."""
    import onnxruntime
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for batch, names in ((1, 1), (2, 3), (1, 2)):
        inputs = {"images": images[:batch], **{name: part[:names] for name, part in text.items()}}
        ours = graph(*inputs.values())
        theirs, = session.run(None, {name: part.numpy() for name, part in inputs.items()})
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=0, atol=TOLERANCE * float(ours.abs().max()))


def main() -> None:
    parser = Parser(prog="python -m util.export", description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a trained model, in any format of test.py")
    parser.add_argument("out", type=Path, metavar="OUT", help="NAME.onnx, or NAME.npz for the embeddings of --names")
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help='for NAME.npz: star "traffic light"')
    given = parser.parse_args()
    if given.out.suffix != (".npz" if given.names else ".onnx"):
        parser.error(f"{given.out}: OUT ends in .onnx for the graph, and in .npz for the embeddings of --names")
    segmenter = Segmenter.load(given.checkpoint, device="cpu", precision="fp32")
    if given.names:
        names, out = checked_names(split_names(given.names))[0], io.BytesIO()
        np.savez(out, names=np.array(names), **{k: part.numpy() for k, part in text_inputs(segmenter, names).items()})
        data = out.getvalue()
    else:
        data = onnx_graph(segmenter)
    write_bytes_atomically(given.out, data)
    print(f"{given.out}: {len(data) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_main(main)

"""Write a trained model as an ONNX graph, or names as the embeddings that this graph reads.

    python -m util.export CHECKPOINT OUT.onnx
    python -m util.export CHECKPOINT OUT.npz --names star key "traffic light"

docs/export.md says what goes into the graph, what comes out of it and how fast it is.
"""
from pathlib import Path

from model.clip.errors import WeightsError
from util.config import ROOT
from util.predict.names import checked_names
from util.requirements import problems
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import Parser, UserError, require_file, run_main

EXTRAS = ROOT / "requirements-export.txt"
REMEDY = "free some space or choose another OUT"


def main() -> None:
    parser = Parser(prog="python -m util.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a trained model, in any format of test.py")
    parser.add_argument("out", type=Path, metavar="OUT", help="NAME.onnx, or NAME.npz for the embeddings of --names")
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help='for NAME.npz: star "traffic light"')
    given = parser.parse_args()
    if given.out.suffix not in (".onnx", ".npz"):
        raise UserError(f"{given.out}: OUT should end in .onnx for the graph, or in .npz for the embeddings of --names")
    if given.out.suffix == ".onnx":
        if given.names:
            raise UserError(f"--names {given.names[0]}: the graph is the same for all names; write their embeddings in "
                            f"a second call, whose OUT ends in .npz")
        missing = problems(EXTRAS)
        if missing:
            raise UserError(f"util.export needs {' and '.join(missing)}: pip install -r {EXTRAS}")
        names = []
    else:
        names, _ = checked_names(given.names)
    require_file(given.checkpoint, "CHECKPOINT is a trained model")
    if given.out.is_dir() or not given.out.parent.is_dir():  # told before the work, not after it
        raise UserError(f"{given.out}: {'a folder' if given.out.is_dir() else 'no such folder to write into'}; choose "
                        f"another OUT")

    from util.export.graph import embeddings, onnx_graph  # torch takes seconds to import: mistakes come before
    data, line = embeddings(given.checkpoint, names) if names else onnx_graph(given.checkpoint)
    write_bytes_atomically(given.out, data, REMEDY)
    print(f"{given.out}: {line}")


if __name__ == "__main__":
    run_main(main, WeightsError)

"""Find named things in an image, in the browser. docs/page.md explains it.

    python app.py [--weights FILE | --model naclip]     then open the address that it prints

Without --weights the shipped model of Shapes-5i is used. Only this machine can open the page, unless --host says else.
"""
import argparse
import sys
import time

from model.clip.errors import WeightsError
from util.config import ROOT
from util.predict.command import TRAINING_FREE
from util.requirements import problems
from util.runtime.errors import Parser, UserError, run_main, tell
from util.runtime.stop import StopRequest

EXTRAS = ROOT / "requirements-page.txt"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def arguments(given: list[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint; the shipped one knows Shapes-5i only")
    parser.add_argument("--model", choices=TRAINING_FREE, help="no checkpoint: CLIP alone, without training")
    parser.add_argument("--clip", metavar="FILE", help="CLIP's weights (weights/ViT-B-16.pt)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--host", default=LOOPBACK[0], help="address to listen at; 0.0.0.0 lets the network in")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="default: 7860")
    options = parser.parse_args(given)
    if not 1 <= options.port <= 65_535:
        raise UserError(f"--port {options.port} should be 1 to 65535")
    if options.weights and options.model:
        raise UserError(f"--weights {options.weights} and --model {options.model}, which has none; give one of the two")
    missing = problems(EXTRAS)
    if missing:
        raise UserError(f"the page needs {' and '.join(missing)}: pip install -r {EXTRAS}")
    return options


def main() -> None:
    options = arguments(sys.argv[1:])
    stop = StopRequest()
    with stop:  # an import that is cut off complains in its own words
        from util.page.serve import serve
        from util.predict.segmenter import Segmenter
    segmenter = Segmenter.load(options.weights, model=options.model, clip=options.clip, device=options.device)
    if options.host not in LOOPBACK:
        tell(f"note: everybody who reaches {options.host} can use this page; it has no password and no encryption")
    with serve(segmenter, options.host, options.port, shipped=not options.weights and not options.model) as address:
        print(f"{address} (Ctrl-C ends it)", flush=True)
        while True:  # a signal raises Stopped
            time.sleep(3600)


if __name__ == "__main__":
    run_main(main, WeightsError)

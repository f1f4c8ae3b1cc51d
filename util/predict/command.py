"""The command line of predict.py, read and checked without torch, so that a mistake is told at once."""
from pathlib import Path
from typing import NamedTuple, get_args, get_type_hints

from util.options import Config, Model
from util.predict.images import find_images
from util.predict.names import checked_names
from util.runtime.errors import Parser, UserError

OUT = "predictions"
TRAINING_FREE = tuple(kind for kind in get_args(get_type_hints(Model)["kind"])
                      if kind not in ("esda", "plus", "everything"))
PRECISIONS = get_args(get_type_hints(Config)["precision"])


class Request(NamedTuple):
    """What a user asks of predict.py."""
    images: list[Path]
    names: list[str]
    others: list[str]
    threshold: float | None
    separate: bool
    zoom: bool
    probabilities: bool
    redo: bool
    out: Path
    load: dict      # arguments of Segmenter.load


def from_command_line(arguments: list[str], description: str) -> Request:
    """Read the command line. Raises UserError for what can be told from it and from the images' paths alone."""
    parser = Parser(description=description)
    parser.add_argument("images", nargs="*", metavar="IMAGE|FOLDER|GLOB", help="before --names")
    parser.add_argument("--names", nargs="*", default=[], action="extend", metavar="NAME",
                        help='what to look for: star "traffic light"')
    parser.add_argument("--others", nargs="*", default=[], action="extend", metavar="WORD",
                        help="rival words: they take pixels and are not reported")
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint; the shipped one knows Shapes-5i only")
    parser.add_argument("--model", choices=TRAINING_FREE, help="no checkpoint: CLIP alone, without training")
    parser.add_argument("--clip", metavar="FILE", help="CLIP's weights (weights/ViT-B-16.pt)")
    parser.add_argument("--out", default=OUT, metavar="DIR", help=f"folder for the results ({OUT})")
    parser.add_argument("--threshold", type=float, metavar="0..1", help="names with a lower score are not found")
    parser.add_argument("--separate", action="store_true", help="each name has its own mask; masks may overlap")
    parser.add_argument("--zoom", action="store_true", help="look again at small regions, enlarged; takes longer")
    parser.add_argument("--prob", action="store_true", help="write each name's probabilities, too")
    parser.add_argument("--redo", action="store_true", help="make results again that are there")
    parser.add_argument("--size", type=int, metavar="PX", help="side of the network's input; a multiple of its patch")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--precision", choices=PRECISIONS, help="that of the checkpoint's options")
    given = parser.parse_args(arguments)
    names, others = checked_names(given.names, given.others)
    if given.threshold is not None and not 0 <= given.threshold <= 1:
        raise UserError(f"--threshold {given.threshold} should be 0 to 1, as the scores are")
    if not given.out.strip():
        raise UserError("--out is empty; name a folder for the results")
    if given.weights and given.model:
        raise UserError(f"--weights {given.weights} and --model {given.model}, which has none; give one of the two")
    load = {key: getattr(given, key) for key in ("weights", "model", "clip", "size", "device", "precision")}
    return Request(find_images(given.images), names, others, given.threshold, given.separate, given.zoom, given.prob,
                   given.redo, Path(given.out), load)

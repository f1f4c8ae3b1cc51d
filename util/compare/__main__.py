"""Tables and pictures of runs beside each other and beside published scores, and one page of all of it.

    python -m util.compare RUN [RUN ...] [--baseline ARCH] [--columns NAME,NAME] [--select unseen|seen|last]
        [--partial] [--out DIR]

RUN is a run's folder (EXP/DATASET/ARCH/foldK/RUN) or any folder above it, of which every results.json is taken. A row
is one data set, configuration, selection and protocol, over folds and seeds. Runs that cannot be averaged are rejected.
report.html holds the tables and all pictures and can be sent as it is. For each data set and protocol there are every
run's mIoU (means-*), what it has more than the baseline's (differences-*), curves over epochs (curves-*), the IoU by
class (classes-*), what was taken for what (marked-*), and what every row predicts for samples that all of them drew
(predictions-*; eval.pictures; of each fold the first seed's). Needs requirements-extra.txt.
"""
import sys
from importlib.util import find_spec
from pathlib import Path

from util.compare.groups import gather
from util.compare.published import read_published
from util.compare.runs import find, read
from util.config import ROOT
from util.run.atomic import write_bytes_atomically
from util.run.selection import SELECTIONS
from util.runtime.errors import Parser, UserError, run_main

EXTRAS = ("pandas", "matplotlib", "scipy")  # of requirements-extra.txt


def main() -> None:
    parser = Parser(prog="python -m util.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or one above several")
    parser.add_argument("--baseline", default="", metavar="ARCH", help="the arch that the others are compared with")
    parser.add_argument("--columns", default="", metavar="NAME,NAME", help="of the table; all: every one; a wrong name "
                        "lists them")
    parser.add_argument("--select", choices=SELECTIONS, help="the epoch whose score counts; default: the one tested")
    parser.add_argument("--partial", action="store_true", help="average the folds there are, and mark it")
    parser.add_argument("--out", default="exp/compare", metavar="DIR", help="default: exp/compare")
    parser.add_argument("--published", default=ROOT / "lists/published.yaml", metavar="FILE",
                        help="default: lists/published.yaml")
    options = parser.parse_args()
    missing = [package for package in EXTRAS if find_spec(package) is None]
    if missing:
        raise UserError(f"util.compare needs {', '.join(missing)}: {sys.executable} -m pip install -r "
                        f"{ROOT / 'requirements-extra.txt'}")
    groups = gather((read(file, options.select) for file in find(options.runs)), options.partial)
    archs = dict.fromkeys(g.first.arch for g in groups)
    if options.baseline and options.baseline not in archs:
        raise UserError(f"--baseline {options.baseline}: no run is of that arch; there are {', '.join(archs)}")
    published = read_published(options.published)
    from util.compare.report import report  # after EXTRAS have been looked for
    from util.compare.words import columns_of
    files = report(groups, published, options.baseline, columns_of(options.columns))
    print(files["table.md"].decode(), end="")
    for name, data in files.items():
        write_bytes_atomically(Path(options.out) / name, data, "choose another place with --out")
        print(f"written: {Path(options.out) / name}", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)

"""Tables and charts of runs beside each other and beside published scores.

    python -m util.compare RUN [RUN ...] [--baseline ARCH] [--select unseen|seen|last] [--partial] [--out DIR]

RUN is a run's folder (EXP/DATASET/ARCH/foldK/RUN) or any above it. A row is one data set, protocol, configuration and
selection, over folds and seeds. docs/running.md says what is written. Needs requirements-extra.txt.
"""
from pathlib import Path

import yaml

from util.compare.report import report
from util.compare.runs import find, gather, read
from util.config import ROOT
from util.options import SELECTIONS
from util.runtime.errors import Parser, run_main


def main() -> None:
    parser = Parser(prog="python -m util.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or one above several")
    parser.add_argument("--baseline", default="", metavar="ARCH", help="the arch that the others are compared with")
    parser.add_argument("--select", choices=SELECTIONS, help="the epoch whose score counts; default: the one tested")
    parser.add_argument("--partial", action="store_true", help="average the folds there are, and mark it")
    parser.add_argument("--out", type=Path, default="exp/compare", metavar="DIR", help="default: exp/compare")
    given = parser.parse_args()
    groups = gather((read(file, given.select) for file in find(given.runs)), given.partial)
    archs = dict.fromkeys(g.raw["arch"] for g in groups)
    if given.baseline and given.baseline not in archs:
        parser.error(f"--baseline {given.baseline}: no run is of that arch; there are {', '.join(archs)}")
    published = yaml.safe_load((ROOT / "lists/published.yaml").read_text(encoding="utf-8"))
    report(groups, published, given.baseline, given.out)


if __name__ == "__main__":
    run_main(main)

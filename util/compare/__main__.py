"""Tables and pictures of runs beside each other and beside published scores.

    python -m util.compare RUN [RUN ...] [--baseline ARCH] [--select unseen|seen|last] [--partial] [--out DIR]

RUN is a run's folder (EXP/DATASET/ARCH/foldK/RUN) or any folder above it, of which every results.json is taken. A row
is one data set, configuration, selection and protocol, over folds and seeds. Runs that cannot be averaged are refused.
For each data set and protocol classes-*.png has the IoU by class and predictions-*.png what every row predicts for the
samples that all of them drew (eval.pictures; of each fold the first seed's).
"""
import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from util.compare.formats import as_csv, latex, markdown, runs_as_csv
from util.compare.groups import Group, gather
from util.compare.picture import bars, name_among
from util.compare.published import read_published
from util.compare.runs import find, read
from util.compare.sheet import shared_samples, sheet
from util.compare.tables import tables
from util.config import ROOT
from util.run.atomic import write_bytes_atomically
from util.run.selection import SELECTIONS
from util.runtime.errors import UserError, run_main


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m util.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or one above several")
    parser.add_argument("--baseline", default="", metavar="ARCH", help="the arch that the others are set against")
    parser.add_argument("--select", choices=SELECTIONS, help="the epoch whose score counts; default: the one tested")
    parser.add_argument("--partial", action="store_true", help="average the folds there are, and mark it")
    parser.add_argument("--out", default="exp/compare", metavar="DIR", help="default: exp/compare")
    parser.add_argument("--published", default=ROOT / "lists/published.yaml", metavar="FILE",
                        help="default: lists/published.yaml")
    return parser.parse_args(given)


def main() -> None:
    options = arguments(sys.argv[1:])
    groups = gather((read(file, options.select) for file in find(options.runs)), options.partial)
    archs = dict.fromkeys(g.first.arch for g in groups)
    if options.baseline and options.baseline not in archs:
        raise UserError(f"--baseline {options.baseline}: no run is of that arch; there are {', '.join(archs)}")
    made = tables(groups, read_published(options.published), options.baseline)
    text = markdown(made)
    print(text, end="")
    files = {"table.md": text.encode(), "table.csv": as_csv(made).encode(), "table.tex": latex(made).encode(),
             "runs.csv": runs_as_csv(made).encode()}
    for table in made:
        for protocol in dict.fromkeys(g.first.protocol for g in table.groups):  # IoUs of two do not share a picture
            groups, which = [g for g in table.groups if g.first.protocol == protocol], f"{table.dataset}-{protocol}"
            files[f"classes-{which}.png"] = _png(bars(table, groups))
            picture = _predictions(groups, f"predictions-{which}.png")
            if picture is not None:
                files[f"predictions-{which}.png"] = _png(picture)
    for name, data in files.items():
        write_bytes_atomically(Path(options.out) / name, data, "choose another place with --out")
        print(f"written: {Path(options.out) / name}", file=sys.stderr)


def _predictions(groups: list[Group], file: str) -> np.ndarray | None:
    """The sheet of the rows that drew anything, None without a shared sample. Says on stderr what there is not."""
    drawn = [g for g in groups if any(r.pictures for r in g.results)]
    samples = shared_samples(drawn) if drawn else []
    if not samples:
        print(f"no {file}: the runs share no sample that they drew when they were tested", file=sys.stderr)
        return None
    if len(drawn) < len(groups):
        left = ", ".join(name_among(groups, g) for g in groups if g not in drawn)
        print(f"not in {file}: {left}, which drew no sample of this epoch; test it again", file=sys.stderr)
    return sheet(drawn, samples)


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


if __name__ == "__main__":
    run_main(main)

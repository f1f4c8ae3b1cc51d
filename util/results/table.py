"""The table of the folds of one run name, and their mean; ``python -m util.compare`` sets several beside each other.

    python -m util.results.table --config config/shapes/esda.yaml run=NAME
"""
import sys
from pathlib import Path
from statistics import fmean

from data.folds import classes_of
from util.compare.groups import Group, gather
from util.compare.runs import read
from util.config import Config, from_command_line
from util.runtime.errors import run_main
from util.runtime.markdown import markdown_table

COLUMNS = (("miou", "mIoU"), ("fb_iou", "FB-IoU"), ("name_auc", "name AUC"), ("absent_name_miou", "absent-name mIoU"),
           ("seen_miou", "seen mIoU"), ("hiou", "hIoU"), ("pixel_accuracy", "pixel accuracy"))


def read_folds(cfg: Config) -> Group:
    """results.json of every fold of the run; UserError if one is missing or they cannot be averaged."""
    folder = Path(cfg.exp) / cfg.dataset / cfg.arch
    folds = range(len(classes_of(cfg.data).folds))
    return gather(read(folder / f"fold{k}" / cfg.run / "results.json") for k in folds)[0]


def markdown(group: Group) -> str:
    """Folds and their mean as a Markdown table; the protocol stands above it."""
    first, results = group.first, [r.raw for r in group.results]
    columns = [(key, head) for key, head in COLUMNS if all(r.get(key) is not None for r in results)]
    def row(name, values):
        return [str(name), *(f"{v:.3f}" if key == "name_auc" else f"{v:.1f}" for (key, _), v in zip(columns, values))]

    rows = [row(r["fold"], [r[key] for key, _ in columns]) for r in results]
    rows.append(row("mean", [fmean(r[key] for r in results) for key, _ in columns]))
    return (f"{first.dataset}, {first.arch}: unseen classes, {first.protocol} protocol, "
            f"{' + '.join(str(r.samples) for r in group.results)} samples\n\n"
            + markdown_table(["fold", *(head for _, head in columns)], rows))


if __name__ == "__main__":
    run_main(lambda: print(markdown(read_folds(from_command_line(sys.argv[1:])))))

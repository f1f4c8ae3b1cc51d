"""The table of the folds of one run name, and their mean; ``python -m util.compare`` sets several beside each other.

    python -m util.results.table --config config/shapes/esda.yaml run=NAME
"""
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from data.folds import classes_of
from util.compare.groups import Group, gather
from util.compare.runs import read
from util.config import Config, from_command_line
from util.runtime.errors import run_main
from util.runtime.markdown import markdown_table

COLUMNS = {"miou": "mIoU", "fb_iou": "FB-IoU", "name_auc": "name AUC", "absent_name_miou": "absent-name mIoU",
           "presence_auroc": "presence AUROC", "absent_empty": "absent: empty %",
           "seen_miou": "seen mIoU", "hiou": "hIoU", "pixel_accuracy": "pixel accuracy"}


def read_folds(cfg: Config, folds: Iterable[int], partial: bool = False) -> Group:
    """results.json of ``folds`` of the run. Raises UserError if one is missing or they cannot be averaged.

    partial: whether ``folds`` may be some of them.
    """
    folder = Path(cfg.exp) / cfg.dataset / cfg.arch
    return gather((read(folder / f"fold{k}" / cfg.run / "results.json") for k in folds), partial)[0]


def folds_table(group: Group) -> str:
    """Folds and their mean in Markdown. The protocol stands above it, and whether the scores are not zero-shot."""
    first, raw = group.first, [r.raw for r in group.results]
    columns = {key: head for key, head in COLUMNS.items() if all(r.get(key) is not None for r in raw)}
    values = [[r[key] for key in columns] for r in raw]
    mean = f"mean of {len(raw)} folds of {first.folds}" if group.partial else "mean"
    rows = [[r["fold"], *row] for r, row in zip(raw, values)] + [[mean, *map(fmean, zip(*values))]]
    cells = [[name, *(format(v, ".3f" if key.endswith(("auc", "auroc")) else ".1f") for key, v in zip(columns, row))]
             for name, *row in rows]
    mark = ", not zero-shot" if first.not_zero_shot else ""
    reasons = "; ".join(dict.fromkeys(r.not_zero_shot for r in group.results))
    return (f"{first.dataset}, {first.arch}: unseen classes, {first.protocol} protocol, "
            f"{' + '.join(str(r.samples) for r in group.results)} samples{f'{mark}: {reasons}' if mark else ''}\n\n"
            + markdown_table(["fold", *(head + mark * (key == "miou") for key, head in columns.items())], cells))


def main() -> None:
    cfg = from_command_line(sys.argv[1:])
    print(folds_table(read_folds(cfg, range(len(classes_of(cfg.data).folds)))))


if __name__ == "__main__":
    run_main(main)

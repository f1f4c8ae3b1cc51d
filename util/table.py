"""The table of the four folds of one run name, and their mean.

    python -m util.table --config config/shapes/esda.yaml run=NAME
"""
import json
import sys
from pathlib import Path

import numpy as np

from util.config import Config, from_command_line
from util.errors import UserError, require_file, run_main
from util.folds import FOLDS

COLUMNS = (("miou", "mIoU"), ("fb_iou", "FB-IoU"), ("name_auc", "name AUC"), ("absent_name_miou", "absent-name mIoU"))


def read_folds(cfg: Config) -> list[dict]:
    """results.json of every fold of the run; UserError if one is missing or they cannot be averaged."""
    folder = Path(cfg.exp) / cfg.dataset / cfg.arch
    results = [json.loads(require_file(folder / f"fold{k}" / cfg.run / "results.json", "train or test that fold first")
                          .read_text()) for k in range(FOLDS)]
    protocols = {r["protocol"] for r in results}
    if len(protocols) > 1:
        raise UserError(f"{folder}: the folds of {cfg.run} were scored by different protocols ({', '.join(protocols)}); "
                        f"test them again with one")
    return results


def markdown(results: list[dict]) -> str:
    """Folds and their mean as a Markdown table; the protocol stands above it."""
    first = results[0]
    columns = [(key, head) for key, head in COLUMNS if all(r.get(key) is not None for r in results)]
    lines = [f"{first['dataset']}, {first['arch']}: unseen classes, {first['protocol']} protocol, "
             f"{' + '.join(str(r['samples']) for r in results)} samples", "",
             f"| fold | {' | '.join(head for _, head in columns)} |", f"|---|{'---|' * len(columns)}"]

    def row(name, values):
        cells = (f"{v:.3f}" if key == "name_auc" else f"{v:.1f}" for (key, _), v in zip(columns, values))
        return f"| {name} | {' | '.join(cells)} |"

    lines += [row(r["fold"], [r[key] for key, _ in columns]) for r in results]
    lines.append(row("mean", [np.mean([r[key] for r in results]) for key, _ in columns]))
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(lambda: print(markdown(read_folds(from_command_line(sys.argv[1:])))))

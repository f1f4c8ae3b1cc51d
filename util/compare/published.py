"""Scores from papers and other people's READMEs, to stand beside one's own."""
from dataclasses import dataclass
from pathlib import Path

import yaml

from util.runtime.errors import UserError, require_file


@dataclass(frozen=True)
class Published:
    """mIoU in percent as printed: the mean over the folds, and the folds where the source gives them."""
    dataset: str
    model: str
    mean: float
    source: str
    miou: tuple[float, ...] = ()
    note: str = ""


def read_published(path: str | Path) -> list[Published]:
    """Raises UserError where an entry lacks something, is no percentage, or its mean is not that of its folds."""
    path = require_file(path, "--published names a YAML list like lists/published.yaml")
    try:
        rows = [Published(**{**entry, **{key: str(entry[key]) for key in ("dataset", "model", "source")},
                             "mean": float(entry["mean"]), "miou": tuple(map(float, entry.get("miou", ())))})
                for entry in yaml.safe_load(path.read_text(encoding="utf-8")) or []]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: should be a list of entries with dataset, model, mean and source, and miou and note "
                        f"where there are any: {type(error).__name__} {error}") from None
    for row in rows:
        if not all(0 <= value <= 100 for value in (row.mean, *row.miou)):
            raise UserError(f"{path}: {row.model} on {row.dataset}: mIoU should be a percentage, 0 to 100")
        if row.miou and abs(sum(row.miou) / len(row.miou) - row.mean) > 0.051:  # one decimal is printed
            raise UserError(f"{path}: {row.model} on {row.dataset}: {row.mean} is not the mean of {list(row.miou)}; "
                            f"correct one of them")
    return rows

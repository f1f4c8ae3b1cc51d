"""Groups of runs beside published scores in numbers: a line a run, a line a group (words.py has them in words)."""
import os
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from scipy.stats import t

from util.compare.groups import Group
from util.compare.published import Published
from util.run.selection import SELECTIONS

MEANS = ["miou", "miou_std", "seen_miou", "hiou", "pixel_accuracy", "fb_iou", "seen_held_out_miou",
         *(f"miou_selected_by_{rule}" for rule in SELECTIONS), "name_auc", "absent_name_miou", "presence_auroc",
         "absent_empty", "training_seconds"]  # over seeds, then over folds
RUN = ["dataset", "model", "fold", "seed", "selected_by", "protocol", "samples", "trained_on", "not_zero_shot", *MEANS,
       "steps", "images", "machine", "code", "data", "command", "folder"]
CONFIDENCE = 0.95


def make_tables(groups: list[Group], published: list[Published], baseline: str = "") -> list["Table"]:
    """One table a data set, the baseline's rows first."""
    groups = sorted(groups, key=lambda g: g.first.arch != baseline)
    return [Table(name, [g for g in groups if g.first.dataset == name], [p for p in published if p.dataset == name],
                  baseline) for name in dict.fromkeys(g.first.dataset for g in groups)]


def runs_frame(groups: list[Group]) -> pd.DataFrame:
    """A line a run, with the command that made it: what the means are made of. NaN is unknown or does not apply."""
    return pd.DataFrame([{
        **r.raw, "model": r.arch, "seed": r.seed, "selected_by": r.selection, "trained_on": r.trained_on,
        "not_zero_shot": r.not_zero_shot, "miou": r.miou, "fb_iou": r.fb_iou, "seen_held_out_miou": r.held_out,
        "steps": r.steps, "images": r.images, "data": ", ".join(map(" ".join, r.raw.get("data", {}).items())),
        "folder": os.fsencode(r.folder).decode("utf-8", "backslashreplace"),
        **{f"miou_selected_by_{rule}": miou for rule, miou in r.selections.items()}}
        for g in groups for r in g.results]).reindex(columns=RUN).astype(dict.fromkeys(MEANS, float))


def numbers_frame(tables: list["Table"]) -> pd.DataFrame:
    """A line a group, then a line a published score, of every data set. NaN is unknown or does not apply."""
    folds = max((table.folds for table in tables), key=len)
    return pd.DataFrame([row for table in tables for row in table.rows]).reindex(columns=[
        "dataset", "model", "published", "source", "selected_by", "protocol", "samples", "trained_on", "not_zero_shot",
        "seeds", "of_folds", *folds, *MEANS, "miou_std_over_seeds", "miou_minus_baseline", "miou_minus_baseline_low",
        "miou_minus_baseline_high", "pairs", "steps", "images", "parameters_trainable", "parameters_total",
        "gflops_per_image", "machine", "code", "data", "folder"])


@dataclass(frozen=True)
class Table:
    """One data set's rows: groups of runs, and the published scores beside them. baseline: an arch, or ""."""
    dataset: str
    groups: list[Group]
    published: list[Published]
    baseline: str = ""

    @cached_property
    def folds(self) -> list[str]:
        return [f"miou_fold{k}" for k in range(max(g.first.folds for g in self.groups))]

    @cached_property
    def rows(self) -> list[dict]:
        """As :func:`numbers_frame` has them, those of groups first."""
        return [*map(self._row, self.groups), *(
            {"dataset": p.dataset, "model": p.model, "published": "yes", "miou": p.mean,
             "source": "; ".join(filter(None, (p.source, p.note))), **dict(zip(self.folds, p.miou))}
            for p in self.published)]

    def _row(self, group: Group) -> dict:
        first, runs = group.first, runs_frame([group])
        by_fold = runs.groupby("fold")[MEANS].agg(lambda values: values.mean(skipna=False))
        grid = runs.pivot(index="seed", columns="fold", values="miou")
        return {**runs.iloc[0][["dataset", "model", "selected_by", "protocol", "trained_on"]], "published": "no",
                **{name: "; ".join(filter(None, runs[name].dropna().unique()))
                   for name in ("not_zero_shot", "machine", "code", "data", "folder")},
                "samples": "+".join(map(str, runs.groupby("fold")["samples"].first())),
                "seeds": " ".join(map(str, group.seeds)), "of_folds": first.folds,
                **by_fold["miou"].add_prefix("miou_fold"), **by_fold.mean(skipna=False),
                "miou_std_over_seeds": grid.mean(axis=1).std() if grid.notna().all(axis=None) else None,
                **self._against(group, runs), "steps": _span(runs["steps"]), "images": _span(runs["images"]),
                "parameters_trainable": first.raw["parameters"]["trainable"],
                "parameters_total": first.raw["parameters"]["total"],
                "gflops_per_image": max(r.raw["gflops_per_image"] for r in group.results)}

    def differences(self, protocol: str) -> pd.DataFrame:
        """model, fold, seed, difference: mIoU minus the baseline's, a line a pair of one fold and seed."""
        own = [g for g in self.groups if g.first.protocol == protocol]
        return pd.DataFrame([(g.honest_label(own), *pair, value) for g in own if (base := self._baseline(g)) is not None
                             for pair, value in _pairs(runs_frame([g]), base).items()],
                            columns=["model", "fold", "seed", "difference"])

    def _baseline(self, group: Group) -> pd.DataFrame | None:
        """The runs of the baseline that was tested in the same way, preferably under the same selection."""
        fit = [g for g in self.groups if g.first.arch == self.baseline != group.first.arch and g.same_test_as(group)]
        if not fit:
            return None
        return runs_frame([next((g for g in fit if g.first.selection == group.first.selection), fit[0])])

    def _against(self, group: Group, runs: pd.DataFrame) -> dict:
        """The mean of mIoU minus the baseline's over pairs of one fold and seed, and a t interval from two pairs on.

        Without any pair it is the difference of the means. {} without a baseline.
        """
        base = self._baseline(group)
        if base is None:
            return {}
        pairs = _pairs(runs, base)
        if pairs.empty:
            own, other = (frame.groupby("fold")["miou"].mean().mean() for frame in (runs, base))
            return {"miou_minus_baseline": own - other, "pairs": 0}
        low, high = interval(pairs)
        return {"miou_minus_baseline": pairs.mean(), "pairs": len(pairs),
                **({} if low is None else {"miou_minus_baseline_low": low, "miou_minus_baseline_high": high})}


def interval(values: pd.Series) -> tuple[float, float] | tuple[None, None]:
    """Of the mean, by Student's t; (None, None) for less than two values."""
    if len(values) < 2:
        return None, None
    reach = t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * values.sem()
    return values.mean() - reach, values.mean() + reach


def _pairs(runs: pd.DataFrame, base: pd.DataFrame) -> pd.Series:
    """mIoU minus the baseline's by (fold, seed), where both have it."""
    own, other = (frame.set_index(["fold", "seed"])["miou"] for frame in (runs, base))
    return (own - other).dropna()


def _span(values: pd.Series) -> str:
    """One whole number, or the least and the most; "" where one is unknown."""
    return "" if values.isna().any() else " to ".join(f"{end:,}" for end in sorted({*map(int, (values.min(),
                                                                                           values.max()))}))

"""Tables of groups of runs beside published scores: in numbers (CSV) and in words (Markdown, LaTeX)."""
import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import pandas as pd

from data.samples import TRAINED_ON
from util.compare.groups import Group, differing_options
from util.compare.published import Published
from util.run.selection import SELECTIONS
from util.runtime.markdown import markdown_table

MEANS = ["miou", "miou_std", "seen_miou", "hiou", "pixel_accuracy", "fb_iou", "seen_held_out_miou",
         *(f"miou_selected_by_{rule}" for rule in SELECTIONS), "training_seconds"]  # over seeds, then over folds
RUN = ["dataset", "model", "fold", "seed", "selected_by", "protocol", "samples", "trained_on", "not_zero_shot", *MEANS,
       "name_auc", "absent_name_miou", "machine", "code", "command", "folder"]
LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
         "[": "{[}", **{c: f"\\{c}" for c in "&%$#_{}"}}  # a bare [ after \\ would be its argument


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
        "folder": os.fsencode(r.folder).decode("utf-8", "backslashreplace"),
        **{f"miou_selected_by_{rule}": miou for rule, miou in r.selections.items()}}
        for g in groups for r in g.results]).reindex(columns=RUN).astype(dict.fromkeys(MEANS, float))


def numbers_frame(tables: list["Table"]) -> pd.DataFrame:
    """A line a group, then a line a published score, of every data set. NaN is unknown or does not apply."""
    folds = max((table.folds for table in tables), key=len)
    return pd.DataFrame([row for table in tables for row in table.rows()]).reindex(columns=[
        "dataset", "model", "published", "source", "selected_by", "protocol", "samples", "trained_on", "not_zero_shot",
        "seeds", "of_folds", *folds, *MEANS, "miou_std_over_seeds", "miou_minus_baseline", "miou_minus_baseline_error",
        "parameters_trainable", "parameters_total", "gflops_per_image", "machines", "runs"])


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
    def frame(self) -> pd.DataFrame:
        return numbers_frame([self])

    def rows(self) -> list[dict]:
        """As :func:`numbers_frame` has them."""
        return [*map(self._row, self.groups), *(
            {"dataset": p.dataset, "model": p.model, "published": "yes", "miou": p.mean,
             "source": "; ".join(filter(None, (p.source, p.note))), **dict(zip(self.folds, p.miou))}
            for p in self.published)]

    def _row(self, group: Group) -> dict:
        first, runs = group.first, runs_frame([group])
        by_fold = runs.groupby("fold")[MEANS].agg(lambda values: values.mean(skipna=False))
        grid = runs.pivot(index="seed", columns="fold", values="miou")
        return {**runs.iloc[0][["dataset", "model", "selected_by", "protocol", "trained_on"]], "published": "no",
                "not_zero_shot": "; ".join(filter(None, runs["not_zero_shot"].unique())),
                "samples": "+".join(map(str, runs.groupby("fold")["samples"].first())),
                "seeds": " ".join(map(str, group.seeds)), "of_folds": first.folds,
                **by_fold["miou"].add_prefix("miou_fold"), **by_fold.mean(skipna=False),
                "miou_std_over_seeds": grid.mean(axis=1).std() if grid.notna().all(axis=None) else None,
                **self._difference(group, runs), "parameters_trainable": first.raw["parameters"]["trainable"],
                "parameters_total": first.raw["parameters"]["total"],
                "gflops_per_image": max(r.raw["gflops_per_image"] for r in group.results),
                "machines": "; ".join(runs["machine"].dropna().unique()), "runs": "; ".join(runs["folder"])}

    def _difference(self, group: Group, runs: pd.DataFrame) -> dict:
        """Mean mIoU minus the baseline's, and its standard error over pairs where both have the same folds and seeds.

        The baseline is a group tested in the same way, preferably under the same selection. {} without one.
        """
        fit = [g for g in self.groups if g.first.arch == self.baseline != group.first.arch and g.same_test_as(group)]
        if not fit:
            return {}
        base = runs_frame([next((g for g in fit if g.first.selection == group.first.selection), fit[0])])
        own, other = (frame.set_index(["fold", "seed"])["miou"] for frame in (runs, base))
        means = [scores.groupby("fold").mean().mean() for scores in (own, other)]
        return {"miou_minus_baseline": means[0] - means[1],
                "miou_minus_baseline_error": (own - other).sem() if own.index.equals(other.index) else None}

    def words(self) -> list[pd.DataFrame]:
        """The scores, and how they came about, as text. Columns but folds that no row fills are left out."""
        scores, origins, runs = [], [], self.frame[:len(self.groups)]
        comparable = runs[runs["not_zero_shot"] == ""].groupby("protocol")["miou"]
        best = [mious.idxmax() for _, mious in comparable if len(mious) > 1]
        for k, row in self.frame.iterrows():
            group = self.groups[k] if k in runs.index else None
            mean = _number(row["miou"]) + _error(row["miou_std_over_seeds"]) + (_remarks(group) if group else "")
            scores.append({
                "model": group.label(self.groups) if group else f"{row['model']}, published [{k - len(runs) + 1}]",
                **{f"fold {i}": _number(row[column]) for i, column in enumerate(self.folds)},
                "mean mIoU": f"**{mean}**" if k in best else mean,
                f"against {self.baseline}": _number(row["miou_minus_baseline"], "+.1f") + _error(
                    row["miou_minus_baseline_error"]),
                "± over draws": _number(row["miou_std"]), "seen mIoU (S)": _number(row["seen_miou"]),
                "hIoU": _number(row["hiou"]), "pixel accuracy": _number(row["pixel_accuracy"]),
                "FB-IoU": _number(row["fb_iou"]), "seen, held out": _number(row["seen_held_out_miou"]),
                "protocol, samples": _protocol(group, row["samples"]) if group else "-"})
        for group, (_, row) in zip(self.groups, runs.iterrows()):
            origins.append({
                "model": group.label(self.groups), "trained on": row["trained_on"], "selected by": row["selected_by"],
                **{f"at {rule}": _number(row[f"miou_selected_by_{rule}"]) for rule in SELECTIONS},
                "trains, M": f"{row['parameters_trainable'] / 1e6:.2f}",
                "parameters, M": f"{row['parameters_total'] / 1e6:.2f}",
                "GFLOP an image": f"{row['gflops_per_image']:.1f}",
                "training a fold": "-" if pd.isna(row["training_seconds"]) else
                str(timedelta(seconds=round(row["training_seconds"])))})
        return [table.loc[:, (table != "-").any() | table.columns.str.startswith("fold ")]
                for table in map(pd.DataFrame, (scores, origins))]

    def notes(self) -> list[str]:
        """What the cells leave unsaid, a sentence each; of published rows, the source."""
        notes, first = [], self.groups[0]
        for g, reasons in zip(self.groups, self.frame["not_zero_shot"]):
            label = f"{g.label(self.groups)} ({g.first.protocol})"
            if reasons:
                notes.append(f"{label} is not zero-shot: {reasons}.")
            if g.partial:
                there = "; ".join(f"seed {seed}: folds {', '.join(str(r.fold) for r in g.results if r.seed == seed)}"
                                  for seed in g.seeds)
                notes.append(f"{label} is partial: {there}.")
            changed = [f"{key} {a} -> {b}" for key, (a, b) in differing_options(first.first, g.first).items()]
            if changed:
                notes.append(f"{label} differs from {first.label(self.groups)} in {', '.join(changed)}.")
            if g.first.raw.get("changed_options"):
                notes.append(f"{label} was tested with other options than trained with: "
                             f"{', '.join(g.first.raw['changed_options'])}.")
        notes += [f"[{k}] published, not run here: {p.source}{f'; {p.note}' if p.note else ''}."
                  for k, p in enumerate(self.published, 1)]
        errors = {"miou_std_over_seeds": "Mean mIoU ±: standard deviation (n - 1) of the folds' mean over n seeds.",
                  "miou_minus_baseline_error": f"Against {self.baseline} ±: standard error over pairs of runs of one "
                                               f"fold and seed."}
        return [*notes, *(words for column, words in errors.items() if self.frame[column].notna().any()),
                *(f"Trained on {which}: {words}." for which, words in TRAINED_ON.items()
                  if any(g.first.trained_on.partition(" ")[0].rstrip(",") == which for g in self.groups)),
                f"At unseen, seen, last: unseen-class mIoU at the {SELECTIONS['unseen'].words}, as the field selects; "
                f"at the {SELECTIONS['seen'].words}, which uses no unseen mask; at the {SELECTIONS['last'].words}.",
                "Seen, held out: mIoU of seen classes on validation images (eval.seen_samples).",
                "Parameters include CLIP's frozen ones. GFLOP: of one name in one image, 2 a multiply-add, without the "
                "text encoder, which runs once a run. Training time: h:mm:ss, a mean over runs."]

    def markdown(self) -> str:
        """A section: both tables and the notes."""
        tables = [markdown_table(list(rows.columns), rows.values.tolist()) for rows in self.words()]
        return "\n\n".join([f"## {self.dataset}: IoU in percent on unseen classes", *tables,
                            "\n".join(f"- {note}" for note in self.notes())]) + "\n"

    def latex(self) -> str:
        """A table* (booktabs, graphicx): both tables, and the notes below."""
        tables = [rows.map(_latex).rename(columns=_latex).to_latex(
            index=False, column_format="l" + "r" * (len(rows.columns) - 1)) for rows in self.words()]
        return "\n".join([r"\begin{table*}\centering",
                          rf"\caption{{{_latex(self.dataset)}: IoU in percent on unseen classes.}}",
                          *(rf"\resizebox{{\linewidth}}{{!}}{{{table}}}\par" for table in tables),
                          r"\smallskip\footnotesize", *map(_latex, self.notes()), r"\end{table*}", ""])


def _latex(text: str) -> str:
    escaped = "".join(LATEX.get(c, c) for c in text)
    return rf"\textbf{{{escaped[2:-2]}}}" if escaped.startswith("**") else escaped


def _number(value: float, form: str = ".1f") -> str:
    return "-" if pd.isna(value) else format(value, form)


def _error(value: float) -> str:
    return "" if pd.isna(value) else f" ± {value:.1f}"


def _protocol(group: Group, samples: str) -> str:
    numbers, draws = samples.split("+"), group.first.raw.get("draws")
    return (f"{group.first.protocol}, {numbers[0] + ' a fold' if len(set(numbers)) == 1 else samples}"
            + (f", {len(draws)} draws" if draws else ""))


def _remarks(group: Group) -> str:
    """What must stand beside the mean."""
    return ((f" (n={len(group.seeds)})" if len(group.seeds) > 1 else "")
            + (f" (partial: {len(group.folds)} of {group.first.folds} folds)" if group.partial else "")
            + (" (not zero-shot)" if group.first.not_zero_shot else ""))

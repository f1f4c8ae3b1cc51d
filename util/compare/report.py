"""Tables of runs and published scores: a line a run, a line a group, and that in words; and all files."""
import sys
from pathlib import Path

import pandas as pd
from scipy.stats import t

from util.compare.charts import chart, confusion, confusion_chart
from util.compare.runs import Group
from util.config import differing
from util.runtime.markdown import markdown_table

SCORES = ["miou", "fb_iou", "miou_std", "seen_miou", "hiou", "pixel_accuracy", "name_auc", "absent_name_miou",
          "presence_auroc", "absent_empty"]  # of the epoch that counts
COSTS = ["gflops_per_image", "training_seconds", "steps", "images"]
MEANS = [*SCORES, "parameters_trainable", "parameters_total", *COSTS]
KEYS = ["dataset", "protocol", "model"]  # of a group
FACTS = ["arch", "selected_by", "trained_on", "not_zero_shot", "of_folds"]
COLUMNS = {  # of the table in words, beside the means: key of the row: head
    "miou_std": "± over draws", "seen_miou": "seen mIoU (S)", "hiou": "hIoU", "pixel_accuracy": "pixel accuracy",
    "fb_iou": "FB-IoU", "protocol": "protocol", "trained_on": "trained on", "selected_by": "selected by"}


def report(groups: list[Group], published: list[dict], baseline: str, out: Path) -> None:
    """Print the table and write all files to ``out``. published: entries as in lists/published.yaml."""
    groups = sorted(groups, key=lambda g: (g.raw["dataset"], g.raw["arch"] != baseline))
    runs = runs_frame(groups)
    pairs = differences(runs, baseline)
    rows = summary(runs, pairs, published)
    text = in_words(rows, baseline)
    said = [f"- {note}" for note in notes(groups, rows, baseline)]
    markdown = "\n".join([markdown_table(list(text.columns), text.values.tolist()), "", *said])
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(markdown + "\n", encoding="utf-8")
    (out / "table.html").write_bytes(text.to_html(index=False).encode("ascii", "xmlcharrefreplace"))
    text.to_latex(out / "table.tex", index=False, escape=True)
    rows.to_csv(out / "table.csv", index=False, float_format="%.10g")
    runs.drop(columns=["of_folds", "test"]).to_csv(out / "runs.csv", index=False, float_format="%.10g")
    for dataset, protocol in dict.fromkeys(zip(runs["dataset"], runs["protocol"])):
        alike = [f[(f["dataset"] == dataset) & (f["protocol"] == protocol)] for f in (rows, runs, pairs)]
        chart(*alike, baseline).savefig(out / f"chart-{dataset}-{protocol}.png")
    for g in groups:
        name = "-".join([*(g.raw[key] for key in ("dataset", "protocol", "arch")), g.results[0].selection])
        if len(matrix := confusion(g)):
            confusion_chart(matrix, g.label).savefig(out / f"confusion-{name}.png")
    print(markdown)
    print(f"written: {out}", file=sys.stderr)


def runs_frame(groups: list[Group]) -> pd.DataFrame:
    """Tabulate a line a run, with the command that made it. NaN is unknown or does not apply."""
    rows = [{
        "dataset": r.raw["dataset"], "protocol": r.raw["protocol"], "model": g.label, "fold": r.fold, "seed": r.seed,
        "arch": r.raw["arch"], "selected_by": r.selection, "trained_on": r.trained_on,
        "not_zero_shot": r.not_zero_shot, **{key: r.scores.get(key) for key in SCORES},
        **{f"parameters_{which}": number for which, number in r.raw["parameters"].items()},
        **{key: r.raw.get(key) for key in (*COSTS, "samples", "machine", "code", "command")},
        "folder": str(r.folder), "of_folds": r.raw["folds"], "test": str(r.test)} for g in groups for r in g.results]
    return pd.DataFrame(rows).astype(dict.fromkeys(MEANS, float))


def differences(runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Pair runs with the baseline's of the same fold, seed and test, same selection first: differences in mIoU."""
    is_baseline = runs["arch"] == baseline
    pairs = runs[~is_baseline].merge(runs[is_baseline], on=["dataset", "protocol", "fold", "seed", "test"],
                                     suffixes=("", "_baseline"))
    pairs["other_selection"] = pairs["selected_by"] != pairs["selected_by_baseline"]
    pairs = pairs.sort_values("other_selection", kind="stable").drop_duplicates([*KEYS, "fold", "seed"])
    return pairs.assign(difference=pairs["miou"] - pairs["miou_baseline"])[[*KEYS, "fold", "seed", "difference"]]


def summary(runs: pd.DataFrame, pairs: pd.DataFrame, published: list[dict]) -> pd.DataFrame:
    """Tabulate a line a group, then a line a published score of the same data sets. Means: over seeds, then folds.

    A mean is NaN where a run lacks the value, miou_std_over_seeds (n - 1, of the folds' mean) also where a seed lacks a
    fold. The interval of the mean difference is of 95 %, by Student's t.
    """
    rows = []
    for key, part in runs.groupby(KEYS, sort=False):
        first = part.iloc[0]
        by_fold = part.groupby("fold")[MEANS].agg(lambda values: values.mean(skipna=False))
        grid = part.pivot(index="seed", columns="fold", values="miou")
        paired = pairs.loc[(pairs[KEYS] == list(key)).all(axis=1), "difference"].astype(float)
        reach = t.ppf(0.975, len(paired) - 1) * paired.sem()  # NaN for less than two
        rows.append({
            **first[KEYS], "source": "", **first[FACTS], "seeds": len(grid), "runs": len(part),
            **by_fold["miou"].reindex(range(first["of_folds"])).add_prefix("miou_fold"), **by_fold.mean(skipna=False),
            "miou_std_over_seeds": grid.mean(axis=1).std() if grid.notna().all(axis=None) else float("nan"),
            "miou_minus_baseline": paired.mean(), "miou_minus_baseline_low": paired.mean() - reach,
            "miou_minus_baseline_high": paired.mean() + reach, "pairs": len(paired)})
    rows += [{"dataset": p["dataset"], "model": f"{p['model']}, published", "miou": p["mean"],
              "source": f"{p['source']}; {p.get('note', '')}".removesuffix("; "),
              **{f"miou_fold{k}": miou for k, miou in enumerate(p.get("miou", []))}}
             for p in published if p["dataset"] in set(runs["dataset"])]
    return pd.DataFrame(rows)


def in_words(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Format :func:`summary` as text, without columns that nothing fills."""
    folds = {key.replace("miou_fold", "fold "): rows[key].map(_cell) for key in rows.filter(regex="^miou_fold")}
    text = pd.DataFrame({"data set": rows["dataset"], "model": rows["model"], **folds,
                         "mean mIoU": rows.apply(_mean, axis=1), f"against {baseline}": rows.apply(_against, axis=1),
                         **{head: rows[key].map(_cell) for key, head in COLUMNS.items()}})
    return text.loc[:, (text != "-").any()]


def notes(groups: list[Group], rows: pd.DataFrame, baseline: str) -> list[str]:
    """List what the cells leave unsaid, a sentence each."""
    out = ["IoU in percent, of unseen classes; mean ± standard deviation (n - 1) of the folds' mean over n seeds."]
    for g in groups:
        if g.not_zero_shot:
            out.append(f"NOT ZERO-SHOT: {g.label}: {g.not_zero_shot}.")
        first = next(other for other in groups if other.raw["dataset"] == g.raw["dataset"])
        changed = [f"{name} {a} -> {b}" for name, (a, b) in
                   differing(first.results[0].configuration, g.results[0].configuration).items()]
        if changed:
            out.append(f"{g.label} differs from {first.label} in {', '.join(changed)}.")
    out += [f"{model}, not run here: {source}." for model, source in zip(rows["model"], rows["source"]) if source]
    if baseline:
        out.append(f"Against {baseline}: mean difference of n pairs of runs of one fold, seed and test, and its "
                   f"95 % interval by Student's t.")
    return out


def _cell(value: float | str) -> str:
    return "-" if pd.isna(value) else value if isinstance(value, str) else f"{value:.1f}"


def _mean(row: pd.Series) -> str:
    text, wanted = _cell(row["miou"]), row["seeds"] * row["of_folds"]
    if row["seeds"] > 1:
        text += f" ± {_cell(row['miou_std_over_seeds'])} (n={row['seeds']:.0f})"
    return text + (f" (partial: {row['runs']:.0f} of {wanted:.0f} runs)" if row["runs"] < wanted else "")


def _against(row: pd.Series) -> str:
    if not row["pairs"] > 0:  # published rows have NaN
        return "-"
    low, high = row["miou_minus_baseline_low"], row["miou_minus_baseline_high"]
    ends = "" if pd.isna(low) else f" [{low:+.1f}, {high:+.1f}]"
    return f"{row['miou_minus_baseline']:+.1f}{ends}, n={row['pairs']:.0f}"

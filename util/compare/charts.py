"""Charts of means and paired differences, and the confusion matrix."""
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from util.compare.runs import Group

MARKERS = "oDs^vPX"     # of folds, which print without colours
STYLE = {**matplotlib.style.library["tableau-colorblind10"], "font.size": 15, "text.parse_math": False}


@matplotlib.rc_context(STYLE)
def chart(rows: pd.DataFrame, runs: pd.DataFrame, pairs: pd.DataFrame, baseline: str) -> Figure:
    """Draw runs' mIoU with means, beside them paired differences with intervals; frames of report.py, one protocol."""
    models, folds = list(rows["model"]), sorted(runs["fold"].unique())
    panels = [(runs["miou"], runs, rows["miou"], rows["miou_std_over_seeds"],
               "mIoU on unseen classes, %\nmean ± deviation over seeds")]
    if len(pairs):
        mean = rows["miou_minus_baseline"]
        panels.append((pairs["difference"], pairs, mean, rows["miou_minus_baseline_high"] - mean,
                       f"points more or less than {baseline}\nmean and 95 % interval over pairs"))
    figure = Figure((2 + 8 * len(panels), 2.4 + 0.6 * len(models)), layout="constrained")
    columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (values, frame, means, errors, label) in zip(columns, panels):
        for k, fold in enumerate(folds):
            part = frame["fold"] == fold
            heights = frame["model"][part].map(models.index) + 0.12 * (k - (len(folds) - 1) / 2)
            axes.plot(values[part], heights, MARKERS[k % len(MARKERS)], markersize=8, label=f"fold {fold}")
        axes.errorbar(means, range(len(models)), xerr=errors, fmt="|", color="black", markersize=30, markeredgewidth=3,
                      capsize=7, zorder=1, label="mean")
        axes.grid(axis="x")
        axes.set(xlabel=label, yticks=range(len(models)), yticklabels=models, ylim=(len(models) - 0.5, -0.5))
    if len(pairs):
        columns[1].axvline(0, color="black")
    figure.legend(*columns[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def confusion(group: Group) -> pd.DataFrame:
    """Compute the confusion matrix of all runs in percent: row query, column true class; empty if none recorded."""
    pixels = [pd.DataFrame(r.scores["confusion"]).T for r in group.results if r.scores.get("confusion")]
    if not pixels:
        return pd.DataFrame()
    total = pd.concat(pixels).groupby(level=0, sort=False).sum()
    return 100 * total.div(total.sum(axis=1).replace(0, 1), axis=0)


@matplotlib.rc_context(STYLE)
def confusion_chart(matrix: pd.DataFrame, title: str) -> Figure:
    """Draw the confusion matrix, with the numbers in the cells."""
    figure = Figure((4 + 0.6 * len(matrix.columns), 2.5 + 0.4 * len(matrix)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (y, x), value in np.ndenumerate(matrix):
        axes.text(x, y, f"{value:.0f}", ha="center", va="center", color="white" if value > 60 else "black")
    axes.set(yticks=range(len(matrix)), yticklabels=matrix.index, ylabel="name", title=title,
             xlabel="what its predicted pixels show, %")
    axes.set_xticks(range(len(matrix.columns)), matrix.columns, rotation=40, ha="right")
    return figure

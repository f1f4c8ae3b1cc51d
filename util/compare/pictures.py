"""Pictures of runs beside each other: the mIoU of every run, the IoU of every class, and predictions."""
import io
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from data.files import read_image
from data.samples import spread
from util.compare.groups import Group

# Okabe and Ito's palette (Color Universal Design, 2008), which the colour-blind can tell apart, black first and
# without its yellow, which white paper swallows. Markers tell apart what has the same colour in print.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F")
MARKERS = "oDs^vPX<>*"
STYLE = {"font.size": 15, "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False,
         "axes.grid": True, "axes.grid.axis": "x", "grid.color": "0.85", "axes.axisbelow": True, "figure.dpi": 100}
MOST_SAMPLES = 12          # on a sheet
MOST_INCHES = 300          # of a picture's sides: PNG readers give up beyond some ten thousand pixels


def _style(k: int) -> dict:
    return {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)], "linestyle": "none"}


@matplotlib.rc_context(STYLE)
def means_chart(runs: pd.DataFrame) -> Figure:
    """Every run's unseen mIoU, and every model's mean over folds.

    runs: columns model, fold, seed and miou, as in runs.csv. Error bars: standard deviation (n - 1) over the seeds.
    """
    models, folds = list(dict.fromkeys(runs["model"])), sorted(runs["fold"].unique())
    figure = Figure((11, min(1.8 + 0.55 * len(models), MOST_INCHES)), layout="constrained")
    axes = figure.subplots()
    for k, fold in enumerate(folds, 1):
        part = runs[runs["fold"] == fold]
        axes.plot(part["miou"], [models.index(m) + 0.12 * (k - (len(folds) + 1) / 2) for m in part["model"]],
                  **_style(k), markersize=7, label=f"a run of fold {fold}")
    for y, model in enumerate(models):
        by_seed = runs[runs["model"] == model].pivot(index="seed", columns="fold", values="miou")
        every = by_seed.notna().all(axis=None)  # seeds of fewer folds have means of something else
        mean, error = by_seed.mean().mean(), by_seed.mean(axis=1).std() if every else np.nan
        axes.errorbar(mean, y, xerr=None if np.isnan(error) else error, fmt="|", color="black", markersize=30,
                      markeredgewidth=3, capsize=7, linewidth=2, zorder=1,
                      label="mean ± deviation over seeds" if y == 0 else None)
        axes.text(103, y, f"{mean:.1f}" + ("" if np.isnan(error) else f" ± {error:.1f}"), va="center")
    axes.set(xlim=(-2, 102), xlabel="mIoU on unseen classes, %", yticks=range(len(models)), yticklabels=models,
             ylim=(len(models) - 0.5, -0.5))
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


@matplotlib.rc_context(STYLE)
def classes_chart(groups: list[Group]) -> Figure:
    """The IoU of every class under every group: a dot is the mean over seeds, its bar their standard deviation."""
    title = f"{groups[0].first.dataset}, {groups[0].first.protocol} protocol: IoU of every unseen class"
    ious = pd.DataFrame([(k, r.fold, c, r.seed, iou) for k, g in enumerate(groups) for r in g.results
                         for c, iou in r.per_class.items()], columns=["group", "fold", "class", "seed", "iou"])
    names = {c: name for g in reversed(groups) for r in g.results for c, name in r.names.items()}
    folds = sorted({r.fold for g in groups for r in g.results})
    classes = {fold: sorted(ious["class"][ious["fold"] == fold].unique()) for fold in folds}
    lines = -(-len(folds) // 2)
    height = 0.4 + 0.13 * len(groups)  # inches a class
    figure = Figure((14, min(1.5 + 0.4 * len(groups) / 2 + lines * (1 + height * max(map(len, classes.values()))),
                             MOST_INCHES)), layout="constrained")
    panels = figure.subplots(lines, min(2, len(folds)), squeeze=False).flat
    for axes, fold in zip(panels, folds):
        place = {c: y for y, c in enumerate(classes[fold])}
        for k in range(len(groups)):
            by_class = ious[(ious["group"] == k) & (ious["fold"] == fold)].groupby("class")["iou"]
            shift = 0.8 * ((k + 0.5) / len(groups) - 0.5)
            axes.errorbar(by_class.mean(), [place[c] + shift for c in by_class.groups], xerr=by_class.std().fillna(0),
                          **_style(k), markersize=8, capsize=3)
        for y in range(0, len(place), 2):
            axes.axhspan(y - 0.5, y + 0.5, color="0.95", zorder=0)
        axes.set(title=f"fold {fold}", xlim=(-2, 102), xlabel="IoU, %", yticks=range(len(place)),
                 yticklabels=[names[c] for c in place], ylim=(len(place) - 0.5, -0.5))
    for axes in list(panels):
        axes.remove()
    handles = [Line2D([], [], **_style(k), markersize=9, label=g.label(groups) + (
        " (not zero-shot)" if g.first.not_zero_shot else "") + (" (partial)" if g.partial else ""))
        for k, g in enumerate(groups)]
    figure.legend(handles=handles, title=title, loc="outside upper center", ncols=min(3, len(groups)), frameon=False)
    return figure


class Shared(NamedTuple):
    """A sample that every group has drawn."""
    fold: int
    name: str                     # of the class
    pictures: dict[Path, float]   # {folder of a group's pictures: IoU of its prediction}, in the groups' order


def shared_samples(groups: list[Group]) -> list[Shared]:
    """At most MOST_SAMPLES, dealt evenly to the folds, and in a fold evenly spaced over the list.

    Of each fold the first seed that has pictures is shown.
    """
    first = [{r.fold: r for r in reversed(g.results) if r.pictures} for g in groups]
    drawn = [{(fold, folder.name, about["class_id"]): (folder, about["iou"]) for fold, r in runs.items()
              for folder, about in r.pictures.items()} for runs in first]
    names = {c: name for g in reversed(groups) for r in g.results for c, name in r.names.items()}
    by_fold: dict[int, list[Shared]] = {}
    for fold, sample, c in sorted(set.intersection(*map(set, drawn))):
        pictures = dict(found[fold, sample, c] for found in drawn)
        by_fold.setdefault(fold, []).append(Shared(fold, names.get(c, f"class {c}"), pictures))
    dealt = sorted((k, fold) for fold, found in by_fold.items() for k in range(len(found)))[:MOST_SAMPLES]
    rows = Counter(fold for _, fold in dealt)
    return [sample for fold, found in by_fold.items() for sample in spread(found, rows[fold])]


@matplotlib.rc_context({**STYLE, "axes.grid": False})
def predictions_sheet(groups: list[Group], samples: list[Shared]) -> Figure:
    """For each sample a row: the image, the truth and every group's prediction with its IoU.

    Raises UserError for a picture that cannot be read.
    """
    heads = ["image", "truth", *(g.label(groups) for g in groups)]
    figure = Figure((min(2.6 * len(heads) + 1.5, MOST_INCHES), 2.6 * len(samples) + 0.6), layout="constrained")
    grid = figure.subplots(len(samples), len(heads), squeeze=False)
    for head, axes in zip(heads, grid[0]):
        axes.set_title(head)
    for sample, line in zip(samples, grid):
        first, *_ = sample.pictures
        line[0].set_ylabel(f"{sample.name}\nfold {sample.fold}\n{first.name}")
        files = [first / "image.png", first / "truth.png", *(folder / "prediction.png" for folder in sample.pictures)]
        for axes, file, iou in zip(line, files, [None, None, *sample.pictures.values()]):
            axes.imshow(read_image(file))
            axes.set(xticks=[], yticks=[], xlabel="" if iou is None else f"IoU {iou:.0f} %")
            axes.spines[:].set_visible(False)
    return figure


def png(figure: Figure) -> bytes:
    """The bytes of a PNG file."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of characters that the font lacks: a box stands for them
        figure.savefig(out, format="png")
    return out.getvalue()

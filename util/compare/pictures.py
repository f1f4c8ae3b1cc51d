"""Pictures of runs beside each other: means, curves, IoU by class, what was taken for what, and predictions."""
import io
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from data.files import read_image
from data.samples import spread
from util.compare.groups import Group
from util.compare.tables import CONFIDENCE, interval

# Okabe and Ito's palette (Color Universal Design, 2008), which the colour-blind can tell apart, black first and
# without its yellow, which white paper swallows. Markers tell apart what has the same colour in print.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F")
MARKERS = "oDs^vPX<>*"
STYLE = {"font.size": 15, "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False,
         "axes.grid": True, "axes.grid.axis": "x", "grid.color": "0.85", "axes.axisbelow": True, "figure.dpi": 100}
MOST_SAMPLES = 12          # on a sheet
MOST_INCHES = 300          # of a picture's sides: PNG readers give up beyond some ten thousand pixels


def _style(k: int, line: str = "none") -> dict:
    return {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)], "linestyle": line}


@matplotlib.rc_context(STYLE)
def means_chart(runs: pd.DataFrame) -> Figure:
    """Every run's unseen mIoU, and every model's mean over folds.

    runs: columns model, fold, seed and miou, as in runs.csv. Error bars: standard deviation (n - 1) over the seeds.
    """
    figure, axes = _rows(runs, "miou", "a run of fold {}")
    for y, (_, part) in enumerate(runs.groupby("model", sort=False)):
        by_seed = part.pivot(index="seed", columns="fold", values="miou")
        every = by_seed.notna().all(axis=None)  # seeds of fewer folds have means of something else
        mean, error = by_seed.mean().mean(), by_seed.mean(axis=1).std() if every else np.nan
        known = not np.isnan(error)
        _mean(axes, y, mean, error if known else None, f"{mean:.1f}" + (f" ± {error:.1f}" if known else ""),
              "mean ± deviation over seeds")
    axes.set(xlim=(-2, 102), xlabel="mIoU on unseen classes, %")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


@matplotlib.rc_context(STYLE)
def differences_chart(pairs: pd.DataFrame, baseline: str) -> Figure | None:
    """What each model has more or less than the baseline: every pair of one fold and seed, mean and interval.

    pairs: as Table.differences; None where there are none.
    """
    if pairs.empty:
        return None
    figure, axes = _rows(pairs, "difference", "fold {}")
    axes.axvline(0, color="black", linewidth=1.5)
    for y, (_, values) in enumerate(pairs.groupby("model", sort=False)["difference"]):
        low, high = interval(values)
        mean = values.mean()
        _mean(axes, y, mean, None if low is None else (high - low) / 2, f"{mean:+.1f}",
              f"mean and {CONFIDENCE:.0%} interval")
    low, high = pairs["difference"].clip(upper=0).min(), pairs["difference"].clip(lower=0).max()
    room = 0.3 * (high - low) + 0.1  # the interval of a few pairs may be far wider: it runs off the edge
    axes.set(xlabel=f"unseen mIoU, points more or less than {baseline}", xlim=(low - room, high + room))
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _rows(frame: pd.DataFrame, column: str, label: str) -> tuple[Figure, Axes]:
    """A row a model with a mark for each line of ``frame``, which has model, fold and ``column``; a series a fold."""
    models, folds = list(dict.fromkeys(frame["model"])), sorted(frame["fold"].unique())
    figure = Figure((11, min(1.8 + 0.55 * len(models), MOST_INCHES)), layout="constrained")
    axes = figure.subplots()
    for k, fold in enumerate(folds, 1):
        part = frame[frame["fold"] == fold]
        axes.plot(part[column], [models.index(m) + 0.12 * (k - (len(folds) + 1) / 2) for m in part["model"]],
                  **_style(k), markersize=7, label=label.format(fold))
    axes.set(yticks=range(len(models)), yticklabels=models, ylim=(len(models) - 0.5, -0.5))
    return figure, axes


def _mean(axes: Axes, y: int, mean: float, error: float | None, text: str, label: str) -> None:
    axes.errorbar(mean, y, xerr=error, fmt="|", color="black", markersize=30, markeredgewidth=3, capsize=7,
                  linewidth=2, zorder=1, label=label if y == 0 else None)
    axes.text(1.01, y, text, va="center", transform=axes.get_yaxis_transform())


@matplotlib.rc_context(STYLE)
def curves_chart(groups: list[Group]) -> Figure | None:
    """mIoU after every epoch, a panel a fold: the mean over seeds, and from the lowest to the highest seed as a band.

    Of unseen classes in solid lines, of seen ones on held-out images in dashed lines. None where no run has recorded
    its epochs, as older versions did not.
    """
    curves = pd.DataFrame([(k, r.fold, r.seed, scores["epoch"], scores["miou"], scores["seen_miou"])
                           for k, g in enumerate(groups) for r in g.results for scores in r.raw.get("epochs", [])],
                          columns=["group", "fold", "seed", "epoch", "unseen", "seen"])
    if curves.empty:
        return None
    folds = sorted(curves["fold"].unique())
    lines = -(-len(folds) // 2)
    figure = Figure((14, min(1.2 + 0.3 * len(groups) / 3 + 4 * lines, MOST_INCHES)), layout="constrained")
    panels = figure.subplots(lines, min(2, len(folds)), squeeze=False, sharex=True, sharey=True)
    for axes, fold in zip(panels.flat, folds):
        for k in curves["group"].unique():
            by_epoch = curves[(curves["group"] == k) & (curves["fold"] == fold)].groupby("epoch")[["unseen", "seen"]]
            mean, low, high = by_epoch.mean(), by_epoch.min(), by_epoch.max()
            for kind, style in (("unseen", _style(k, "-")), ("seen", {**_style(k, "--"), "marker": ""})):
                axes.plot(mean.index, mean[kind], **style, markersize=6, markevery=max(1, len(mean) // 10))
                axes.fill_between(mean.index, low[kind], high[kind], color=style["color"], alpha=0.15, linewidth=0)
        axes.set(title=f"fold {fold}", xlabel="epoch", ylabel="mIoU, %", ylim=(-2, 102))
        axes.grid(axis="y")
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in list(panels.flat)[len(folds):]:
        axes.remove()
    handles = [Line2D([], [], **_style(k, "-"), label=groups[k].label(groups)) for k in curves["group"].unique()]
    handles += [Line2D([], [], color="0.4", linestyle=line, label=label) for line, label in (
        ("-", "unseen classes"), ("--", "seen classes, held-out images"))]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def classes_frame(groups: list[Group]) -> pd.DataFrame:
    """IoU in percent, the mean over seeds: a row a class of each fold, a column a group."""
    names = {c: name for g in reversed(groups) for r in g.results for c, name in r.names.items()}
    ious = pd.DataFrame([(g.label(groups), r.fold, c, iou) for g in groups for r in g.results
                         for c, iou in r.per_class.items()], columns=["group", "fold", "class", "iou"])
    table = ious.pivot_table("iou", ["fold", "class"], "group")[[g.label(groups) for g in groups]]
    return table.set_axis([f"{names[c]}, fold {fold}" for fold, c in table.index])


def marked_frame(group: Group) -> pd.DataFrame | None:
    """Percent of the pixels marked under each name (row) that show the background or each class (column), all runs.

    None where no run of the group has recorded it for the epoch that counts.
    """
    pixels = [pd.DataFrame(r.raw["marked"]).T for r in group.results if r.tested and r.raw.get("marked")]
    if not pixels:
        return None
    total = pd.concat(pixels).groupby(level=0, sort=False).sum()
    return 100 * total.div(total.sum(axis=1).replace(0, 1), axis=0)


@matplotlib.rc_context({**STYLE, "axes.grid": False})
def heat_maps(frames: dict[str, pd.DataFrame], ylabel: str = "", xlabel: str = "") -> Figure:
    """{title: percent}: a map below the other, with the numbers in its cells."""
    heights = [0.32 * len(frame) + 1.9 for frame in frames.values()]
    widest = max(len(frame.columns) for frame in frames.values())
    figure = Figure((min(3.2 + max(0.55 * widest, 3), MOST_INCHES), min(sum(heights), MOST_INCHES)),
                    layout="constrained")
    panels = figure.subplots(len(frames), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, frame) in zip(panels, frames.items()):
        axes.imshow(frame, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for (y, x), value in np.ndenumerate(frame):
            if not np.isnan(value):
                axes.text(x, y, f"{value:.0f}" if value >= 0.5 else "\u00b7", ha="center", va="center", fontsize=11,
                          color="white" if value > 60 else "black")
        axes.set(xticks=range(len(frame.columns)), yticks=range(len(frame)), yticklabels=frame.index, xlabel=xlabel,
                 ylabel=ylabel)
        axes.set_xticks(axes.get_xticks(), frame.columns, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_title(title, loc="left")
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


def encoded(figure: Figure, kind: str = "png") -> bytes:
    """The bytes of a picture file, ``png`` or ``jpg``."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of characters that the font lacks: a box stands for them
        figure.savefig(out, format=kind, **({"pil_kwargs": {"quality": 88}} if kind == "jpg" else {}))
    return out.getvalue()

"""Tables and charts of docs/emoji.md and docs/peers.md, made of docs/emoji.csv and docs/costs.csv.

    python -m docs.tables [EXP]     EXP: tested runs to write into emoji.csv first, in place of older rows of the same

Needs requirements-extra.txt.
"""
import json
import re
import sys
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import t

from util.compare.charts import STYLE
from util.runtime.markdown import markdown_table

DOCS = Path(__file__).parent
SPLITS = {"emoji": "Emoji-5i", "emoji60": "Emoji-60i", "shapes": "Shapes-5i"}
TESTS = {"": "same artist", "-openmoji": "other artist", "-synonyms": "other words"}    # by what follows the split
KEY = ["split", "kind", "fold", "seed", "test", "refine"]
SCORES = ["miou", "fb_iou", "seen_miou", "name_auc", "absent_name_miou", "presence_auroc", "present_empty",
          "absent_empty"]
KINDS = {
    "plus": "ESDA+ (`plus`)", "plus4": "ESDA+ without the map `cls`", "esda": "ESDA (`esda`)",
    "catseg": "CAT-Seg (`catseg`)", "lseg": "LSeg (`lseg`)", "clipseg": "CLIPSeg (`clipseg`)",
    "zegclip": "ZegCLIP (`zegclip`)", "clsclip": "ClsCLIP's (`clsclip`)", "naclip": "`naclip`",
    "clearclip": "`clearclip`", "decomposed": "`decomposed`", "maskclip": "`maskclip`", "clip_prior": "`clip_prior`",
    "notext": "`notext`", "everything": "`everything`", "supervised_plus": "ceiling of `plus`, not zero-shot",
    "supervised": "ceiling of `esda`, not zero-shot"}
FOLDS = 4
PEERS = ["plus", "esda", "lseg", "clipseg", "zegclip", "catseg", "naclip"]


def collect(exp: Path) -> pd.DataFrame:
    """Tabulate the results below ``exp``, EXP/SPLIT[-TEST]/KIND[-refine]/foldK/RUN/results.json, a row each."""
    rows = []
    for file in sorted(exp.glob("*/*/fold*/*/results.json")):
        r = json.loads(file.read_text())
        split = next((s for s in SPLITS for test in TESTS if r["dataset"] == s + test), None)
        if split is None:
            continue
        last = r.get("selections", {}).get("last", {})
        rows.append({
            "split": split, "kind": r["arch"].removesuffix("-refine"), "fold": r["fold"],
            "seed": r.get("trained_on", r["config"])["seed"], "test": TESTS[r["dataset"].removeprefix(split)],
            "refine": r["config"]["eval"]["refine"],
            **{key: r.get(key) for key in SCORES}, "seen_miou": last.get("seen_miou"), "samples": r["samples"],
            "parameters": r["parameters"]["trainable"], "gflops_image": r["gflops_per_image"],
            "training_seconds": r.get("training_seconds"),
            "quarters": " ".join(f"{part['miou']:.1f}" for part in r.get("by_size", []))})
    return pd.DataFrame(rows)


def enter(file: Path, exp: Path) -> None:
    """Write the runs below ``exp`` into the CSV ``file``, in place of older rows of the same."""
    runs = pd.concat([pd.read_csv(file), collect(exp)]).drop_duplicates(KEY, keep="last").sort_values(KEY)
    runs.to_csv(file, index=False, float_format="%.5g")


def runs_of(runs: pd.DataFrame, split: str, kind: str, test: str = "same artist", refine: int = 0) -> pd.DataFrame:
    """Select one kind's scores in one test, a row for each fold and seed."""
    of = runs[(runs["split"] == split) & (runs["kind"] == kind) & (runs["test"] == test) & (runs["refine"] == refine)]
    return of.set_index(["fold", "seed"])[SCORES]


def measured(runs: pd.DataFrame) -> list[str]:
    """List the splits that have runs."""
    return [split for split in SPLITS if split in set(runs["split"])]


def by_fold(*select) -> pd.DataFrame:
    """Average ``runs_of`` over seeds."""
    return runs_of(*select).groupby("fold").mean()


def against(runs: pd.DataFrame, split: str, kind: str, baseline: str = "plus") -> str:
    """Format the mean difference to ``baseline`` of runs of the same fold and seed, with Student's interval of 95 %."""
    pairs = (runs_of(runs, split, kind)["miou"] - runs_of(runs, split, baseline)["miou"]).dropna()
    if kind == baseline or not len(pairs):
        return ""
    reach = t.ppf(0.975, len(pairs) - 1) * pairs.sem() if len(pairs) > 1 else 0
    return f"{pairs.mean():+.1f}" + f" [{pairs.mean() - reach:+.1f}, {pairs.mean() + reach:+.1f}]" * bool(reach)


def cell(values: pd.Series, form: str = ".1f", spread: bool = False, of: int = 0) -> str:
    """Format the mean over folds, with its standard deviation if ``spread``, and their number if fewer than ``of``."""
    values = values.dropna()
    if not len(values):
        return ""
    few = f" ({len(values)} of {of})" * (len(values) < of)
    return f"{values.mean():{form}}" + f" ± {values.std():{form}}" * (spread and len(values) > 1) + few


def emoji_table(runs: pd.DataFrame, split: str) -> str:
    """Tabulate all kinds on one split."""
    rows = []
    for kind, name in KINDS.items():
        part, tested = by_fold(runs, split, kind), runs_of(runs, split, kind).index
        if not len(tested):
            continue
        others = (("same artist", 10), ("other artist", 0), ("other artist", 10), ("other words", 0))
        rows.append([name, " x ".join(str(tested.get_level_values(level).nunique()) for level in tested.names),
                     cell(part["miou"], spread=True), against(runs, split, kind),
                     *(cell(by_fold(runs, split, kind, *test)["miou"], of=len(part)) for test in others),
                     cell(part["seen_miou"]), cell(part["name_auc"], ".3f"), cell(part["absent_name_miou"]),
                     cell(part["presence_auroc"], ".3f")])
    return markdown_table([SPLITS[split], "folds x seeds", "unseen mIoU", "against ESDA+", "refined", "by OpenMoji",
                           "refined", "other words", "seen", "name AUC", "absent name", "presence AUROC"], rows)


def peers_table(runs: pd.DataFrame) -> str:
    """Tabulate the heads on all splits."""
    rows = []
    for kind in PEERS:
        row = [KINDS[kind]]
        for split in measured(runs):
            part = by_fold(runs, split, kind)
            row += [cell(part["miou"], spread=True, of=FOLDS), against(runs, split, kind)]
            if split != "shapes":
                row.append(cell(by_fold(runs, split, kind, "other artist")["miou"]))
            row.append(cell(part["seen_miou"]))
        rows.append(row)
    heads = [head for split in measured(runs)
             for head in (SPLITS[split], "against ESDA+", *["by OpenMoji"] * (split != "shapes"), "seen")]
    return markdown_table(["", *heads], rows)


def costs_table(costs: pd.DataFrame) -> str:
    """Tabulate what the heads cost."""
    rows = [[KINDS[kind], *("" if pd.isna(value) else f"{value:g}" for value in row)] for kind, row in costs.iterrows()]
    return markdown_table(["", *costs.columns], rows)


@matplotlib.rc_context(STYLE)
def emoji_chart(runs: pd.DataFrame) -> Figure:
    """Draw each kind's unseen mIoU on the two splits: a mark a fold, by both artists, with means and deviations."""
    kinds = [kind for kind in KINDS if kind in set(runs["kind"])]
    figure = Figure((16, 1.8 + 0.62 * len(kinds)), layout="constrained")
    columns = figure.subplots(1, 2, sharey=True)
    tests = (("same artist", "Twemoji, whose masks were trained on", "o", "full", "#006BA4", -0.14),
             ("other artist", "OpenMoji, another artist", "s", "none", "#C85200", 0.14))
    for axes, split, names in zip(columns, ("emoji", "emoji60"), ("5 unseen names, 15 seen", "60 unseen, 180 seen")):
        for test, label, mark, fill, color, shift in tests:
            for i, kind in enumerate(kinds):
                miou = by_fold(runs, split, kind, test)["miou"]
                axes.plot(miou, [i + shift] * len(miou), mark, color=color, markersize=9, alpha=0.8, fillstyle=fill,
                          label=None if i else label)
                axes.errorbar(miou.mean(), i + shift, xerr=miou.std() if len(miou) > 1 else 0, fmt="|", color="black",
                              markersize=20, markeredgewidth=3, capsize=6, zorder=1)
        axes.set(title=f"{SPLITS[split]}: {names}", xlabel="mIoU on unseen names, %", xlim=(0, 85),
                 yticks=range(len(kinds)), yticklabels=kinds, ylim=(len(kinds) - 0.5, -0.5))
        axes.grid(axis="x")
    figure.legend(*columns[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


@matplotlib.rc_context(STYLE)
def peers_chart(runs: pd.DataFrame, costs: pd.DataFrame) -> Figure:
    """Draw unseen mIoU against the operations of an image with 20 names."""
    figure = Figure((16, 5.5), layout="constrained")
    splits = measured(runs)
    for axes, split in zip(figure.subplots(1, len(splits), sharey=True), splits):
        for kind in PEERS:
            miou, x = by_fold(runs, split, kind)["miou"], costs.loc[kind, "GFLOP, 20 names"]
            mark, color = "D" if kind == "plus" else "o", "#C85200" if kind == "plus" else "#006BA4"
            axes.errorbar(x, miou.mean(), yerr=miou.std() if len(miou) > 1 else 0, capsize=5, markersize=12, fmt=mark,
                          color=color)
            axes.annotate(KINDS[kind].partition(" (")[0].strip("`"), (x, miou.mean()), (9, 5),
                          textcoords="offset points")
        axes.set(title=SPLITS[split], xlabel="GFLOP an image with 20 names", xscale="log", xlim=(0.9, 110))
        axes.grid()
    figure.axes[0].set_ylabel("mIoU on unseen names, %\nmean ± deviation over folds")
    return figure


def put(page: str, name: str, table: str) -> None:
    """Replace the table between the marks ``name`` of a page."""
    file = DOCS / page
    text, count = re.subn(rf"(<!-- {name} -->\n).*?(?=<!-- end -->)", lambda m: m[1] + table + "\n",
                          file.read_text(encoding="utf-8"), flags=re.S)
    assert count == 1, (page, name)
    file.write_text(text, encoding="utf-8")


def main() -> None:
    file = DOCS / "emoji.csv"
    if len(sys.argv) > 1:
        enter(file, Path(sys.argv[1]))
    runs = pd.read_csv(file)    # rounded as the file is, so that it gives the same tables again
    costs = pd.read_csv(DOCS / "costs.csv", index_col="kind")
    for split in "emoji", "emoji60":
        put("emoji.md", split, emoji_table(runs, split))
    put("peers.md", "heads", peers_table(runs))
    put("peers.md", "costs", costs_table(costs))
    emoji_chart(runs).savefig(DOCS / "emoji.png")
    peers_chart(runs, costs).savefig(DOCS / "peers.png")


if __name__ == "__main__":
    main()

"""A table in words: the chosen columns and the notes, as Markdown, LaTeX and HTML."""
import html
import re
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import pandas as pd

from data.samples import TRAINED_ON
from util.compare.groups import Group, differing_options
from util.compare.tables import CONFIDENCE, Table
from util.run.selection import SELECTIONS
from util.runtime.errors import UserError
from util.runtime.markdown import markdown_table

LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
         "[": "{[}", **{c: f"\\{c}" for c in "&%$#_{}"}}  # a bare [ after \\ would be its argument


class Column(NamedTuple):
    """key: of the value in a row; cell: its text; best: the highest is bold; common: said once if all agree."""
    head: str
    key: str
    cell: Callable[[object], str]
    best: bool = False
    common: bool = False
    note: str = ""


def _number(value, form: str = ".1f") -> str:
    return "-" if pd.isna(value) else format(value, form)


def _score(head: str, key: str, note: str = "", best: bool = True) -> Column:
    return Column(head, key, _number, best, note=note)


def _fact(head: str, key: str, cell: Callable[[object], str] = str) -> Column:
    return Column(head, key, lambda value: cell(value) or "-", common=True)


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f}"


COLUMNS = {
    "mean": _score("mean mIoU", "miou", "Mean mIoU ±: standard deviation (n - 1) of the folds' mean over n seeds."),
    "against": Column("against", "miou_minus_baseline", lambda value: _number(value, "+.1f")),
    "draws": _score("± over draws", "miou_std", best=False),
    "seen": _score("seen mIoU (S)", "seen_miou"), "hiou": _score("hIoU", "hiou"),
    "accuracy": _score("pixel accuracy", "pixel_accuracy"), "fb_iou": _score("FB-IoU", "fb_iou"),
    "held_out": _score("seen, held out", "seen_held_out_miou", "Seen, held out: mIoU of seen classes on validation "
                       "images (eval.seen_samples)."),
    "auc": Column("name AUC", "name_auc", lambda value: _number(value, ".3f"), best=True),
    "absent": _score("absent name", "absent_name_miou", "Absent name: mIoU where a class is named that is not there; "
                     "lower is better.", best=False),
    "presence": Column("presence AUROC", "presence_auroc", lambda value: _number(value, ".3f"), best=True),
    "empty": _score("absent: empty", "absent_empty", "Absent: empty: percent of absent names that get an empty mask."),
    **{f"at_{rule}": _score(f"at {rule}", f"miou_selected_by_{rule}", f"At {rule}: unseen mIoU at the {about.words}.")
       for rule, about in SELECTIONS.items()},
    "protocol": _fact("protocol", "protocol"), "samples": _fact("samples", "samples"),
    "trained_on": _fact("trained on", "trained_on"), "selected_by": _fact("selected by", "selected_by"),
    "steps": _fact("steps", "steps"), "images": _fact("training images", "images"), "seeds": _fact("seeds", "seeds"),
    "trains": _fact("trains, M", "parameters_trainable", _millions),
    "parameters": _fact("parameters, M", "parameters_total", _millions),
    "gflops": _score("GFLOP an image", "gflops_per_image", "GFLOP: of one name in one image, 2 a multiply-add, without "
                     "the text encoder, which runs once a run.", best=False),
    "time": Column("training a fold", "training_seconds", lambda seconds: "-" if pd.isna(seconds) else
                   str(timedelta(seconds=round(seconds))), note="Training a fold: h:mm:ss, a mean over runs."),
    "code": _fact("code", "code"), "machine": _fact("machine", "machine"),
}
DEFAULT = ("folds", "mean", "against", "draws", "seen", "hiou", "fb_iou", "held_out", "protocol", "samples",
           "trained_on", "selected_by", "steps")


def columns_of(text: str) -> tuple[str, ...]:
    """The columns that ``--columns`` names: ``folds`` and keys of COLUMNS, by commas; or all; "" is DEFAULT."""
    known = ("folds", *COLUMNS)
    names = {"": DEFAULT, "all": known}.get(text) or tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in known:
            raise UserError(f"--columns {name}: no such column; there are {', '.join(known)}, and all")
    return names


def labels(table: Table) -> list[str]:
    """What the rows are called."""
    return [*(g.label(table.groups) for g in table.groups),
            *(f"{p.model}, published [{k}]" for k, p in enumerate(table.published, 1))]


def words(table: Table, names: tuple[str, ...] = DEFAULT) -> tuple[list[str], pd.DataFrame]:
    """What all runs have in common, such as ``protocol episodic``, and the columns of ``names`` as text.

    The best of the zero-shot runs tested on as many samples is bold. Columns but folds that no row fills are left out.
    """
    numbers, common, filled = pd.DataFrame(table.rows), [], {"model": labels(table)}
    own = numbers[:len(table.groups)]
    folds = [_score(f"fold {k}", key) for k, key in enumerate(table.folds)]
    for column in (c for name in names for c in (folds if name == "folds" else [COLUMNS[name]])):
        values = numbers.get(column.key, pd.Series(None, numbers.index))
        cells = [column.cell(value) if value is not None and value == value else "-" for value in values]
        if column.common and len(set(cells[:len(own)])) == 1:
            common += [f"{column.head} {cells[0]}"] if cells[0] != "-" else []
            continue
        for k, group in enumerate(table.groups):
            cells[k] += (_remarks(group, table.rows[k]) if column.key == "miou" else
                         _interval(table.rows[k]) if column.key == "miou_minus_baseline" else "")
        for _, rows in own[own["not_zero_shot"] == ""].groupby(["protocol", "samples"]):
            if column.best and (scores := values[rows.index].dropna().astype(float)).size > 1:
                cells[scores.idxmax()] = f"**{cells[scores.idxmax()]}**"
        if set(cells) != {"-"} or column in folds:
            filled[f"against {table.baseline}" if column.head == "against" else column.head] = cells
    return common, pd.DataFrame(filled)


def _remarks(group: Group, row: dict) -> str:
    """What must stand beside the mean."""
    error = row["miou_std_over_seeds"]
    return (("" if pd.isna(error) else f" ± {error:.1f}") + (f" (n={len(group.seeds)})" if len(group.seeds) > 1 else "")
            + (f" (partial: {len(group.folds)} of {group.first.folds} folds)" if group.partial else "")
            + (" (not zero-shot)" if group.first.not_zero_shot else ""))


def _interval(row: dict) -> str:
    if "pairs" not in row:
        return ""
    ends = [f"{row[f'miou_minus_baseline_{end}']:+.1f}" for end in ("low", "high") if row["pairs"] > 1]
    return (f" [{', '.join(ends)}]" if ends else "") + f", n={row['pairs']}"


def notes(table: Table, shown: pd.DataFrame) -> list[str]:
    """What the cells of ``shown`` leave unsaid, a sentence each; of published rows, the source."""
    out, rows, (first, *_) = [], table.rows[:len(table.groups)], table.groups
    for g, row in zip(table.groups, rows):
        label = f"{g.label(table.groups)} ({g.first.protocol})"
        if row["not_zero_shot"]:
            out.append(f"{label} is not zero-shot: {row['not_zero_shot']}.")
        if g.partial:
            there = "; ".join(f"seed {seed}: folds {', '.join(str(r.fold) for r in g.results if r.seed == seed)}"
                              for seed in g.seeds)
            out.append(f"{label} is partial: {there}.")
        changed = [f"{key} {a} -> {b}" for key, (a, b) in differing_options(first.first, g.first).items()]
        if changed:
            out.append(f"{label} differs from {first.label(table.groups)} in {', '.join(changed)}.")
        if g.first.raw.get("changed_options"):
            out.append(f"{label} was tested with other options than trained with: "
                       f"{', '.join(g.first.raw['changed_options'])}.")
    for what, key, part in (("budget of training images", "images", ""), ("budget of steps", "steps", ""),
                            ("validation list and masks", "data", "val "), ("code", "code", ""),
                            ("training list and masks", "data", "train ")):
        who: dict[str, list[str]] = {}
        for g, row in zip(table.groups, rows):
            for version in dict.fromkeys(v for v in re.split("; |, (?=train)", row[key]) if v and v.startswith(part)):
                who.setdefault(version.removeprefix(part), []).append(g.label(table.groups))
        if len(who) > 1:
            listed = "; ".join(f"{version} in {', '.join(names)}" for version, names in who.items())
            out.append(f"Not the same {what}: {listed}.")
    if any(g.first.arch == table.baseline for g in table.groups):
        apart = [f"{g.label(table.groups)} ({g.first.protocol})" for g, row in zip(table.groups, rows)
                 if g.first.arch != table.baseline and "miou_minus_baseline" not in row]
        if apart:
            out.append(f"Not against {table.baseline}: {', '.join(apart)}, tested on other folds, samples or classes, "
                       f"or with other eval options.")
    out += [f"[{k}] published, not run here: {p.source}{f'; {p.note}' if p.note else ''}."
            for k, p in enumerate(table.published, 1)]
    if f"against {table.baseline}" in shown:
        out.append(f"Against {table.baseline}: mean difference of n pairs of runs of one fold and seed, and its "
                   f"{CONFIDENCE:.0%} interval by Student's t. With n=0 it is the difference of the means.")
    return out + [f"Trained on {which}: {text}." for which, text in TRAINED_ON.items()
                  if any(g.first.trained_on.partition(" ")[0].rstrip(",") == which for g in table.groups)] + [
        column.note for column in COLUMNS.values() if column.note and column.head in shown
        and (column.key != "miou" or shown[column.head].str.contains("±").any())]


def markdown(table: Table, columns: tuple[str, ...] = DEFAULT) -> str:
    title, common, rows, below = _parts(table, columns)
    return "\n\n".join(filter(None, [f"## {title}", common, markdown_table(list(rows.columns), rows.values.tolist()),
                                     "\n".join(f"- {note}" for note in below)])) + "\n"


def latex(table: Table, columns: tuple[str, ...] = DEFAULT) -> str:
    """A table* (booktabs, graphicx), with what is common and the notes below."""
    title, common, rows, below = _parts(table, columns)
    body = rows.map(_latex).rename(columns=_latex).to_latex(
        index=False, column_format="l" + "r" * (len(rows.columns) - 1))
    return "\n".join([r"\begin{table*}\centering", rf"\caption{{{_latex(title)}.}}",
                      rf"\resizebox{{\linewidth}}{{!}}{{{body}}}\par", r"\smallskip\footnotesize",
                      *map(_latex, filter(None, [common, *below])), r"\end{table*}", ""])


def page(table: Table, columns: tuple[str, ...] = DEFAULT) -> str:
    """A section of HTML."""
    title, common, rows, below = _parts(table, columns)
    items = "".join(f"<li>{html.escape(note)}</li>\n" for note in below)
    return (f"<h2>{html.escape(title)}</h2>\n<p>{html.escape(common)}</p>\n{html_table(rows)}\n"
            f"<ul class=notes>\n{items}</ul>\n")


def _parts(table: Table, columns: tuple[str, ...]) -> tuple[str, str, pd.DataFrame, list[str]]:
    common, rows = words(table, columns)
    return (f"{table.dataset}: IoU in percent on unseen classes", f"All runs: {'; '.join(common)}." if common else "",
            rows, notes(table, rows))


def html_table(rows: pd.DataFrame) -> str:
    """Cells between ** in bold; a wide table scrolls by itself."""
    return f"<div class=wide>{rows.map(_html).rename(columns=_html).to_html(index=False, escape=False, border=0)}</div>"


def _html(text) -> str:
    escaped = html.escape(str(text))
    return f"<b>{escaped[2:-2]}</b>" if escaped.startswith("**") else escaped


def _latex(text: str) -> str:
    escaped = "".join(LATEX.get(c, c) for c in text)
    return rf"\textbf{{{escaped[2:-2]}}}" if escaped.startswith("**") else escaped

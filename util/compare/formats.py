"""Tables as Markdown, LaTeX (booktabs) and CSV."""
import csv
import io
from collections.abc import Iterable

from util.compare.groups import Group
from util.compare.published import Published
from util.compare.runs import Result
from util.compare.tables import EXTRA, Table, extra_of
from util.run.selection import SELECTIONS
from util.runtime.markdown import markdown_table

_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
          "[": "{[}", **{c: f"\\{c}" for c in "&%$#_{}"}}  # a bare [ after \\ would be its argument


def markdown(tables: list[Table]) -> str:
    """A section a data set; below its table the notes, and which runs each row is made of."""
    return "\n".join(_section(table) for table in tables)


def _section(table: Table) -> str:
    rows = [*map(table.run_cells, table.groups), *map(table.published_cells, range(len(table.published)))]
    lines = [f"## {table.dataset}: IoU in percent on unseen classes", "", markdown_table(table.heads(), rows), "",
             *(f"- {note}" for note in table.notes())]
    for g in table.groups:
        lines.append(f"- {g.first.arch} ({g.first.selection}, {g.first.protocol}), seeds {_words(g.seeds, ', ')}: "
                     f"{_words((r.folder for r in g.results), ', ')}")
    return "\n".join(lines) + "\n"


def latex(tables: list[Table]) -> str:
    """A table* a data set."""
    return "\n".join([r"% needs \usepackage{booktabs,graphicx}", *(_table_star(table) for table in tables)])


def _table_star(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return f"  {' & '.join(map(_escape, cells))} \\\\"

    heads = table.heads()
    published = [line(table.published_cells(k)) for k in range(len(table.published))]
    return "\n".join([
        r"\begin{table*}", r"  \centering",
        rf"  \caption{{{_escape(table.dataset)}: IoU in percent on unseen classes.}}",
        r"  \resizebox{\linewidth}{!}{%", rf"  \begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"  \toprule",
        line(heads), r"  \midrule", *(line(table.run_cells(g)) for g in table.groups),
        *([r"  \midrule", *published] if published else []), r"  \bottomrule", r"  \end{tabular}}",
        r"  \par\smallskip\footnotesize", *(f"  {_escape(note)}" for note in table.notes()), r"\end{table*}", ""])


def _escape(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def as_csv(tables: list[Table]) -> str:
    """The rows of all data sets, numbers to four decimals; an empty field is unknown or does not apply."""
    folds = [f"miou_fold{k}" for k in range(max(table.folds for table in tables))]
    fields = ["dataset", "model", "published", "source", "selected_by", "protocol", "samples", "trained_on", "seeds",
              "folds", "of_folds", *folds, "miou", "miou_std_over_seeds", "miou_minus_baseline",
              *(key for key, _ in EXTRA), "fb_iou", "seen_held_out_miou",
              *(f"miou_selected_by_{rule}" for rule in SELECTIONS), "parameters_trainable", "parameters_total",
              "gflops_per_image", "training_seconds", "machines", "runs"]
    return _csv(fields, (row for table in tables for row in (*(_group_fields(table, g) for g in table.groups),
                                                             *(_published_fields(p) for p in table.published))))


def runs_as_csv(tables: list[Table]) -> str:
    """A line a run, with the commit and the command that made it: what the means are made of."""
    fields = ["dataset", "model", "fold", "seed", "selected_by", "protocol", "samples", "trained_on", "miou", "fb_iou",
              "seen_held_out_miou", *(f"miou_selected_by_{rule}" for rule in SELECTIONS), "name_auc",
              "absent_name_miou", "training_seconds", "machine", "code", "command"]
    return _csv(fields, (_run_fields(r) for table in tables for g in table.groups for r in g.results))


def _csv(fields: list[str], rows: Iterable[dict]) -> str:
    """Numbers to four decimals; what is None or not there is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items() if key in fields})
    return text.getvalue()


def _run_fields(r: Result) -> dict:
    return {**r.raw, "model": r.arch, "seed": r.seed, "selected_by": r.selection, "trained_on": r.trained_on,
            "miou": r.miou, "fb_iou": r.fb_iou, "seen_held_out_miou": r.held_out, "training_seconds": r.seconds,
            **{f"miou_selected_by_{rule}": score for rule, score in r.selections.items()}}


def _group_fields(table: Table, group: Group) -> dict:
    first = group.first
    return {"dataset": table.dataset, "model": first.arch, "published": "no", "selected_by": first.selection,
            "protocol": first.protocol, "samples": _words(group.samples.values(), "+"), "trained_on": first.trained_on,
            "seeds": _words(group.seeds, " "), "folds": _words(group.folds, " "), "of_folds": first.folds,
            **{f"miou_fold{k}": value for k, value in group.by_fold(lambda r: r.miou).items()}, "miou": group.mean(),
            "miou_std_over_seeds": group.deviation, "miou_minus_baseline": table.difference(group),
            **{key: extra_of(group, key) for key, _ in EXTRA}, "fb_iou": group.mean(lambda r: r.fb_iou),
            "seen_held_out_miou": group.mean(lambda r: r.held_out),
            **{f"miou_selected_by_{rule}": group.mean(lambda r: r.selections.get(rule)) for rule in SELECTIONS},
            "parameters_trainable": first.parameters[0], "parameters_total": first.parameters[1],
            "gflops_per_image": max(r.gflops for r in group.results),
            "training_seconds": group.mean(lambda r: r.seconds),
            "machines": _words(dict.fromkeys(r.raw.get("machine", "") for r in group.results), "; "),
            "runs": _words((r.folder for r in group.results), "; ")}


def _published_fields(p: Published) -> dict:
    return {"dataset": p.dataset, "model": p.model, "published": "yes", "miou": p.mean,
            "source": f"{p.source}; {p.note}" if p.note else p.source,
            **{f"miou_fold{k}": value for k, value in enumerate(p.miou)}}


def _words(values, between: str) -> str:
    return between.join(map(str, values))

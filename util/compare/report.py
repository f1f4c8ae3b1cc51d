"""All files of a comparison. Imports pandas and matplotlib, which are extras."""
import sys

from util.compare import pictures
from util.compare.groups import Group
from util.compare.published import Published
from util.compare.tables import make_tables, numbers_frame, runs_frame


def report(groups: list[Group], published: list[Published], baseline: str) -> dict[str, bytes]:
    """{file name: contents}. A section a data set; pictures for each data set and protocol.

    Says on stderr which predictions there are not. Raises UserError for a picture of a run that cannot be read.
    """
    tables = make_tables(groups, published, baseline)
    groups = [g for table in tables for g in table.groups]
    texts = {"table.md": "\n".join(table.markdown() for table in tables),
             "table.tex": "\n".join(["% needs \\usepackage{booktabs,graphicx}", *(t.latex() for t in tables)])}
    for name, frame in (("table.csv", numbers_frame(tables)), ("runs.csv", runs_frame(groups))):
        texts[name] = frame.round(4).convert_dtypes().to_csv(index=False, lineterminator="\n")
    files = {name: text.encode() for name, text in texts.items()}
    for dataset, protocol in dict.fromkeys((g.first.dataset, g.first.protocol) for g in groups):
        alike = [g for g in groups if (g.first.dataset, g.first.protocol) == (dataset, protocol)]
        files.update(_pictures(alike, f"{dataset}-{protocol}.png"))
    return files


def _pictures(groups: list[Group], name: str) -> dict[str, bytes]:
    """{file name: PNG} of the groups of one data set and protocol."""
    labels = [g.label(groups) + " (not zero-shot)" * bool(r.not_zero_shot) for g in groups for r in g.results]
    figures = {f"means-{name}": pictures.means_chart(runs_frame(groups).assign(model=labels)),
               f"classes-{name}": pictures.classes_chart(groups)}
    drawn = [g for g in groups if any(r.pictures for r in g.results)]
    samples = pictures.shared_samples(drawn) if drawn else []
    if samples:
        figures[f"predictions-{name}"] = pictures.predictions_sheet(drawn, samples)
    else:
        print(f"no predictions-{name}: the runs share no sample that they drew when they were tested", file=sys.stderr)
    if samples and len(drawn) < len(groups):
        left = ", ".join(g.label(groups) for g in groups if g not in drawn)
        print(f"not in predictions-{name}: {left}, which drew no sample of this epoch; test it again", file=sys.stderr)
    return {file: pictures.png(figure) for file, figure in figures.items()}

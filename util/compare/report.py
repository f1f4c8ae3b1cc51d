"""All files of a comparison, and one page that holds them all. Imports pandas and matplotlib, which are extras."""
import base64
import html
import sys

import cv2
import pandas as pd

from data.files import read_image
from util.compare import pictures
from util.compare.groups import Group
from util.compare.published import Published
from util.compare.tables import make_tables, numbers_frame, runs_frame
from util.compare.words import DEFAULT, html_table, latex, markdown, page

CAPTIONS = {  # of pictures, by the first part of their names
    "means": "Every run's mIoU on unseen classes, and the means over folds.",
    "differences": "mIoU minus the baseline's by fold and seed, the mean and its interval.",
    "curves": "mIoU after every epoch: means over seeds, the band from the lowest to the highest seed.",
    "classes": "IoU of every unseen class in percent, means over seeds.",
    "marked": "What was taken for what: of the pixels marked under a name, the percentage that shows each class.",
    "predictions": "The same samples under every configuration, with the IoU of each prediction.",
}
STYLE = """body { font: 16px/1.5 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff }
thead th { border-bottom: 2px solid #222 } .notes { font-size: .9rem; color: #444 }
figure { margin: 2.5rem 0 } img { max-width: 100% } figcaption { margin-bottom: .5rem; font-weight: bold }"""


def report(groups: list[Group], published: list[Published], baseline: str, columns: tuple[str, ...] = DEFAULT
           ) -> dict[str, bytes]:
    """{file name: contents}. A section a data set; pictures for each data set and protocol; report.html has it all.

    Tells stderr which pictures could not be made. Raises UserError for a picture of a run that cannot be read.
    """
    tables = make_tables(groups, published, baseline)
    groups = [g for table in tables for g in table.groups]
    runs = runs_frame(groups)
    texts = {"table.md": "\n".join(markdown(table, columns) for table in tables),
             "table.tex": "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(latex(t, columns) for t in tables)}
    for name, frame in (("table.csv", numbers_frame(tables)), ("runs.csv", runs)):
        texts[name] = frame.round(4).convert_dtypes().to_csv(index=False, lineterminator="\n")
    files, sections = {name: text.encode() for name, text in texts.items()}, []
    for table in tables:
        sections.append(page(table, columns))
        for protocol in dict.fromkeys(g.first.protocol for g in table.groups):
            alike = [g for g in table.groups if g.first.protocol == protocol]
            drawn = _pictures(alike, f"{table.dataset}-{protocol}", table.differences(protocol), baseline)
            files.update(drawn)
            sections += [_figure(data, CAPTIONS[name.partition("-")[0]]) for name, data in drawn.items()]
            sections += _extremes(alike)
    commands = runs[["model", "fold", "seed", "miou", "code", "command"]].round(1).astype(object).fillna("-")
    whole = "\n".join(["<!doctype html>", '<html lang=en><meta charset=utf-8><title>Runs compared</title>',
                      f"<style>{STYLE}</style>", "<h1>Runs compared</h1>", *sections,
                      f"<details><summary>All {len(runs)} runs and their commands</summary>", html_table(commands),
                      "</details></html>"])
    return {**files, "report.html": whole.encode("utf-8", "backslashreplace")}


def _figure(data: bytes, caption: str) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    text, code = html.escape(caption), base64.b64encode(data).decode()
    return (f'<figure><figcaption>{text}</figcaption><img alt="{text}" src="data:image/{kind};base64,{code}"></figure>')


def _extremes(groups: list[Group]) -> list[str]:
    """Of each group the first run's best, median and worst samples."""
    sections = []
    for g in groups:
        run = next((r for r in g.results if r.tested and (r.folder / "pictures/extremes.png").is_file()), None)
        if run:
            image = cv2.cvtColor(read_image(run.folder / "pictures/extremes.png"), cv2.COLOR_RGB2BGR)
            sections.append(_figure(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes(),
                                    f"{g.label(groups)}, fold {run.fold}, seed {run.seed}: best, median and worst."))
    return sections


def _pictures(groups: list[Group], name: str, differences: pd.DataFrame, baseline: str) -> dict[str, bytes]:
    """{file name: contents} of the groups of one data set and protocol."""
    labels = [g.honest_label(groups) for g in groups for _ in g.results]
    figures = {f"means-{name}.png": pictures.means_chart(runs_frame(groups).assign(model=labels)),
               **({f"differences-{name}.png": pictures.differences_chart(differences, baseline)} if baseline else {}),
               f"curves-{name}.png": pictures.curves_chart(groups),
               f"classes-{name}.png": pictures.heat_maps({"IoU, %": pictures.classes_frame(groups)})}
    marked = {g.label(groups): frame for g in groups if (frame := pictures.marked_frame(g)) is not None}
    figures[f"marked-{name}.png"] = (
        pictures.heat_maps(marked, "name", "what the marked pixels show, %") if marked else None)
    drawn = [g for g in groups if any(r.pictures for r in g.results)]
    samples = pictures.shared_samples(drawn) if drawn else []
    figures[f"predictions-{name}.jpg"] = pictures.predictions_sheet(drawn, samples) if samples else None
    for file in (file for file, figure in figures.items() if figure is None):
        why = ("the runs share no sample that they drew when they were tested" if file.startswith("predictions") else
               f"no run has the fold and seed of one of {baseline}" if file.startswith("differences") else
               "no run has recorded it; train or test again")
        print(f"no {file}: {why}", file=sys.stderr)
    if samples and len(drawn) < len(groups):
        left = ", ".join(g.label(groups) for g in groups if g not in drawn)
        print(f"not in predictions-{name}.jpg: {left}, which drew no sample of this epoch; test it again",
              file=sys.stderr)
    return {file: pictures.encoded(figure, file.rpartition(".")[2]) for file, figure in figures.items() if figure}

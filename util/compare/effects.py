"""What each option of a set of runs does by itself: a table of main effects.

    python -m util.compare.effects RUN [RUN ...]

RUN as for util.compare. The runs differ in some options at two values each, best so that every option has its two
values equally often within every fold (a factorial design). Then every run tells of every option, and many options
need no more runs than one. Model: score = fold + sum of the changed options' effects, by least squares, without
interactions. An effect is what changes from the first run's value to the other one.
"""
import sys

import numpy as np

from util.compare.groups import ALIKE, differing_options
from util.compare.runs import Result, find, read
from util.runtime.errors import Parser, UserError, run_main
from util.runtime.markdown import markdown_table

SCORES = {"unseen mIoU": lambda r: r.miou, "seen mIoU, held out": lambda r: r.held_out}


def switched(results: list[Result]) -> tuple[list[dict[str, tuple]], np.ndarray]:
    """The options that differ, and (runs, options) of 0 and 1: where each has its second value.

    An option is {name: (first value, second value)}; those that always change together are one.

    Raises UserError for one with more than two values, or where runs are not comparable.
    """
    first = results[0]
    for r in results:
        for what, of in ALIKE.items():
            if of(first) != of(r):
                raise UserError(f"{first.folder} and {r.folder} differ in {what} ({of(first)}, {of(r)}); give runs of "
                                f"one")
    changes = [differing_options(first, r) for r in results]
    columns: dict[tuple[bool, ...], dict[str, tuple]] = {}
    for key in sorted({key for changed in changes for key in changed}):
        pairs = [changed[key] for changed in changes if key in changed]
        if any(pair != pairs[0] for pair in pairs):
            values = ", ".join(map(str, [pairs[0][0], *dict.fromkeys(str(other) for _, other in pairs)]))
            raise UserError(f"{key} has more than two values among the runs ({values}); give runs with two")
        columns.setdefault(tuple(key in changed for changed in changes), {})[key] = pairs[0]
    if not columns:
        raise UserError("the runs differ in no option; give some with and some without what is to be judged")
    return list(columns.values()), np.array(list(columns), float).T


def fit(options: list[dict[str, tuple]], on: np.ndarray, folds: list[int], scores: list[float]
        ) -> tuple[list[float], list[float], int]:
    """Least squares of (runs,) ``scores`` on fold and ``on`` (runs, options).

    Returns the change of the score where each of ``options`` goes from its first to its second value, the standard
    errors of these changes, and their degrees of freedom: runs minus what is fitted to them.

    Raises UserError where the runs cannot tell two options, or an option and a fold, apart, or are too few.
    """
    blocks = np.array([[fold == k for k in sorted(set(folds))] for fold in folds], float)
    design = np.hstack([blocks, on])
    for k, option in enumerate(options):
        rest = np.delete(design, blocks.shape[1] + k, axis=1)
        if np.linalg.matrix_rank(rest) == np.linalg.matrix_rank(design):
            raise UserError(f"the runs cannot tell {' and '.join(option)} from the folds and the other options; "
                            f"give runs in which it changes by itself")
    free = len(scores) - design.shape[1]
    if free < 1:
        raise UserError(f"{len(scores)} runs are too few for {len(options)} options and {blocks.shape[1]} folds; "
                        f"give {design.shape[1] + 1} or more")
    found = np.linalg.lstsq(design, np.array(scores), rcond=None)[0]
    variance = ((scores - design @ found) ** 2).sum() / free
    error = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    return list(found[blocks.shape[1]:]), list(error[blocks.shape[1]:]), free


def effects_table(results: list[Result]) -> str:
    """Markdown: a row an option, a column a score that all runs have."""
    options, on = switched(results)
    first, folds = results[0], [r.fold for r in results]
    fits = {name: fit(options, on, folds, [score(r) for r in results]) for name, score in SCORES.items()
            if all(score(r) is not None for r in results)}
    rows = [["; ".join(f"{key}: {a} -> {b}" for key, (a, b) in option.items()),
             *(f"{change[k]:+.1f} ± {error[k]:.1f}" for change, error, _ in fits.values())]
            for k, option in enumerate(options)]
    remark = f" Not zero-shot: {first.not_zero_shot}." if first.not_zero_shot else ""
    return markdown_table(["option", *fits], rows) + (
        f"\n\n{len(results)} runs in {len(set(folds))} folds, {first.protocol} protocol, epochs selected by "
        f"{first.selection}. ±: standard error, {next(iter(fits.values()))[2]} degrees of freedom.{remark}")


def main() -> None:
    parser = Parser(prog="python -m util.compare.effects", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or one above several")
    print(effects_table([read(file) for file in find(parser.parse_args(sys.argv[1:]).runs)]))


if __name__ == "__main__":
    run_main(main)

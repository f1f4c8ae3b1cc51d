"""What each option of a set of runs does, by itself: a table of main effects.

    python -m util.compare.effects RUN [RUN ...]

RUN as for util.compare. The runs differ in some options at two values each, best so that every option has its two
values equally often within every fold (a factorial design): then every run speaks on every option, and many options
need no more runs than one. Model: score = fold + sum of the changed options' effects, by least squares; interactions
are not in it. The first run's values are those that the effects start from.
"""
import argparse
import sys
from dataclasses import dataclass

import numpy as np

from util.compare.groups import MAY_DIFFER
from util.compare.runs import Result, find, read
from util.runtime.errors import UserError, run_main
from util.runtime.markdown import markdown_table

ALSO_FREE = MAY_DIFFER | {"arch"}  # the one thing more that may be named apart
SCORES = {"unseen mIoU": lambda r: r.miou, "seen mIoU, held out": lambda r: r.held_out}


@dataclass(frozen=True)
class Effects:
    """change[k] of a score, with its standard error, where ``options[k]`` goes from its first to its second value.

    options: [{name: (first value, second value)}], those that always change together in one. free: runs minus what is
    fitted to them, the degrees of freedom of ``error``.
    """
    options: list[dict[str, tuple]]
    change: list[float]
    error: list[float]
    free: int


def switched(results: list[Result]) -> tuple[list[dict[str, tuple]], np.ndarray]:
    """The options that differ, and (runs, options) of 0 and 1: where each has its second value.

    Raises UserError for one with more than two values, or where runs are not comparable.
    """
    first = results[0]
    for r in results:
        for what in ("dataset", "protocol", "selection", "clip"):
            here, there = getattr(first, what), getattr(r, what)
            if here != there:
                raise UserError(f"{first.folder} and {r.folder} differ in {what} ({here}, {there}); give runs of one")
    columns: dict[tuple[int, ...], dict[str, tuple]] = {}
    for key in sorted({key for r in results for key in r.options} - ALSO_FREE):
        values = [r.options.get(key) for r in results]
        others = [v for i, v in enumerate(values) if v != values[0] and v not in values[:i]]
        if len(others) > 1:
            every = ", ".join(map(str, [values[0], *others]))
            raise UserError(f"{key} has more than two values among the runs ({every}); give runs with two")
        if others:
            columns.setdefault(tuple(int(v != values[0]) for v in values), {})[key] = (values[0], others[0])
    if not columns:
        raise UserError("the runs differ in no option; give some with, some without what is to be judged")
    return list(columns.values()), np.array(list(columns), float).T


def fit(options: list[dict[str, tuple]], on: np.ndarray, folds: list[int], scores: list[float]) -> Effects:
    """Least squares of (runs,) ``scores`` on fold and ``on`` (runs, options).

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
    return Effects(options, list(found[blocks.shape[1]:]), list(error[blocks.shape[1]:]), free)


def table(results: list[Result]) -> str:
    """Markdown: a row an option, a column a score that all runs have."""
    options, on = switched(results)
    folds = [r.fold for r in results]
    fits = {name: fit(options, on, folds, [score(r) for r in results]) for name, score in SCORES.items()
            if all(score(r) is not None for r in results)}
    rows = [["; ".join(f"{key}: {a} -> {b}" for key, (a, b) in option.items()),
             *(f"{e.change[k]:+.1f} ± {e.error[k]:.1f}" for e in fits.values())] for k, option in enumerate(options)]
    free = next(iter(fits.values())).free
    return markdown_table(["option", *fits], rows) + (
        f"\n\n{len(results)} runs in {len(set(folds))} folds, {results[0].protocol} protocol, epochs selected by "
        f"{results[0].selection}. ±: standard error, {free} degrees of freedom.\n")


def main() -> None:
    parser = argparse.ArgumentParser("python -m util.compare.effects", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or one above several")
    print(table([read(file) for file in find(parser.parse_args(sys.argv[1:]).runs)]), end="")


if __name__ == "__main__":
    run_main(main)

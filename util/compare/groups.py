"""Which runs make one row of a table, and whether they may be averaged."""
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from util.compare.runs import Result
from util.config import changes_numbers, differing
from util.runtime.errors import UserError

# In these the runs of one row may differ; where their weights come from is compared by itself.
APART = {"arch", "fold", "seed", "weights", "train.select", "data.train_classes", "eval.manifest"}
TEST = ("eval.draws", "eval.seed", "eval.manifest", "eval.images", "eval.fit", "data.min_pixels")  # what decides a test
ALIKE = {  # what runs must agree in whose scores are compared or averaged
    "dataset": lambda r: r.dataset, "protocol": lambda r: r.protocol, "selection": lambda r: r.selection,
    "trained on": lambda r: r.trained_on, "being zero-shot": lambda r: not r.not_zero_shot,
    "CLIP weights": lambda r: r.raw["clip_fingerprint"]}

_counts = cache(changes_numbers)  # asked for every pair of runs


@dataclass(frozen=True)
class Group:
    """One configuration's runs over folds and seeds, in that order."""
    results: tuple[Result, ...]

    @property
    def first(self) -> Result:
        return self.results[0]

    @property
    def seeds(self) -> list[int]:
        return sorted({r.seed for r in self.results})

    @property
    def folds(self) -> list[int]:
        return sorted({r.fold for r in self.results})

    @property
    def partial(self) -> bool:
        """Whether any fold of any seed is missing."""
        return len(self.results) < self.first.folds * len(self.seeds)

    def label(self, groups: list["Group"]) -> str:
        """The arch, with the selection where another of the groups has that arch too."""
        alike = [g for g in groups if g.first.arch == self.first.arch and g.first.protocol == self.first.protocol]
        return self.first.arch + (f", selected by {self.first.selection}" if len(alike) > 1 else "")

    def honest_label(self, groups: list["Group"]) -> str:
        """The label, and what makes its scores other than they seem."""
        return self.label(groups) + " (not zero-shot)" * bool(self.first.not_zero_shot)

    def same_test_as(self, other: "Group") -> bool:
        """Whether both were tested on as many samples of the same classes, so that a difference means something."""
        def test(group):
            return {(r.dataset, r.protocol, r.fold, r.samples, *(str(r.options.get(key)) for key in TEST),
                     frozenset(r.per_class)) for r in group.results}
        return test(self) == test(other)


def gather(results: Iterable[Result], partial: bool = False) -> list[Group]:
    """Group by data set, arch, selection and protocol, in order of first appearance.

    Raises UserError naming the runs where those of a group cannot be averaged; ``partial`` allows missing folds.
    """
    together: dict[tuple, list[Result]] = {}
    for r in results:
        together.setdefault((r.dataset, r.arch, r.selection, r.protocol), []).append(r)
    groups = [Group(tuple(sorted(runs, key=lambda r: (r.fold, r.seed)))) for runs in together.values()]
    for group in groups:
        _check_alike(group)
        if group.partial and not partial:
            _report_missing(group, groups)
    return groups


def differing_options(a: Result, b: Result) -> dict[str, tuple]:
    """{option: (of a, of b)} of those that change numbers, without those that runs of one row differ in."""
    return {key: values for key, values in differing(a.options, b.options).items() if key not in APART and _counts(key)}


def _check_alike(group: Group) -> None:
    seen: dict[tuple, Result] = {}
    for r in group.results:
        if (r.fold, r.seed) in seen:
            raise UserError(f"{seen[r.fold, r.seed].folder} and {r.folder}: both are {r.dataset} {r.arch} fold "
                            f"{r.fold} seed {r.seed}; name the one to take (arch=NAME would make rows of their own)")
        seen[r.fold, r.seed] = r
    first = group.first
    for r in group.results:
        same_fold = next(other for other in group.results if other.fold == r.fold)
        # Episodic tests draw as many samples in all folds. Otherwise each fold has its own number.
        as_many = first if r.protocol == "episodic" else same_fold
        compared = [*((first, what, of(first), of(r)) for what, of in ALIKE.items()),
                    (same_fold, "eval.manifest", same_fold.options.get("eval.manifest"),
                     r.options.get("eval.manifest")),
                    (as_many, f"{r.protocol} samples", as_many.samples, r.samples),
                    *((first, key, *values) for key, values in differing_options(first, r).items()),
                    (first, "parameters", first.raw["parameters"], r.raw["parameters"]),
                    (first, "options that were others in training", first.raw.get("changed_options", {}),
                     r.raw.get("changed_options", {})), (first, "number of folds", first.folds, r.folds)]
        for other, what, theirs, own in compared:
            if theirs != own:
                raise UserError(f"{other.folder} and {r.folder}: these runs cannot be averaged, because they differ in "
                                f"{what} ({theirs}, {own}); leave one out, or run it again (arch=NAME would make rows "
                                f"of their own)")


def _report_missing(group: Group, groups: list[Group]) -> None:
    first, there = group.first, {(r.fold, r.seed) for r in group.results}
    missing = [(fold, seed) for seed in group.seeds for fold in range(first.folds) if (fold, seed) not in there]
    text = ", ".join(f"fold {fold} of seed {seed}" for fold, seed in missing)
    other = [f"{r.folder} has fold {r.fold} of seed {r.seed} by protocol {r.protocol}, selection {r.selection}"
             for g in groups if (g.first.dataset, g.first.arch) == (first.dataset, first.arch) and g is not group
             for r in g.results if (r.fold, r.seed) in missing]
    if other:
        text += f" ({'; '.join(other)}, which is not averaged with the others)"
    raise UserError(f"{', '.join(str(r.folder) for r in group.results)}: {first.dataset} {first.arch}, protocol "
                    f"{first.protocol}, selection {first.selection}, lacks {text}; give these runs too, or --partial")

"""Which runs make one row of a table, whether they may be averaged, and their means."""
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from util.compare.runs import Result
from util.runtime.errors import UserError

# Options that folds and seeds of one row may differ in: they change where and how fast it runs, not what is measured.
MAY_DIFFER = {"fold", "seed", "device", "exp", "run", "resume", "weights", "data.root", "data.classes",
              "data.train_list", "data.val_list", "data.workers", "data.train_classes", "model.clip", "train.select",
              "train.checkpoint_minutes", "train.log_every", "eval.batch_size", "eval.chunk", "eval.manifest",
              "eval.name_check", "eval.pictures"}


@dataclass(frozen=True)
class Group:
    """One configuration's runs over folds and seeds. Means are over seeds first, then over folds."""
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

    @property
    def samples(self) -> dict[int, int]:
        """Test samples of each fold."""
        return {r.fold: r.samples for r in sorted(self.results, key=lambda r: r.fold)}

    def by_fold(self, value: Callable[[Result], float | None]) -> dict[int, float | None]:
        """Each fold's mean over seeds; None where a run has no such value."""
        values = {fold: [value(r) for r in self.results if r.fold == fold] for fold in self.folds}
        return {fold: None if None in v else fmean(v) for fold, v in values.items()}

    def mean(self, value: Callable[[Result], float | None] = lambda r: r.miou) -> float | None:
        """The folds' mean; None where a run has no such value."""
        values = list(self.by_fold(value).values())
        return None if None in values else fmean(values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (n - 1), over seeds, of the folds' mean mIoU; None without several equal seeds."""
        by_seed = [[r for r in self.results if r.seed == seed] for seed in self.seeds]
        if len(by_seed) < 2 or any({r.fold for r in runs} != set(self.folds) for runs in by_seed):
            return None
        return stdev(fmean(r.miou for r in runs) for runs in by_seed)

    def per_class(self) -> dict[int, dict[int, float]]:
        """{fold: {class id: IoU}}, means over the seeds in which the class was met."""
        out = {}
        for fold in self.folds:
            runs = [r.per_class for r in self.results if r.fold == fold]
            out[fold] = {c: fmean(run[c] for run in runs if c in run) for c in sorted(set().union(*runs))}
        return out

    def same_test_as(self, other: "Group") -> bool:
        """Whether both were tested on as many samples of the same classes, so that a difference means something."""
        keys = ("eval.draws", "eval.seed", "eval.manifest", "eval.images", "eval.fit", "data.min_pixels")

        def test(group):
            return (group.first.dataset, group.first.protocol, group.samples,
                    {(r.fold, *(r.options.get(key) for key in keys)) for r in group.results},
                    {fold: set(classes) for fold, classes in group.per_class().items()})
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
            _tell_missing(group, groups)
    return groups


def _check_alike(group: Group) -> None:
    seen: dict[tuple, Result] = {}
    for r in group.results:
        if (r.fold, r.seed) in seen:
            raise UserError(f"{seen[r.fold, r.seed].folder} and {r.folder}: both are {r.dataset} {r.arch} fold "
                            f"{r.fold} seed {r.seed}; name the one to take (arch=NAME would make rows of their own)")
        seen[r.fold, r.seed] = r
    first = group.first
    for r in group.results:
        _same(first, r, "trained on", first.trained_on, r.trained_on)
        like = next(other for other in group.results if other.fold == r.fold)
        _same(like, r, "eval.manifest", like.options.get("eval.manifest"), r.options.get("eval.manifest"))
        like = first if r.protocol == "episodic" else like  # draws are as many for all; else each fold has its number
        _same(like, r, f"{r.protocol} samples", like.samples, r.samples)
    for r in group.results:
        for key in sorted(first.options.keys() & r.options.keys() - MAY_DIFFER):
            _same(first, r, key, first.options[key], r.options[key])
        _same(first, r, "CLIP weights", first.clip, r.clip)
        _same(first, r, "parameters", first.parameters, r.parameters)
        _same(first, r, "number of folds", first.folds, r.folds)


def _same(a: Result, b: Result, what: str, of_a, of_b) -> None:
    if of_a != of_b:
        raise UserError(f"{a.folder} and {b.folder}: not to be averaged, for they differ in {what} ({of_a}, {of_b}); "
                        f"leave one away, or run it again (arch=NAME would make rows of their own)")


def _tell_missing(group: Group, groups: list[Group]) -> None:
    first = group.first
    there = {(r.fold, r.seed) for r in group.results}
    missing = [(fold, seed) for seed in group.seeds for fold in range(first.folds) if (fold, seed) not in there]
    text = ", ".join(f"fold {fold} of seed {seed}" for fold, seed in missing)
    other = [f"{r.folder} has fold {r.fold} of seed {r.seed} by protocol {r.protocol}, selection {r.selection}"
             for g in groups if (g.first.dataset, g.first.arch) == (first.dataset, first.arch) and g is not group
             for r in g.results if (r.fold, r.seed) in missing]
    if other:
        text += f" ({'; '.join(other)}, which is not averaged with the others)"
    raise UserError(f"{', '.join(str(r.folder) for r in group.results)}: {first.dataset} {first.arch}, protocol "
                    f"{first.protocol}, selection {first.selection}, lacks {text}; give these runs too, or --partial")

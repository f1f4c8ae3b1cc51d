"""What a table says: rows of runs, published rows, and the notes below; formats.py writes it down."""
from dataclasses import dataclass

from data.samples import TRAINED_ON
from util.compare.groups import Group
from util.compare.published import Published
from util.compare.runs import UNKNOWN, UNTRAINED
from util.run.selection import SELECTIONS

# Scores that only some protocols have: several episodic draws, and the generalised one.
EXTRA = (("miou_std", "± over draws"), ("seen_miou", "seen mIoU (S)"), ("hiou", "hIoU"),
         ("pixel_accuracy", "pixel accuracy"))


@dataclass(frozen=True)
class Table:
    """One data set's rows: runs, and the published scores beside them. baseline: an arch, or ""."""
    dataset: str
    groups: list[Group]
    published: list[Published]
    baseline: str = ""

    @property
    def folds(self) -> int:
        return max(g.first.folds for g in self.groups)

    def baseline_of(self, group: Group) -> Group | None:
        """The baseline's group tested as this one was, preferably under the same selection."""
        fit = [g for g in self.groups if g.first.arch == self.baseline and g.same_test_as(group)]
        return next((g for g in fit if g.first.selection == group.first.selection), fit[0] if fit else None)

    def difference(self, group: Group) -> float | None:
        """Mean mIoU minus the baseline's; None for the baseline itself and where the tests differ."""
        other = self.baseline_of(group)
        return None if other is None or group.first.arch == self.baseline else group.mean() - other.mean()

    @property
    def extra(self) -> list[tuple[str, str]]:
        """Those of EXTRA that any row has."""
        return [(key, head) for key, head in EXTRA if any(extra_of(g, key) is not None for g in self.groups)]

    def heads(self) -> list[str]:
        return ["model", *(f"fold {k}" for k in range(self.folds)), "mean mIoU",
                *([f"against {self.baseline}"] if self.baseline else []), *(head for _, head in self.extra),
                "FB-IoU", "seen, held out", "at best unseen", "at best seen", "at last epoch", "selected by", "trained on",
                "protocol, samples", "trains, M", "parameters, M", "GFLOPs an image", "training a fold"]

    def run_cells(self, group: Group) -> list[str]:
        """A row of plain text under :meth:`heads`."""
        first, by_fold = group.first, group.by_fold(lambda r: r.miou)
        return [first.arch, *(_number(by_fold.get(k)) for k in range(self.folds)), _mean(group),
                *([_number(self.difference(group), "+.1f")] if self.baseline else []),
                *(_number(extra_of(group, key)) for key, _ in self.extra), _number(group.mean(lambda r: r.fb_iou)),
                _number(group.mean(lambda r: r.held_out)),
                *(_number(group.mean(lambda r: r.selections.get(rule))) for rule in SELECTIONS),
                first.selection, first.trained_on, f"{first.protocol}, {_samples(group)}",
                *(f"{n / 1e6:.2f}" for n in first.parameters), _gflops(max(r.gflops for r in group.results)),
                _time(group.mean(lambda r: r.seconds))]

    def published_cells(self, place: int) -> list[str]:
        """The row of the published score at ``place`` of the list, with the number of its note."""
        p = self.published[place]
        folds = p.miou if len(p.miou) == self.folds else [None] * self.folds
        cells = [f"{p.model}, published [{place + 1}]", *map(_number, folds), _number(p.mean)]
        return cells + ["-"] * (len(self.heads()) - len(cells))

    def notes(self) -> list[str]:
        """What the cells leave unsaid, a sentence each; of published rows, the source."""
        notes = []
        if any(g.deviation is not None for g in self.groups):
            notes.append("±: standard deviation (n - 1) of the folds' mean over n seeds.")
        for g in self.groups:
            if g.partial:
                there = "; ".join(f"seed {seed}: folds {', '.join(str(r.fold) for r in g.results if r.seed == seed)}"
                                  for seed in g.seeds)
                notes.append(f"{g.first.arch} ({g.first.selection}, {g.first.protocol}) is partial: {there}.")
        for label in dict.fromkeys(g.first.trained_on for g in self.groups):
            if label not in (UNTRAINED, UNKNOWN):
                which, _, elsewhere = label.partition(" of ")
                notes.append(f"Trained on {label}: {TRAINED_ON.get(which, which)}"
                             f"{f', in training on {elsewhere}' if elsewhere else ''}.")
        notes.append(f"Selected by unseen: {SELECTIONS['unseen'].words}, as the field does; seen: "
                     f"{SELECTIONS['seen'].words}, which uses no unseen mask; last: the last epoch. The three "
                     f"columns before are the unseen-class mIoU at each of these epochs.")
        if any(g.mean(lambda r: r.held_out) is not None for g in self.groups):
            notes.append("Seen, held out: mIoU of seen classes on validation images, in eval.seen_samples samples.")
        notes.append("Parameters include CLIP's frozen ones; GFLOPs are of one name in one image, 2 a multiply-add, "
                     "without the text encoder, which runs once a run; training time is h:mm:ss, a mean over runs.")
        return notes + [f"[{k}] published, not run here: {p.source}{f'; {p.note}' if p.note else ''}."
                        for k, p in enumerate(self.published, 1)]


def tables(groups: list[Group], published: list[Published], baseline: str = "") -> list[Table]:
    """One table a data set, the baseline's rows first."""
    groups = sorted(groups, key=lambda g: g.first.arch != baseline)
    return [Table(dataset, [g for g in groups if g.first.dataset == dataset],
                  [p for p in published if p.dataset == dataset], baseline)
            for dataset in dict.fromkeys(g.first.dataset for g in groups)]


def extra_of(group: Group, key: str) -> float | None:
    """The mean of a score that only some protocols have; None where it is not there."""
    return group.mean(lambda r: r.raw.get(key))


def _number(value: float | None, form: str = ".1f") -> str:
    return "-" if value is None else format(value, form)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _gflops(value: float) -> str:
    return format(value, ".3g" if value < 100 else ".0f")


def _samples(group: Group) -> str:
    numbers = list(group.samples.values())
    text = f"{numbers[0]} a fold" if len(set(numbers)) == 1 else "+".join(map(str, numbers))
    draws = group.first.options.get("eval.draws", 1)
    return text + (f", {draws} draws" if "draws" in group.first.raw and draws > 1 else "")


def _mean(group: Group) -> str:
    text = _number(group.mean())
    if group.deviation is not None:
        text += f" ± {group.deviation:.1f}"
    if len(group.seeds) > 1:
        text += f" (n={len(group.seeds)})"
    if group.partial:
        text += f" (partial: {len(group.folds)} of {group.first.folds} folds)"
    return text

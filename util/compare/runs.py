"""Results of train.py and test.py, grouped into configurations whose runs may be averaged."""
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from util.config import changes_numbers, differing, flat
from util.options import SELECTIONS
from util.runtime.errors import UserError, require_file

VERSION = 1           # of results.json
UNTRAINED = "none"    # selection and training images of a baseline that has neither
UNKNOWN = "unknown"   # of weights that tell neither, as released ones do
# Options in which the runs of one row may differ. What weights were trained on is compared by itself.
APART = {"arch", "fold", "seed", "weights", "train.select", "data.train_classes", "eval.manifest"}
TEST = ("eval.draws", "eval.seed", "eval.manifest", "eval.fit", "data.min_pixels")  # options that decide what a test is


@dataclass
class FoldResult:
    """Scores of one fold of one run, IoUs in percent."""
    folder: Path
    raw: dict        # all of results.json
    scores: dict     # of the epoch that counts: raw where it is the tested one, else what training scored
    selection: str   # the rule that chose that epoch: unseen, seen or last; UNTRAINED or UNKNOWN

    def __post_init__(self):
        self.fold: int = self.raw["fold"]
        self.seed: int = self.raw.get("trained_on", self.raw["config"])["seed"]  # the test's if nothing was trained
        self.not_zero_shot: str = self.raw.get("not_zero_shot", "")              # why not, or ""

    @property
    def trained_on(self) -> str:
        """Training data: data.train_classes, data set and fold if not this one's, fine-tuned, extended."""
        origin = self.raw.get("trained_on")
        if origin is None:
            return UNKNOWN if self.raw["checkpoint"] else UNTRAINED
        text = origin["train_classes"]
        other = [origin["dataset"]] * (origin["dataset"] != self.raw["dataset"])
        other += [f"fold {origin['fold']}"] * (origin["fold"] != self.fold and text != "all")
        text += f" of {' '.join(other)}" * bool(other) + ", fine-tuned" * ("start" in origin)
        return text + "".join(f", planned for {epochs} epochs and extended" for epochs in origin.get("extended", []))

    @cached_property
    def configuration(self) -> dict:
        """Configuration that the runs of one row share: options that change numbers, origin of the weights."""
        options = {name: value for name, value in flat(self.raw["config"]).items() if name not in APART}
        return {"training data": self.trained_on, "being zero-shot": not self.not_zero_shot,
                "CLIP's weights": self.raw["clip_fingerprint"], "number of folds": self.raw["folds"],
                "options that were others in training": self.raw.get("changed_options", {}),
                **{name: value for name, value in options.items() if changes_numbers(name)}}

    @property
    def test(self) -> dict:
        """Samples of this fold's test, as what decides them, the unseen classes among them."""
        options = flat(self.raw["config"])
        return {"samples": self.raw["samples"], "validation data": self.raw.get("data", {}).get("val"),
                **{name: options.get(name) for name in TEST}, "classes": sorted(self.raw["class_ids"].values())}


@dataclass
class Group:
    """The runs of one configuration over folds and seeds, in that order; label: its name in tables and charts."""
    results: list[FoldResult]
    label: str

    def __post_init__(self):
        self.raw = self.results[0].raw  # of which dataset, protocol, arch and folds are all runs'
        self.not_zero_shot = "; ".join(dict.fromkeys(r.not_zero_shot for r in self.results))


def find(places: list[str | Path]) -> list[Path]:
    """Find every results.json in the places, once, in their order. Raises UserError for a place without."""
    files: list[Path] = []
    for place in map(Path, places):
        found = [place] if place.is_file() else sorted(place.rglob("results.json"))
        if not found:
            raise UserError(f"{place}: holds no results.json; name the folder of a run that was tested, or one above")
        files += found
    return list({file.resolve(): file for file in files}.values())


def read(file: Path, select: str | None = None) -> FoldResult:
    """Read scores of the tested epoch or rule ``select``. Raises UserError for a missing file, version or score."""
    raw = json.loads(require_file(file, "train or test that fold first").read_text(encoding="utf-8"))
    if raw.get("version", VERSION) != VERSION:
        raise UserError(f"{file}: version {raw['version']} of results, this code reads {VERSION}; test that run again")
    if not raw["checkpoint"]:
        return FoldResult(file.parent, raw, raw, UNTRAINED)
    weights, rules = Path(raw["checkpoint"]).name, raw.get("selections", {})  # of train.py, which knows more epochs
    own = next((rule for rule, about in SELECTIONS.items() if about.file == weights and "trained_on" in raw), UNKNOWN)
    own = raw["config"]["train"]["select"] if rules else own
    if select in (None, own):
        return FoldResult(file.parent, raw, raw, own)
    scores = rules.get(select, {})
    if scores.get("protocol") != raw["protocol"]:
        raise UserError(f"{file}: holds no {raw['protocol']} score of the epoch that --select {select} asks for, only "
                        f"of {weights}; leave --select away, or test those weights")
    return FoldResult(file.parent, raw, {key: scores[key] for key in ("miou", "fb_iou", "per_class")}, select)


def gather(results: Iterable[FoldResult], partial: bool = False) -> list[Group]:
    """Group by data set, protocol, arch, selection. Raises UserError for unlike runs and, unless ``partial``, gaps."""
    together, groups = defaultdict(list), []
    for r in results:
        together[r.raw["dataset"], r.raw["protocol"], r.raw["arch"], r.selection].append(r)
    for (*key, selection), runs in together.items():
        runs.sort(key=lambda r: (r.fold, r.seed))
        for a, b in pairwise(runs):  # those of one fold are neighbours
            _require_alike(a, b)
        there = {(r.fold, r.seed) for r in runs}
        missing = [f"fold {fold} of seed {seed}" for seed in sorted({r.seed for r in runs})
                   for fold in range(runs[0].raw["folds"]) if (fold, seed) not in there]
        if missing and not partial:
            raise UserError(f"{', '.join(str(r.folder) for r in runs)}: {' '.join(key)}, selection {selection}, lacks "
                            f"{', '.join(missing)}; give these runs too, or --partial")
        several = sum(other[:-1] == tuple(key) for other in together) > 1
        label = key[-1] + f", selected by {selection}" * several + " (not zero-shot)" * bool(runs[0].not_zero_shot)
        groups.append(Group(runs, label))
    return groups


def _require_alike(a: FoldResult, b: FoldResult) -> None:
    where = f"{a.folder} and {b.folder}"
    if (a.fold, a.seed) == (b.fold, b.seed):
        raise UserError(f"{where}: both are {b.raw['arch']} fold {b.fold} seed {b.seed}; name the one to take")
    found = differing(a.configuration, b.configuration) | (differing(a.test, b.test) if a.fold == b.fold else {})
    if found:
        differences = ", ".join(f"{what} ({of_a}, {of_b})" for what, (of_a, of_b) in found.items())
        raise UserError(f"{where}: these runs cannot be averaged, because they differ in {differences}; leave one out")

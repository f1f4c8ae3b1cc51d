"""Reads results.json of train.py and test.py, and says which key one lacks."""
import json
from dataclasses import dataclass
from pathlib import Path

from util.config import flat
from util.run.selection import SELECTIONS
from util.runtime.errors import UserError, require_file

NEEDED = ("dataset", "arch", "fold", "folds", "protocol", "samples", "miou", "fb_iou", "per_class", "class_ids",
          "checkpoint", "parameters.trainable", "parameters.total", "gflops_per_image", "clip_fingerprint",
          "config.seed")
UNTRAINED = "-"      # selection and training images of a baseline that has neither
UNKNOWN = "unknown"  # of weights that came without, as released ones do


@dataclass(frozen=True)
class Result:
    """One fold of one run. IoUs are in percent."""
    folder: Path
    dataset: str
    arch: str
    fold: int
    folds: int                 # how many the data set has
    seed: int                  # of the training
    protocol: str
    samples: int
    selection: str             # unseen, seen or last; UNTRAINED or UNKNOWN
    trained_on: str            # data.train_classes of the training, and whose fold if not this one's
    miou: float
    fb_iou: float
    held_out: float | None     # mIoU of seen classes on held-out images at that epoch, which only training scores
    per_class: dict[int, float]    # by class id, of the unseen classes that were met
    names: dict[int, str]          # of the fold's class ids; configurations may call a class differently
    selections: dict[str, float]   # mIoU by each rule that is known
    parameters: tuple[int, int]    # trainable, total
    gflops: float              # an image
    seconds: float | None      # of training
    options: dict              # flat
    clip: str                  # fingerprint of CLIP's weights
    pictures: dict[Path, int]  # folders of util/results/final.py: the class named; {} where this epoch was not drawn
    raw: dict                  # the whole of results.json


def find(places: list[str | Path]) -> list[Path]:
    """Every results.json that the places are or hold, once, in their order. Raises UserError for a place without."""
    files: dict[Path, Path] = {}
    for place in map(Path, places):
        found = [place] if place.is_file() else sorted(place.rglob("results.json"))
        if not found:
            what = "holds no results.json" if place.is_dir() else "no such folder"
            raise UserError(f"{place}: {what}; name the folder of a run that was tested (EXP/DATASET/ARCH/foldK/RUN), "
                            f"or one above it")
        for file in found:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def read(file: Path, select: str | None = None) -> Result:
    """The scores of the epoch that was tested, or of the one that ``select`` names.

    Raises UserError naming the key that is not there, and where no score of that epoch is known.
    """
    require_file(file, "train or test that fold first")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error}); test that run again") from None
    for key in NEEDED:
        _need(raw, key, file)
    if "training_seconds" in raw or "trained_on" in raw:
        _need(raw, "trained_on.train_classes", file)
    if "training_seconds" in raw:  # of train.py, which knows of more epochs than the one it tested
        _need(raw, "config.train.select", file)
        for rule in _need(raw, "selections", file):
            _need(raw, f"selections.{rule}.protocol", file)
    selection, scores = _selected(raw, select, file)
    origin, ids = raw.get("trained_on", {}), raw["class_ids"]
    drawn = scores is raw or scores.get("epoch") == raw.get("best_epoch")
    pictures = {file.parent / "pictures" / name: about["class_id"]
                for name, about in raw.get("pictures", {}).items()} if drawn else {}
    return Result(
        folder=file.parent, **{key: raw[key] for key in ("dataset", "arch", "fold", "folds", "protocol", "samples")},
        seed=origin.get("seed", raw["config"]["seed"]), selection=selection, trained_on=_trained_on(raw),
        miou=scores["miou"], fb_iou=scores["fb_iou"],
        held_out=raw.get("selections", {}).get(selection, {}).get("seen_miou"),
        per_class={ids[name]: iou for name, iou in scores["per_class"].items() if name in ids},
        names={c: name for name, c in ids.items()},
        selections={rule: s["miou"] for rule, s in raw.get("selections", {selection: scores}).items()
                    if s["protocol"] == raw["protocol"]},
        parameters=(raw["parameters"]["trainable"], raw["parameters"]["total"]), gflops=raw["gflops_per_image"],
        seconds=raw.get("training_seconds"), options=flat(raw["config"]), clip=raw["clip_fingerprint"],
        pictures={path: c for path, c in pictures.items() if path.is_dir()}, raw=raw)


def _need(raw, key: str, file: Path):
    """The value under a dotted key."""
    value = raw
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UserError(f"{file}: lacks {key}, as results of older versions do; test that run again with test.py, "
                            f"or train it again")
        value = value[part]
    return value


def _selected(raw: dict, select: str | None, file: Path) -> tuple[str, dict]:
    """The rule that chose the epoch, and that epoch's scores."""
    if not raw["checkpoint"]:
        return UNTRAINED, raw
    if "selections" in raw:
        if select is None:
            return raw["config"]["train"]["select"], raw
        scores = _need(raw, f"selections.{select}", file)
        _need(raw, f"selections.{select}.per_class", file)
        if scores["protocol"] != raw["protocol"]:
            raise UserError(f"{file}: epochs were chosen by the {scores['protocol']} protocol, but the test is "
                            f"{raw['protocol']}, of one epoch alone; leave --select away")
        return select, scores
    name = Path(raw["checkpoint"]).name  # test.py knows weights by their file alone
    own = next((rule for rule, selection in SELECTIONS.items() if selection.file == name), UNKNOWN)
    own = own if "trained_on" in raw else UNKNOWN
    if select not in (None, own):
        raise UserError(f"{file}: holds the score of {name} alone, not of the epoch that --select {select} asks for; "
                        f"leave --select away, or name the folder of the run that trained it")
    return own, raw


def _trained_on(raw: dict) -> str:
    """``seen``, or ``seen of coco fold 2`` where weights are tested on what another fold or data set holds back."""
    if "trained_on" not in raw:
        return UNKNOWN if raw["checkpoint"] else UNTRAINED
    origin = raw["trained_on"]
    label, other = origin["train_classes"], []
    if origin.get("dataset", raw["dataset"]) != raw["dataset"]:
        other.append(origin["dataset"])
    if label != "all" and origin.get("fold", raw["fold"]) != raw["fold"]:
        other.append(f"fold {origin['fold']}")
    return f"{label} of {' '.join(other)}" if other else label

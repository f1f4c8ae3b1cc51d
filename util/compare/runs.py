"""Finds results.json files of train.py and test.py, reads them, and checks what they hold."""
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.samples import TRAINED_ON
from util.config import completed, flat
from util.run.selection import SELECTIONS
from util.runtime.errors import UserError, require_file

UNTRAINED = "-"       # selection and training images of a baseline that has neither
UNKNOWN = "unknown"   # of weights that tell neither, as released ones do
MOST_BYTES = 2 ** 25  # of a results.json, which has about 10 kB; one with 250 classes has 50 kB
MOST_FOLDS = 254      # masks have 8 bits, 0 is background and 255 ignored


def _within(most: float) -> Callable:
    return lambda v: type(v) in (int, float) and 0 <= v <= most  # NaN is not


# What a value should be, a test of it, and where such values are.
# "?": may be missing; "*": any key; "#": any place of a list.
KINDS = (
    ("a name in printable characters without / and \\",  # it becomes part of tables and of files' names
     lambda v: isinstance(v, str) and v and v.isprintable() and not set("/\\") & set(v), "dataset arch protocol"),
    ("text", lambda v: isinstance(v, str) and not any("\ud800" <= c <= "\udfff" for c in v),  # surrogates: no text
     "checkpoint clip_fingerprint not_zero_shot? machine? code? command? config.train?.select? selections?.*.protocol "
     "data?.* "
     "trained_on?.train_classes trained_on?.dataset?"),
    ("a whole number from 0", lambda v: type(v) is int and 0 <= v < 2 ** 63,
     "fold folds samples config.seed class_ids.* pictures?.*.class_id best_epoch? selections?.*.epoch? "
     "trained_on?.fold? trained_on?.seed? parameters.trainable parameters.total steps? epochs?.#.epoch "
     "config.train?.epoch_samples? config.train?.batch_size? marked?.*.*"),
    ("a number from 0 to 1e12", _within(1e12), "gflops_per_image training_seconds?"),
    ("a percentage, 0 to 100", _within(100),
     "miou fb_iou per_class.* miou_std? seen_miou? hiou? pixel_accuracy? selections?.*.miou selections?.*.fb_iou "
     "selections?.*.seen_miou? selections?.*.per_class?.* pictures?.*.iou epochs?.#.miou epochs?.#.seen_miou"),
    ("a percentage or null", lambda v: v is None or _within(100)(v), "absent_name_miou? absent_empty? present_empty?"),
    ("a number from 0 to 1 or null", lambda v: v is None or _within(1)(v), "name_auc? presence_auroc?"),
    ("a list", lambda v: isinstance(v, list), "draws? trained_on?.extended?"),
    ("a mapping", lambda v: isinstance(v, dict), "changed_options?"),
)


@dataclass(frozen=True)
class Result:
    """One fold of one run. IoUs are in percent."""
    folder: Path
    dataset: str
    arch: str
    fold: int
    folds: int                 # how many the data set has
    protocol: str
    samples: int
    seed: int                  # of the training
    selection: str             # unseen, seen or last; UNTRAINED or UNKNOWN
    trained_on: str            # data.train_classes of the training, whose fold if not this one's, fine-tuned, extended
    not_zero_shot: str         # why the score is not zero-shot; "" where it is
    miou: float
    fb_iou: float
    held_out: float | None     # mIoU of seen classes on held-out images at that epoch, which only training scores
    per_class: dict[int, float]    # by class id, of the unseen classes that were met
    selections: dict[str, float]   # mIoU by each rule that is known
    options: dict              # flat, with the defaults of those that its version did not have yet
    names: dict[int, str]      # of the fold's class ids; configurations may call a class differently
    tested: bool               # whether it is this epoch that the pictures and the marked pixels are of
    pictures: dict[Path, dict]  # folders of pictures: class_id and iou; {} where another epoch than this was drawn
    steps: int | None          # of the training; None where nobody knows, as of weights that test.py was given
    raw: dict                  # all of results.json

    @property
    def images(self) -> int | None:
        """Training images that the steps had in all, each counted as often as it was drawn."""
        return None if self.steps is None else self.steps * self.options["train.batch_size"]


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

    Raises UserError that names the file and the key for a value that is missing or cannot be.
    """
    require_file(file, "train or test that fold first")
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file}: has more than {MOST_BYTES >> 20} MB, so it is no results.json; name another")
        return _result(json.loads(file.read_text(encoding="utf-8")), file, select)
    except ValueError as error:  # of UTF-8 or of JSON
        raise UserError(f"{file}: not valid JSON ({str(error)[:100]}); test that run again") from None
    except RecursionError:  # of JSON's reader, or of anything that walks through the values
        raise UserError(f"{file}: nested too deeply for a results.json; test that run again") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); change its permissions") from None


def _result(raw: dict, file: Path, select: str | None) -> Result:
    for kind, fits, keys in KINDS:
        for key in keys.split():
            _check(raw, key, kind, fits, file)
    if "training_seconds" in raw:  # train.py wrote it, which knows of more epochs than the one it tested
        for key in ("trained_on", "selections", "config.train.select"):
            _check(raw, key, "", lambda v: True, file)
    if not raw["fold"] < raw["folds"] <= MOST_FOLDS:
        raise UserError(f"{file}: fold={raw['fold']} of folds={raw['folds']} cannot be; test that run again")
    ids = raw["class_ids"]
    if len(set(ids.values())) < len(ids):
        raise UserError(f"{file}: class_ids gives two classes one number; test that run again")
    origin, rules = raw.get("trained_on", {}), raw.get("selections", {})
    selection, scores = _selected(raw, select, file)
    trained_on, reason = _training(raw)
    tested = scores is raw or scores.get("epoch") == raw.get("best_epoch")
    pictures = {file.parent / "pictures" / Path(name).name: p for name, p in raw.get("pictures", {}).items() if tested}
    options = flat(completed(raw["config"]))
    return Result(
        folder=file.parent, **{key: raw[key] for key in ("dataset", "arch", "fold", "folds", "protocol", "samples")},
        seed=origin.get("seed", raw["config"]["seed"]), selection=selection, trained_on=trained_on,
        not_zero_shot=reason, miou=scores["miou"], fb_iou=scores["fb_iou"],
        held_out=rules.get(selection, {}).get("seen_miou"),
        per_class={ids[name]: iou for name, iou in scores["per_class"].items() if name in ids},
        selections={rule: s["miou"] for rule, s in (rules or {selection: scores}).items()
                    if s["protocol"] == raw["protocol"]},
        options=options, names={c: name for name, c in ids.items()}, steps=_steps(raw, options), tested=tested,
        pictures={path: p for path, p in pictures.items() if path.is_dir()}, raw=raw)


def _check(value, key: str, kind: str, fits: Callable, file: Path, path: str = "") -> None:
    """Raise UserError unless what is in ``value`` under the dotted ``key``, as KINDS has it, is there and fits."""
    def wrong(should: str) -> UserError:
        what = f"{path}={str(value)[:60]!r}" if path else f"its {type(value).__name__}"
        return UserError(f"{file}: {what} should be {should}; test that run again")

    if not key:
        if not fits(value):
            raise wrong(kind)
        return
    name, _, rest = key.partition(".")
    if not isinstance(value, list if name == "#" else dict):
        raise wrong("a list" if name == "#" else "a mapping")
    if name == "#":
        name, value = "*", {str(place): item for place, item in enumerate(value)}
    for each in value if name == "*" else [name.removesuffix("?")]:
        inner = f"{path}.{each}".lstrip(".")
        if each in value:
            if not each.isprintable():
                raise wrong("a mapping of printable names")
            _check(value[each], rest, kind, fits, file, inner)
        elif not name.endswith("?"):
            raise UserError(f"{file}: lacks {inner}, as results of older versions do; test that run again with "
                            f"test.py, or train it again")


def _steps(raw: dict, options: dict) -> int | None:
    """As recorded; of a training by an older version from its options, where these alone decide."""
    epochs, samples = raw.get("selections", {}).get("last", {}).get("epoch"), options.get("train.epoch_samples")
    if "steps" in raw or not epochs or not samples or "training_seconds" not in raw:
        return raw.get("steps")
    return epochs * max(1, samples // (options["train.batch_size"] or 1))


def _selected(raw: dict, select: str | None, file: Path) -> tuple[str, dict]:
    """The rule that chose the epoch, and that epoch's scores."""
    if not raw["checkpoint"]:
        return UNTRAINED, raw
    if "training_seconds" in raw:
        if select is None:
            return raw["config"]["train"]["select"], raw
        _check(raw, f"selections.{select}.per_class", "", lambda v: True, file)
        scores = raw["selections"][select]
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


def _training(raw: dict) -> tuple[str, str]:
    """What it was trained on, such as ``seen`` or ``seen of coco fold 2``, and why its score is not zero-shot or ""."""
    if "trained_on" not in raw:
        return UNKNOWN if raw["checkpoint"] else UNTRAINED, raw.get("not_zero_shot", "")
    origin = raw["trained_on"]
    label, other = origin["train_classes"], []
    if origin.get("dataset", raw["dataset"]) != raw["dataset"]:
        other.append(origin["dataset"])
    if label != "all" and origin.get("fold", raw["fold"]) != raw["fold"]:
        other.append(f"fold {origin['fold']}")
    reason = raw.get("not_zero_shot", "")
    if not reason and "classes" not in origin:  # results of a version that did not say so by itself
        reason = (f"trained on {' '.join(other)}, which may show these classes' masks" if other else
                  f"trained on {TRAINED_ON['all']}" if label == "all" else "")
    planned = ", then ".join(map(str, origin.get("extended", [])))
    return (label + (f" of {' '.join(other)}" if other else "") + (", fine-tuned" if "start" in origin else "")
            + (f", planned for {planned} epochs and extended" if planned else ""), reason)

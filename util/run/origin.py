"""Provenance of tested weights: whether a score is zero-shot, and which options differ from training."""
from data.folds import Classes
from util.config import ROOT, Config, changes_numbers, differing, flat, load, to_dict
from util.options import unread

RELEASED = ROOT / "config" / "pascal" / "released.yaml"  # the options under which the released code trained
TRAINED_ON = {  # what results say of data.train_classes
    "seen": "images without any unseen class, as published",
    "ignore": "images with seen classes, unseen classes' pixels ignored",
    "all": "masks of all classes: a ceiling, not zero-shot",
}


def origin_of(cfg: Config, start: dict | None = None, versions: dict[str, str] | None = None) -> dict:
    """Describe a run's training, for checkpoints and results.

    classes: names with masks in training, as in the data set's file; start: {file, epoch, trained_on} of weights that
    it starts from; versions: of the lists with their masks, as in FoldData. A run resumed with more epochs also has
    ``extended``, the numbers of epochs it was planned for before, and one resumed with other data ``changed_data``.
    """
    known = Classes.read(cfg.data.classes)
    ids = known.seen(cfg.fold) if cfg.data.train_classes != "all" else range(1, len(known.names) + 1)
    return {**{key: getattr(cfg, key) for key in ("dataset", "arch", "fold", "seed")},
            "train_classes": cfg.data.train_classes, "classes": [known.name(c) for c in ids],
            "data": versions or {}, **({"start": start} if start else {})}


def not_zero_shot(origin: dict | None, cfg: Config) -> str:
    """Explain why scores on the unseen classes of ``cfg`` are not zero-shot (training saw their masks), or ""."""
    known = Classes.read(cfg.data.classes)
    unseen = {_letters(known.name(c)): known.name(c) for c in known.unseen(cfg.fold)}
    reasons = []
    while origin:
        trained = set(map(_letters, origin["classes"]))
        met = [name for letters, name in unseen.items() if letters in trained]
        if met:
            every = ", all classes" if origin["train_classes"] == "all" else ""
            reasons.append(f"trained on masks of {', '.join(met)} ({origin['dataset']} fold {origin['fold']}{every})")
        origin = (origin.get("start") or {}).get("trained_on")
    return "; ".join(reasons)


def changed_data(origin: dict | None, cfg: Config, versions: dict[str, str]) -> str:
    """Name the lists that, or whose masks, are others now than in a training on the same data set, or ""."""
    then = origin.get("data", {}) if origin and origin["dataset"] == cfg.dataset else {}
    changed = [{"train": "training", "val": "validation"}[part] for part, version in versions.items()
               if then.get(part, version) != version]
    return f"the {' and the '.join(changed)} list, or masks of it, are others than in training" if changed else ""


def changed_options(saved: dict, cfg: Config) -> dict[str, dict]:
    """Return {name: {"trained": value, "now": value}} of the model's options that differ from training."""
    if saved["config"] is None:  # a released checkpoint has no options; its input size is that of the file's grid
        then = {**flat(to_dict(load(Config, RELEASED))), "model.size": cfg.model.size}
    else:
        then = flat(to_dict(Config())) | flat(saved["config"])  # an option that came later was what its default is
    return {name: {"trained": trained, "now": now}
            for name, (trained, now) in differing(then, flat(to_dict(cfg))).items()
            if name.startswith(("model.", "plus.", "peers.", "data.names")) and changes_numbers(name)
            and not unread(name, cfg)}


def in_words(changed: dict[str, dict]) -> str:
    """Format ``changed_options`` as part of a line."""
    return ", ".join(f"{name} (trained with {value['trained']!r}, now {value['now']!r})"
                     for name, value in changed.items())


def _letters(name: str) -> str:
    """Reduce a name to its letters and digits, so that "tv monitor" is "tvmonitor"."""
    return "".join(filter(str.isalnum, name.lower()))

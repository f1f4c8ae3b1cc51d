"""What tested weights were trained on: whether a score is zero-shot, and whether the options are those of training."""
from data.folds import Classes
from data.samples import TRAINED_ON
from util.config import ROOT, Config, changes_numbers, completed, differing, flat, from_dict, load, to_dict
from util.runtime.errors import UserError

RELEASED = ROOT / "config" / "pascal" / "released.yaml"  # the options under which the released code trained


def origin_of(cfg: Config, start: dict | None = None) -> dict:
    """What checkpoints and results say of a run's training.

    classes: the names whose masks it trains on, as ``classes`` of the data set's file has them. start: where it does
    not start from CLIP alone, {file, epoch, carries_clip, trained_on} of the weights it starts from. A run that was
    resumed with more epochs also has ``extended``, the numbers of epochs that it was planned for before.
    """
    known = Classes.read(cfg.data.classes, cfg.data.folds)
    ids = known.seen(cfg.fold) if cfg.data.train_classes != "all" else range(1, len(known.names) + 1)
    return {**{key: getattr(cfg, key) for key in ("dataset", "arch", "fold", "seed")},
            "train_classes": cfg.data.train_classes, "classes": [known.name(c) for c in ids],
            **({"start": start} if start else {})}


def origin_of_checkpoint(saved: dict, file: str) -> dict | None:
    """What ``origin_of`` says, read from a checkpoint; None where it does not tell, as released ones do not.

    ``classes`` is None in one of an older version whose file of classes is gone.
    """
    if saved.get("config") is None:
        return None
    cfg = from_dict(Config, saved["config"], f"{file}: its options", strict=False)
    if "trained_on" in saved:
        if not _is_origin(saved["trained_on"]):
            raise UserError(f"{file}: its 'trained_on' is not what train.py saves; use another checkpoint of that run")
        return saved["trained_on"]
    try:
        return origin_of(cfg)
    except UserError:
        return {**{key: getattr(cfg, key) for key in ("dataset", "arch", "fold", "seed")},
                "train_classes": cfg.data.train_classes, "classes": None}


def _is_origin(origin) -> bool:
    """Whether it holds what ``origin_of`` gives."""
    if not _holds(origin, dataset=str, arch=str, fold=int, seed=int, train_classes=str):
        return False
    if "start" in origin:
        before = origin["start"]
        if not _holds(before, file=str, epoch=int, carries_clip=bool) or (
                before.get("trained_on") is not None and not _is_origin(before["trained_on"])):
            return False
    known = "classes" in origin and (origin["classes"] is None or _are(str, origin["classes"]))
    return known and origin["train_classes"] in TRAINED_ON and _are(int, origin.get("extended", []))


def _holds(entries, **types: type) -> bool:
    return isinstance(entries, dict) and all(type(entries.get(key)) is kind for key, kind in types.items())


def _are(kind: type, values) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def not_zero_shot(origin: dict | None, cfg: Config) -> str:
    """Why scores on the classes that the fold of ``cfg`` holds back are not zero-shot; "" where nothing says so.

    Names are compared by their letters, so that "tv monitor" is "tvmonitor".
    """
    known = Classes.read(cfg.data.classes, cfg.data.folds)
    held_back = {_letters(known.name(c)): known.name(c) for c in known.unseen(cfg.fold)}
    reasons = []
    while origin:
        where = f"{origin['dataset']} fold {origin['fold']}" + (
            ", all classes" if origin["train_classes"] == "all" else "")
        if origin.get("classes") is None:
            if (origin["dataset"], origin["fold"]) != (cfg.dataset, cfg.fold) or origin["train_classes"] == "all":
                reasons.append(f"trained on {where}, with masks of classes that its checkpoint does not name")
        else:
            trained = set(map(_letters, origin["classes"]))
            met = [name for letters, name in held_back.items() if letters in trained]
            if met:
                reasons.append(f"trained on masks of {', '.join(met)} ({where})")
        origin = (origin.get("start") or {}).get("trained_on")
    return "; ".join(reasons)


def changed_options(saved: dict, cfg: Config) -> dict[str, dict]:
    """{name: {"trained": value, "now": value}} of the options of the model that are not those of its training."""
    if saved["config"] is None:  # a released checkpoint has no options; its input size is that of the file's grid
        then = {**flat(to_dict(load(Config, RELEASED))), "model.size": cfg.model.size}
    else:
        then = flat(completed(saved["config"]))
    return {name: {"trained": trained, "now": now}
            for name, (trained, now) in differing(then, flat(to_dict(cfg))).items()
            if (name.startswith("model.") or name == "data.names") and changes_numbers(name)}


def in_words(changed: dict[str, dict]) -> str:
    """``changed_options`` as part of a line."""
    return ", ".join(f"{name} (trained with {value['trained']!r}, now {value['now']!r})"
                     for name, value in changed.items())


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))

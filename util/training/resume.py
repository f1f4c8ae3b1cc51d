"""Where training starts: a checkpoint of the same run (resume=) or weights of another (weights=)."""
import contextlib
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from util.config import Config, changes_numbers, differing, flat, from_dict, to_dict
from util.results.origin import origin_of_checkpoint
from util.run import checkpoint
from util.run.folder import folder_of
from util.run.weights import TrainedWeights
from util.runtime.errors import UserError
from util.training.loop import Progress
from util.training.optim import schedule


def find_run(cfg: Config) -> Config:
    """``cfg`` with resume=auto replaced: by the folder of the run of this name if it has a checkpoint, else by none.

    Raises UserError where the run has no name.
    """
    if cfg.resume != "auto":
        return cfg
    if not cfg.run:
        raise UserError("resume=auto: nothing says which run is meant; give it a name with run=NAME")
    folder = folder_of(cfg, cfg.run)
    return replace(cfg, resume=str(folder) if (folder / "checkpoints" / "last.pt").is_file() else "")


def read_run(cfg: Config) -> tuple[Config, dict, Path]:
    """The run that ``cfg.resume`` names: the options to go on with, its last checkpoint and that one's file.

    Raises UserError where the run was started with other options that change numbers; but it may have more epochs.
    """
    path = Path(cfg.resume)
    file = path / "checkpoints" / "last.pt" if path.is_dir() else path
    saved = checkpoint.read(file, "give resume= the folder of a run that was stopped")
    remedy = "resume= wants checkpoints/last.pt of a run"
    checkpoint.require_entries(saved, {**checkpoint.WEIGHTS, **checkpoint.STATE}, file, remedy)
    before = from_dict(Config, saved["config"], f"{file}: its options")
    if cfg.weights not in ("", before.weights):
        raise UserError(f"weights={cfg.weights} and resume={cfg.resume}: a run that is resumed goes on from its own "
                        f"weights; leave one of the two away")
    cfg = replace(cfg, weights=before.weights)
    changed = [f"{name} (then {then!r}, now {now!r})"
               for name, (then, now) in differing(flat(to_dict(before)), flat(to_dict(cfg))).items()
               if changes_numbers(name) and not (name == "train.epochs" and now > then)]
    if changed:
        raise UserError(f"{file}: the run was started with other options: {', '.join(changed)}; resume with the same "
                        f"ones (resume= without --config takes them from config.yaml in its folder), or start a new "
                        f"run")
    return cfg, saved, file


def extended(origin: dict, saved: dict, cfg: Config) -> dict:
    """``origin``, what checkpoints say of a run; where it now gets more epochs, with the number it was planned for.

    Its rate then does not follow one poly schedule, so its numbers are not those of a run that was planned for all.
    """
    epochs = from_dict(Config, saved["config"], "a checkpoint").train.epochs
    if epochs == cfg.train.epochs or not (saved["at"]["epoch"] or saved["at"]["step"]):
        return origin
    return {**origin, "extended": [*origin.get("extended", ()), epochs]}


def going_on(saved: dict, cfg: Config, at: Progress, steps: int) -> str:
    """What the log says of a run that goes on: from where, and what is other than before. steps: of an epoch."""
    before = from_dict(Config, saved["config"], "a checkpoint")
    text = f"goes on after {at.epoch} of {before.train.epochs} epochs and {at.step} of {steps} steps"
    changed = [f"{name} {now!r} (then {then!r})"
               for name, (then, now) in differing(flat(to_dict(before)), flat(to_dict(cfg))).items()
               if name not in ("resume", "run", "train.epochs")]
    if changed:
        text += f"; options that change no number: {', '.join(changed)}"
    if before.train.epochs != cfg.train.epochs:
        shares = [schedule(at.epoch * steps + at.step, epochs * steps, cfg.train)
                  for epochs in (before.train.epochs, cfg.train.epochs)]
        text += (f"; train.epochs {cfg.train.epochs} (then {before.train.epochs}): the poly schedule runs over all of "
                 f"them, and the rate goes on at {shares[1]:.3f} of the full one instead of {shares[0]:.3f}. Numbers "
                 f"are not those of a run that had {cfg.train.epochs} epochs from the start")
    return text


def started_from(weights: TrainedWeights | None) -> dict | None:
    """What checkpoints and results say of the weights that training starts from."""
    if weights is None:
        return None
    return {"file": weights.file, "epoch": weights.saved["epoch"] + 1, "carries_clip": weights.clip is not None,
            "trained_on": origin_of_checkpoint(weights.saved, weights.file)}


@contextlib.contextmanager
def understood(file: Path, entry: str):
    """Turn whatever an odd entry of a checkpoint raises into a UserError that names the entry."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{file}: its {entry} is not what train.py saves ({type(error).__name__}: {error}); resume "
                        f"from another checkpoint, or start a new run") from None


def progress_of(at: dict, steps: int, epochs: int, terms: Iterable[str]) -> Progress:
    """The entry ``at`` of a checkpoint. steps: of an epoch; terms: the names of the loss's parts.

    Raises ValueError, or what Python raises, for one that cannot be.
    """
    progress = Progress(**at)
    if not (type(progress.epoch) is type(progress.step) is int and 0 <= progress.epoch <= epochs
            and 0 <= progress.step <= steps * (progress.epoch < epochs)):
        raise ValueError(f"step {progress.step} of {steps} in epoch {progress.epoch} of {epochs}")
    needed = ("loss", *terms) if progress.step else ()
    require_numbers({**progress.sums, **{name: progress.sums[name] for name in needed}}, math.inf, -math.inf)
    return progress


def require_scores(scores: dict, epochs: int) -> None:
    """Raise ValueError, or what Python raises, unless these are the scores of one of the first ``epochs`` epochs."""
    require_numbers({**scores["per_class"], **{key: scores[key] for key in ("miou", "fb_iou", "seen_miou")}}, 100)
    if not (type(scores["epoch"]) is type(scores["samples"]) is int and 1 <= scores["epoch"] <= epochs):
        raise ValueError(f"epoch {scores['epoch']} of {epochs}, {scores['samples']} samples")
    if not isinstance(scores["protocol"], str):
        raise ValueError(f"protocol {scores['protocol']}")


def require_numbers(values: dict, most: float, least: float = 0) -> None:
    """Raise ValueError for the first value that is no finite number between ``least`` and ``most``."""
    for name, value in values.items():
        if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most:
            raise ValueError(f"{name}={value}")

"""Where training starts: a checkpoint of the same run (resume=) or weights of another (weights=)."""
import contextlib
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from util.config import Config, changes_numbers, flat, from_dict, to_dict
from util.results.origin import origin_of_checkpoint
from util.run import checkpoint
from util.run.weights import TrainedWeights
from util.runtime.errors import UserError
from util.training.loop import Progress


def read_run(cfg: Config) -> tuple[Config, dict, Path]:
    """The run that ``cfg.resume`` names: the options to go on with, its last checkpoint and that one's file.

    Raises UserError where the run was started with other options that change numbers.
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
    then, now = flat(to_dict(before)), flat(to_dict(cfg))
    changed = [f"{name} (then {then[name]!r}, now {now[name]!r})" for name in sorted(now)
               if then[name] != now[name] and changes_numbers(name)]
    if changed:
        raise UserError(f"{file}: the run was started with other options: {', '.join(changed)}; resume with the same "
                        f"ones (config.yaml in its folder has them), or start a new run")
    return cfg, saved, file


def started_from(weights: TrainedWeights | None) -> dict | None:
    """What checkpoints and results say of the weights that training starts from."""
    if weights is None:
        return None
    return {"file": weights.file, "epoch": weights.saved["epoch"] + 1, "carries_clip": weights.clip is not None,
            "trained_on": origin_of_checkpoint(weights.saved, weights.file)}


@contextlib.contextmanager
def understood(file: Path, entry: str):
    """Turns whatever an odd entry of a checkpoint raises into a UserError that names it."""
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

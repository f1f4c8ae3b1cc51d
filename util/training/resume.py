"""Resume of a run that was stopped."""
from dataclasses import replace
from pathlib import Path

from util.config import Config, changes_numbers, differing, flat, from_dict, to_dict
from util.run import checkpoint
from util.run.folder import folder_of
from util.run.origin import changed_data
from util.runtime.errors import UserError


def find_run(cfg: Config) -> Config:
    """Resolve resume=auto: the run of this name if it has a checkpoint, else none. Raises UserError without a name."""
    if cfg.resume != "auto":
        return cfg
    if not cfg.run:
        raise UserError("resume=auto: nothing says which run is meant; give it a name with run=NAME")
    folder = folder_of(cfg, cfg.run)
    return replace(cfg, resume=str(folder) if (folder / "checkpoints" / "last.pt").is_file() else "")


def read_run(cfg: Config) -> tuple[Config, dict, Path]:
    """Read options, last checkpoint and its file. Raises UserError if options changed numbers; epochs may grow."""
    path = Path(cfg.resume)
    file = path / "checkpoints" / "last.pt" if path.is_dir() else path
    saved = checkpoint.load(file)
    if "at" not in saved:
        raise UserError(f"{file}: resume= wants a run's folder or its checkpoints/last.pt")
    before = from_dict(Config, saved["config"], f"{file}: its options")
    cfg = replace(cfg, weights=cfg.weights or before.weights)
    if before.model.clip == before.weights:  # a released checkpoint, which carries its CLIP
        cfg = replace(cfg, model=replace(cfg.model, clip=before.model.clip))
    changed = [f"{name} (then {then!r}, now {now!r})" for name, (then, now) in _differing(before, cfg).items()
               if changes_numbers(name) and not (name == "train.epochs" and now > then)]
    if changed:
        raise UserError(f"{file}: the run was started with other options: {', '.join(changed)}; resume with the same "
                        f"ones (resume= without --config takes them from config.yaml in its folder), or start a new "
                        f"run")
    return cfg, saved, file


def origin_of_resumed(saved: dict, cfg: Config, versions: dict[str, str]) -> dict:
    """Note in the provenance what makes numbers differ: data changed meanwhile, and a schedule lengthened on resume, as
    it is no single poly decay."""
    origin, epochs = saved["trained_on"], saved["config"]["train"]["epochs"]
    if changed := changed_data(origin, cfg, versions):
        origin = {**origin, "changed_data": changed}
    if epochs == cfg.train.epochs or not (saved["at"]["epoch"] or saved["at"]["step"]):
        return origin
    return {**origin, "extended": [*origin.get("extended", ()), epochs]}


def going_on(saved: dict, cfg: Config, steps: int) -> str:
    """Describe for the log where a run goes on and which options changed; steps: of an epoch."""
    before, at = from_dict(Config, saved["config"], "a checkpoint"), saved["at"]
    text = f"goes on after {at['epoch']} of {before.train.epochs} epochs and {at['step']} of {steps} steps"
    changed = [f"{name} {now!r} (then {then!r})" for name, (then, now) in _differing(before, cfg).items()
               if name not in ("resume", "run", "train.epochs")]
    text += f"; options that change no number: {', '.join(changed)}" if changed else ""
    if before.train.epochs != cfg.train.epochs:
        text += (f"; train.epochs {cfg.train.epochs} (then {before.train.epochs}): numbers are not those of a run that "
                 f"had {cfg.train.epochs} epochs from the start")
    return text


def _differing(before: Config, now: Config) -> dict[str, tuple]:
    return differing(flat(to_dict(before)), flat(to_dict(now)))

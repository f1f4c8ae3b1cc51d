"""Test a checkpoint on the unseen classes of its fold, or a baseline that needs none.

    python test.py --config config/shapes/esda.yaml weights=exp/.../checkpoints/best.pt [key=value ...]

weights= also takes a released checkpoint, or a .safetensors of convert.py.
"""
import sys
from dataclasses import replace

from util.config import Config, from_command_line
from util.evaluation.experiment import Experiment
from util.evaluation.report import table, test_fold, where, write_results
from util.options import TRAINED
from util.run import checkpoint
from util.run.folder import Run
from util.run.origin import changed_data, changed_options, in_words, not_zero_shot
from util.runtime import distributed, progress
from util.runtime.errors import UserError, run_main


def main() -> None:
    cfg = from_command_line(sys.argv[1:], __doc__)
    progress.listen()
    saved = _read_weights(cfg)
    if saved and saved["clip"] is None:  # a released checkpoint carries its CLIP
        cfg = replace(cfg, model=replace(cfg.model, clip=cfg.weights))
    experiment = Experiment(cfg)
    threshold, about = None, {}
    if saved:
        checkpoint.restore(experiment.model, saved, cfg.weights, experiment.clip)
        threshold, about = saved["presence_threshold"], _about(saved, cfg, experiment.data.versions)
    run = Run.start(cfg, "-test")
    evaluation = test_fold(experiment, threshold)   # image and name -> logits -> mask at its own size -> counts -> mIoU
    results = write_results(experiment, run, evaluation, cfg.weights, about)
    run.log(table(results))
    run.log(where(run))
    run.close()
    distributed.close()


def _read_weights(cfg: Config) -> dict | None:
    """Load the checkpoint to test; None for a training-free baseline. Raises UserError for options of training."""
    for key in ("resume", "dry_run"):
        if getattr(cfg, key):
            raise UserError(f"{key}={getattr(cfg, key)} is for train.py; leave it away")
    if cfg.model.kind in TRAINED:
        return checkpoint.load(cfg.weights or "weights=")
    if cfg.weights:
        raise UserError(f"model.kind={cfg.model.kind} has no weights of its own; leave weights= away")
    return None


def _about(saved: dict, cfg: Config, versions: dict[str, str]) -> dict:
    """Describe the tested weights for results; rank 0 warns on stderr of what is not zero-shot or changed."""
    origin, changed = saved["trained_on"], changed_options(saved, cfg)
    reason, data = not_zero_shot(origin, cfg), changed_data(origin, cfg, versions)
    if not distributed.rank():
        if reason:
            print(f"note: {cfg.weights}: not zero-shot on {cfg.dataset} fold {cfg.fold}: {reason}", file=sys.stderr)
        if data:
            print(f"note: {cfg.weights}: {data}", file=sys.stderr)
        if changed:
            hint = "" if origin else f"; config/{cfg.dataset}/released.yaml has the options of the released code"
            print(f"note: {cfg.weights}: tested with other options than trained with: {in_words(changed)}{hint}",
                  file=sys.stderr)
    return {"epoch": saved["epoch"] + 1, **({"trained_on": origin} if origin else {}),
            **({"not_zero_shot": reason} if reason else {}), **({"changed_options": changed} if changed else {}),
            **({"changed_data": data} if data else {})}


if __name__ == "__main__":
    run_main(main)

"""The test of a checkpoint, or of a baseline that needs none: what test.py does from the options to the results."""
import sys

from model.build import TRAINED
from util.config import Config
from util.evaluation.experiment import Experiment
from util.results.final import final_test, table, where
from util.results.origin import changed_options, in_words, not_zero_shot, origin_of_checkpoint
from util.run import checkpoint
from util.run.folder import Run
from util.run.trained import threshold_in
from util.run.weights import TrainedWeights, read_weights
from util.runtime.errors import UserError


def test(cfg: Config) -> None:
    """Test ``cfg.weights`` on the classes that the fold holds back, and write the results into a new run's folder."""
    if cfg.resume:
        raise UserError(f"resume={cfg.resume} is for train.py; name the checkpoint to test with weights=")
    if cfg.dry_run:
        raise UserError("dry_run=true is for train.py; leave it away")
    weights = _weights(cfg)
    experiment = Experiment(cfg, weights and weights.clip)
    threshold, about = None, {}
    if weights:
        checkpoint.restore(experiment.model, weights.saved, weights.file, experiment.clip)
        threshold, about = threshold_in(weights.saved), _about(weights, cfg, experiment.processes.rank)
    run = Run.start(cfg, "-test", experiment.processes)
    results = final_test(experiment, run, cfg.weights, threshold, about)
    run.log(table(results))
    run.log(where(run))
    run.close()
    experiment.processes.close()


def _weights(cfg: Config) -> TrainedWeights | None:
    """The checkpoint to test; None for a baseline, which has none."""
    if cfg.model.kind not in TRAINED:
        if cfg.weights:
            raise UserError(f"model.kind={cfg.model.kind} has no weights of its own; leave weights= away")
        return None
    return read_weights(cfg.weights or "weights=", "weights= names the checkpoint to test")


def _about(weights: TrainedWeights, cfg: Config, rank: int) -> dict:
    """What results say of the tested weights. Rank 0 tells stderr what a reader must know of them."""
    origin, changed = origin_of_checkpoint(weights.saved, weights.file), changed_options(weights.saved, cfg)
    reason = not_zero_shot(origin, cfg)
    if not rank:
        if weights.full:
            print(f"{weights.file}: {weights.full.summary(cfg.model.size)}")
        if reason:
            print(f"note: {weights.file}: not zero-shot on {cfg.dataset} fold {cfg.fold}: {reason}", file=sys.stderr)
        if changed:
            hint = "" if origin else f"; config/{cfg.dataset}/released.yaml has the options of the released code"
            print(f"note: {weights.file}: tested with other options than trained with: {in_words(changed)}{hint}",
                  file=sys.stderr)
    return {"epoch": weights.saved["epoch"] + 1, **({"trained_on": origin} if origin else {}),
            **({"not_zero_shot": reason} if reason else {}), **({"changed_options": changed} if changed else {})}

"""The test of a checkpoint, or of a baseline that needs none: what test.py does from the options to the results."""
import sys

from data.fold import FoldData
from model.build import TRAINED, build_model, embed_classes
from model.clip.weights import read_clip
from util.config import Config
from util.results.final import final_test, table, where
from util.results.origin import changed_options, in_words, not_zero_shot, origin_of_checkpoint
from util.run import checkpoint
from util.run.folder import Run
from util.run.weights import TrainedWeights, read_weights
from util.runtime.device import autocast, make_deterministic, pick_device, place, set_tf32
from util.runtime.errors import UserError
from util.runtime.processes import Processes


def test(cfg: Config) -> None:
    """Test ``cfg.weights`` on the classes that the fold holds back, and write the results into a new run's folder."""
    if cfg.resume:
        raise UserError(f"resume={cfg.resume} is for train.py; name the checkpoint to test with weights=")
    if cfg.dry_run:
        raise UserError("dry_run=true is for train.py; leave it away")
    device = pick_device(cfg.device)
    make_deterministic(cfg.seed)
    set_tf32(device, cfg.precision)
    processes = Processes.join(device)  # usually this one alone
    weights = _weights(cfg)
    clip = weights and weights.clip or read_clip(cfg.model.clip)  # before images are counted, which takes minutes
    clip = clip.with_activation(cfg.model.activation, cfg.model.clip)
    about = _about(weights, cfg, processes) if weights else {}
    with processes.one_first():  # rank 0 counts the masks' pixels, the others read what it found
        data = FoldData(cfg, processes)
    model, clip = build_model(cfg.model, clip)
    if weights:
        checkpoint.restore(model, weights.saved, weights.file, clip.fingerprint)
    text = embed_classes(model, data.classes.names, data.seen, cfg.model).to(device)
    run = Run.start(cfg, "-test", processes)
    results = final_test(place(model, cfg, device), text, data, cfg, run, device, autocast(device, cfg.precision),
                         cfg.weights, clip.fingerprint, weights.saved.get("presence_threshold") if weights else None,
                         about)
    run.log(table(results))
    run.log(where(run))
    run.close()
    processes.close()


def _weights(cfg: Config) -> TrainedWeights | None:
    """The checkpoint to test; None for a baseline, which has none."""
    if cfg.model.kind not in TRAINED:
        if cfg.weights:
            raise UserError(f"model.kind={cfg.model.kind} has no weights of its own; leave weights= away")
        return None
    return read_weights(cfg.weights or "weights=", "weights= names the checkpoint to test")


def _about(weights: TrainedWeights, cfg: Config, processes: Processes) -> dict:
    """What results say of the tested weights. What a reader must know of them goes to stderr, too."""
    origin, changed = origin_of_checkpoint(weights.saved, weights.file), changed_options(weights.saved, cfg)
    reason = not_zero_shot(origin, cfg)
    if not processes.rank:
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

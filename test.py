"""Test a checkpoint on the unseen classes of its fold, or a baseline that needs none.

    python test.py --config config/shapes/esda.yaml weights=exp/.../checkpoints/best.pt [key=value ...]
"""
import sys

from model.build import build_model, embed_names
from model.clip_weights import WeightsError
from util import checkpoint
from util.config import Config, from_command_line
from util.device import autocast, make_deterministic, pick_device
from util.errors import UserError, run_main
from util.fold_data import FoldData
from util.report import final_test, table
from util.run import Run


def load_weights(model, cfg: Config, clip: str) -> dict:
    """Put the checkpoint of ``cfg.weights`` into ``model``; returns what results should say of it."""
    if cfg.model.kind != "esda":
        if cfg.weights:
            raise UserError(f"model.kind={cfg.model.kind} has no weights of its own; leave weights= away")
        return {}
    saved = checkpoint.read(cfg.weights or "weights=", "weights= names the checkpoint to test")
    if not {"model", "clip", "config", "epoch"} <= saved.keys():
        raise UserError(f"{cfg.weights}: not a checkpoint of train.py; weights= wants checkpoints/best.pt of a run")
    checkpoint.restore(model, saved, cfg.weights, clip)
    trained = saved["config"]
    if (trained["dataset"], trained["fold"]) != (cfg.dataset, cfg.fold):
        print(f"note: these weights were trained on {trained['dataset']} fold {trained['fold']}, where other classes "
              f"are unseen than on {cfg.dataset} fold {cfg.fold}", file=sys.stderr)
    return {"trained_on": {key: trained[key] for key in ("dataset", "arch", "fold", "seed")}, "epoch": saved["epoch"] + 1}


def main() -> int:
    cfg = from_command_line(sys.argv[1:])
    device = pick_device(cfg.device)
    make_deterministic(cfg.seed)
    data = FoldData(cfg)
    model, clip = build_model(cfg.model)
    extra = load_weights(model, cfg, clip.fingerprint)
    text = embed_names(model.text_encoder, data.classes.names, cfg.model.prompt, cfg.model.same_word).to(device)
    run = Run.start(cfg, suffix="-test")
    results = final_test(model.to(device), text, data, cfg, run, device, autocast(device, cfg.precision), cfg.weights,
                         clip.fingerprint, extra)
    run.log(table(results))
    run.log(f"pictures   {run.folder}/pictures/unseen.png\nresults    {run.folder}/results.json")
    run.close()
    return 0


if __name__ == "__main__":
    run_main(main, WeightsError)

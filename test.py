"""Test a checkpoint on the unseen classes of its fold, or a baseline that needs none.

    python test.py --config config/shapes/esda.yaml weights=exp/.../checkpoints/best.pt [key=value ...]

weights= also takes a checkpoint that carries CLIP along: a released one, or a .safetensors of convert.py.
"""
import sys

import torch

from data.fold import FoldData
from model.build import build_model, embed_names
from model.clip.weights import ClipWeights, WeightsError
from model.whole import whole_of
from util.config import Config, from_command_line
from util.results.final import final_test, table, trained_on, where
from util.run import checkpoint
from util.run.folder import Run
from util.runtime.device import autocast, computes_in_bf16, make_deterministic, pick_device, require_compiler, set_tf32
from util.runtime.errors import UserError, run_main
from util.runtime.processes import Processes


def read_weights(cfg: Config) -> tuple[dict, ClipWeights | None]:
    """The checkpoint of ``cfg.weights`` and, where that carries CLIP too, CLIP (model/whole.py)."""
    if cfg.model.kind != "esda":
        if cfg.weights:
            raise UserError(f"model.kind={cfg.model.kind} has no weights of its own; leave weights= away")
        return {}, None
    saved = checkpoint.read(cfg.weights or "weights=", "weights= names the checkpoint to test")
    whole = whole_of(saved, cfg.weights)
    if whole is not None:
        print(f"{cfg.weights}: {whole.summary(cfg.model.size)}")
        if whole.config is None and cfg.model.token_order != "released":
            print(f"note: what the released code trained wants config/{cfg.dataset}/released.yaml", file=sys.stderr)
        return whole.saved, whole.clip
    if not {"model", "clip", "config", "epoch"} <= saved.keys():
        raise UserError(f"{cfg.weights}: not a checkpoint of train.py; weights= wants checkpoints/best.pt of a run, or "
                        f"a released checkpoint")
    return saved, None


def load_weights(model, saved: dict, cfg: Config, clip: str) -> dict:
    """Put a checkpoint into ``model``; returns what results should say of it."""
    if not saved:
        return {}
    checkpoint.restore(model, saved, cfg.weights, clip)
    trained = saved["config"]
    if trained is None:  # a released checkpoint does not say on what
        return {"epoch": saved["epoch"] + 1}
    if (trained["dataset"], trained["fold"]) != (cfg.dataset, cfg.fold):
        print(f"note: these weights were trained on {trained['dataset']} fold {trained['fold']}, where other classes "
              f"are unseen than on {cfg.dataset} fold {cfg.fold}", file=sys.stderr)
    return {"trained_on": trained_on(trained), "epoch": saved["epoch"] + 1}


def main() -> int:
    cfg = from_command_line(sys.argv[1:])
    device = pick_device(cfg.device)
    make_deterministic(cfg.seed)
    set_tf32(device, cfg.precision)
    processes = Processes.join(device)  # usually this one alone
    with processes.one_first():  # who counts the masks' pixels where that has not been done yet
        data = FoldData(cfg, processes)
    saved, carried = read_weights(cfg)
    model, clip = build_model(cfg.model, carried)
    extra = load_weights(model, saved, cfg, clip.fingerprint)
    text = embed_names(model.text_encoder, data.classes.names, cfg.model).to(device)
    if cfg.model.kind == "esda" and computes_in_bf16(device, cfg.precision):
        model.hold_frozen(torch.bfloat16)
    if cfg.model.kind == "esda" and cfg.compile:
        require_compiler()
        model.compile_blocks()
    run = Run.start(cfg, "-test", processes)
    results = final_test(model.to(device), text, data, cfg, run, device, autocast(device, cfg.precision), cfg.weights,
                         clip.fingerprint, extra)
    run.log(table(results))
    run.log(where(run))
    run.close()
    processes.close()
    return 0


if __name__ == "__main__":
    run_main(main, WeightsError)

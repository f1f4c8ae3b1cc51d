"""The final test of a model: scores, the name check, the sheet of pictures, results.json, and the table on screen."""
import shlex
import sys
from collections.abc import Iterable, Iterator

from util.config import Config, to_dict
from util.device import describe
from util.evaluate import Prediction, absent_names, evaluate, predict
from util.fold_data import FoldData
from util.run import Run, code_version
from util.samples import Sample, spread
from util.visualize import panel, png, sheet


def watch(predictions: Iterable[Prediction], chosen: list[Sample], kept: dict[Sample, Prediction]) -> Iterator[Prediction]:
    """Pass predictions on, keeping those of the chosen samples."""
    wanted = set(chosen)
    for p in predictions:
        if p.sample in wanted:
            kept[p.sample] = p
        yield p


def final_test(model, text, data: FoldData, cfg: Config, run: Run, device, autocast, checkpoint: str, clip: str,
               extra: dict) -> dict:
    """Test on the unseen classes and write results.json and pictures/unseen.png.

    checkpoint: path of the tested weights ("" for none); clip: fingerprint of CLIP's weights; extra: further entries.
    """
    samples = data.unseen_samples()
    chosen, kept = spread(samples, cfg.eval.pictures), {}
    stream = predict(model, text, data.loader(samples), device, autocast, f"test fold {cfg.fold}")
    scores = evaluate(watch(stream, chosen, kept), data.unseen, data.classes, cfg.eval.protocol, cfg.eval.name_check)
    if cfg.eval.name_check:
        asked = absent_names(samples, data.index.pixels, data.unseen, cfg.eval.seed)
        stream = predict(model, text, data.loader(list(asked)), device, autocast, "under absent names", asked)
        absent = evaluate(stream, data.unseen, data.classes, cfg.eval.protocol)
        scores["absent_name_miou"], scores["absent_name_samples"] = absent["miou"], absent["samples"]
    results = {
        "dataset": cfg.dataset, "arch": cfg.arch, "fold": cfg.fold, **scores, "checkpoint": checkpoint, **extra,
        "clip_fingerprint": clip, "code": code_version(), "command": shlex.join(["python", *sys.argv]),
        "machine": describe(device, cfg.precision), "config": to_dict(cfg),
    }
    run.write_json("results.json", results)
    if kept:
        run.write("pictures/unseen.png", png(sheet(panel(p, data.classes) for p in kept.values())))
    return results


def table(results: dict) -> str:
    """Scores of one fold as lines for a terminal."""
    lines = [f"{results['dataset']} fold {results['fold']}, {results['arch']}: unseen classes, "
             f"{results['protocol']} protocol, {results['samples']} samples"]
    lines += [f"  {name:<16} IoU {iou:5.1f}" for name, iou in results["per_class"].items()]
    lines.append(f"  {'mIoU':<16}     {results['miou']:5.1f}      FB-IoU {results['fb_iou']:.1f}")
    if results.get("name_auc") is not None:
        lines.append(f"  the name decides: AUC {results['name_auc']:.3f} against the other objects; mIoU under the name "
                     f"of an absent class {results['absent_name_miou']:.1f}")
    return "\n".join(lines)

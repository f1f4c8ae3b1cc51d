"""The final test of a model: scores, the name check, the sheet of pictures, results.json, and the table on screen."""
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader

from data.fold import FoldData
from data.samples import TRAINED_ON, Sample, distinct, spread
from model.build import TRAINED
from util.config import to_dict
from util.evaluation.evaluate import Evaluation, absent_classes, evaluate
from util.evaluation.experiment import Experiment
from util.evaluation.generalised import Labeller, evaluate_generalised
from util.evaluation.predict import Predictor
from util.evaluation.presence import presence_scores
from util.evaluation.views import Views
from util.results import cost
from util.results.origin import in_words
from util.results.pictures import extremes, panel, pictures_of
from util.run.folder import Run, code_version
from util.runtime.device import describe
from util.runtime.errors import UserError
from util.runtime.png import encode_png, sheet

EXTREMES = 3  # samples of each kind on pictures/extremes.png


def final_test(experiment: Experiment, run: Run, checkpoint: str, threshold: float | None, extra: dict) -> dict:
    """Test on the unseen classes; write results.json, pictures/SAMPLE/*.png and the sheet of them, pictures/unseen.png.
    The best, median and worst samples are on pictures/extremes.png.

    checkpoint: path of the tested weights ("" for none); threshold: of presence, kept in the checkpoint; None: not
    known. extra: further entries.
    """
    cfg, data = experiment.cfg, experiment.data
    if cfg.eval.protocol == "generalised":
        scores, kept, found = _test_generalised(experiment)
    else:
        scores, kept, found = _test_names(experiment, threshold)
    ious = {result.sample: result.counts.iou for result in found}
    chosen = extremes(ious, EXTREMES)
    results = {
        "dataset": cfg.dataset, "arch": cfg.arch, "fold": cfg.fold, "folds": len(data.classes.folds), **scores,
        "class_ids": {data.classes.name(c): c for c in data.unseen}, "checkpoint": checkpoint, **extra,
        "parameters": cost.parameters(experiment.model),
        "gflops_per_image": round(cost.gflops_per_image(experiment), 4),
        "clip_fingerprint": experiment.clip, "data": data.versions, "code": code_version(),
        "command": shlex.join(["python", *sys.argv]),
        "machine": describe(experiment.device, cfg.precision, experiment.processes.count), "config": to_dict(cfg),
        "extremes": {kind: {_name(sample, data): 100 * ious[sample] for sample in samples}
                     for kind, samples in chosen.items()},
        "pictures": {_name(sample, data): {"class_id": sample.class_id, "iou": 100 * p.counts.iou}
                     for sample, p in kept.items()},
    }
    run.write_json("results.json", results)
    for folder, p in zip(results["pictures"], kept.values()):
        for name, picture in pictures_of(p).items():
            run.write(f"pictures/{folder}/{name}.png", encode_png(picture))
    if kept:
        run.write("pictures/unseen.png", encode_png(sheet([panel(p, data.classes) for p in kept.values()])))
    if ious:
        _draw_extremes(experiment, chosen, run)
    return results


def _draw_extremes(experiment: Experiment, chosen: dict[str, list[Sample]], run: Run) -> None:
    """pictures/extremes.png: a column a kind. These samples are predicted again; all of them at once fit no memory."""
    data, samples = experiment.data, distinct(list(chosen.values()))
    predict, load = _looks(experiment)
    kept = evaluate(predict, load(samples), data.unseen, data.classes, data.sample_protocol,
                    label="best, median and worst", keep=samples, processes=data.processes).kept
    cells = [panel(kept[sample], data.classes, ("truth", "prediction"), f"{kind}: ")
             for row in zip(*chosen.values()) for kind, sample in zip(chosen, row)]
    run.write("pictures/extremes.png", encode_png(sheet(cells, len(chosen))))


def _name(sample: Sample, data: FoldData) -> str:
    """A sample's name, the same under every config. It holds the list's line: two masks may have one file name."""
    return f"{sample.row:05d}-{Path(data.index.pairs[sample.row][1]).stem}-{sample.class_id}"


def _looks(experiment: Experiment) -> tuple[Predictor, Callable[[list[Sample]], DataLoader]]:
    """What predicts with the config's views of an image, and what loads samples for it."""
    cfg, data = experiment.cfg.eval, experiment.data
    views = Views(cfg.flip, tuple(cfg.scales), cfg.zoom, cfg.refine)
    return experiment.predictor(views=views, fill=data.fill), partial(data.loader, originals=views != Views())


def _test_names(experiment: Experiment, threshold: float | None) -> Evaluation:
    """One name an image: episodic, exhaustive or a manifest. The predictions that are kept are those to draw."""
    cfg, data = experiment.cfg, experiment.data
    predict, load = _looks(experiment)
    draws = data.draws()
    samples = distinct(draws)
    test = partial(evaluate, class_ids=data.unseen, classes=data.classes, protocol=data.sample_protocol,
                   processes=data.processes)
    named = test(predict, load(samples), label=f"test fold {cfg.fold}", draws=draws,
                 name_auc=cfg.eval.name_check, marked=True, keep=spread(samples, cfg.eval.pictures))
    if cfg.eval.name_check:
        queried = absent_classes(samples, data.index.pixels, data.unseen, cfg.eval.seed)
        absent, _, results = test(replace(predict, queried_class=queried), load(list(queried)),
                                  label="under absent names")
        named.scores.update(
            absent_name_miou=absent["miou"] if queried else None,  # no class of the fold may be absent anywhere
            absent_name_samples=absent["samples"],
            **presence_scores([r for r in named.results if r.sample in queried], results, threshold))
    return named


def _test_generalised(experiment: Experiment) -> Evaluation:
    """Generalised: all names in every image. There are no predictions of single names to draw."""
    cfg, data = experiment.cfg, experiment.data
    if cfg.model.kind not in TRAINED:
        raise UserError(f"eval.protocol=generalised is for model.kind={' and '.join(TRAINED)}; {cfg.model.kind} has no "
                        f"evidence of names to compare")
    label_images = Labeller(experiment.model, experiment.text, data.fit, experiment.device, experiment.autocast,
                            cfg.eval.presence, cfg.eval.chunk)
    scores = evaluate_generalised(label_images, data.loader(data.every_image()), data.seen, data.unseen, data.classes,
                                  label=f"generalised test, fold {cfg.fold}", processes=data.processes)
    return Evaluation({**scores, "presence": cfg.eval.presence}, {}, [])


def where(run: Run) -> str:
    """Lines that say where pictures, if the protocol draws any, and results are."""
    picture = run.folder / "pictures" / "unseen.png"
    return (f"pictures   {picture}\n" if picture.is_file() else "") + f"results    {run.folder}/results.json"


def table(results: dict) -> str:
    """Scores of one fold as lines for a terminal."""
    trained, mark = ("the fold's", " (not zero-shot)") if "not_zero_shot" in results else ("unseen", "")
    what = "all classes" if "hiou" in results else f"{trained} classes"
    lines = [f"{results['dataset']} fold {results['fold']}, {results['arch']}: {what}, {results['protocol']} protocol, "
             f"{results['samples']} samples"]
    lines += [f"  {name:<16} IoU {iou:5.1f}" for name, iou in results["per_class"].items()]
    spread_of = f" ({results['miou_std']:.1f} over {len(results['draws'])} draws)" if "draws" in results else ""
    lines.append(f"  {'mIoU':<16}     {results['miou']:5.1f}{mark}{spread_of}      FB-IoU {results['fb_iou']:.1f}")
    if "hiou" in results:
        lines[-1] = (f"  {trained} mIoU (U) {results['miou']:.1f}{mark}   seen mIoU (S) {results['seen_miou']:.1f}   "
                     f"hIoU {results['hiou']:.1f}   pixel accuracy {results['pixel_accuracy']:.1f}   background IoU "
                     f"{results['background_iou']:.1f}")
    if "not_zero_shot" in results:
        lines.append(f"  NOT ZERO-SHOT: {results['not_zero_shot']}")
    elif "trained_on" in results:
        lines.append(f"  trained on {TRAINED_ON[results['trained_on']['train_classes']]}")
    elif results["checkpoint"]:
        lines.append("  trained on: the checkpoint does not say")
    if start := results.get("trained_on", {}).get("start"):
        unknown = "" if start["trained_on"] else ", which does not say what it was trained on"
        lines.append(f"  started from {start['file']}{unknown}")
    if "changed_options" in results:
        lines.append(f"  tested with other options than trained with: {in_words(results['changed_options'])}")
    if results.get("name_auc") is not None:
        absent = results["absent_name_miou"]
        lines.append(f"  the name decides: AUC {results['name_auc']:.3f} against the other objects"
                     + (f"; mIoU under the name of an absent class {absent:.1f}" if absent is not None else ""))
    if results.get("presence_auroc") is not None:
        lines.append(f"  is it there at all: AUROC {results['presence_auroc']:.3f}; empty masks for "
                     f"{results['absent_empty']:.1f} % of absent and {results['present_empty']:.1f} % of present names"
                     + (" (no threshold known)" if results["presence_threshold"] is None else ""))
    return "\n".join(lines)

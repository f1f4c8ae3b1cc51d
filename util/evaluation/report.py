"""Final test of a fold: scores, name check, results.json, pictures, and the table on screen."""
import shlex
import sys
from dataclasses import replace
from functools import partial

from data.samples import Sample, distinct, spread
from util.config import to_dict
from util.evaluation import cost
from util.evaluation.augmented import Augmentation
from util.evaluation.evaluate import Evaluation, absent_classes, evaluate
from util.evaluation.experiment import Experiment
from util.evaluation.generalised import Labeller, evaluate_generalised
from util.evaluation.pictures import extremes, panel
from util.evaluation.presence import presence_scores
from util.options import TRAINED
from util.run.folder import Run, code_version
from util.run.origin import TRAINED_ON, in_words
from util.runtime.device import describe
from util.runtime.errors import UserError
from util.runtime.png import encode_png, sheet

VERSION = 1     # of results.json
SHOWN = 12      # samples on the sheet of pictures, evenly spaced over the test list
EXTREMES = 3    # samples of each kind on pictures/extremes.png


def test_fold(experiment: Experiment, threshold: float | None) -> Evaluation:
    """Score the model on the fold's unseen classes by the config's protocol; threshold: of presence or None."""
    return (_test_generalised if experiment.cfg.eval.protocol == "generalised" else _test_names)(experiment, threshold)


def _test_names(experiment: Experiment, threshold: float | None) -> Evaluation:
    """Evaluate one name an image (episodic, exhaustive or manifest); kept are the predictions to show."""
    cfg, data = experiment.cfg, experiment.data
    predict, load = _augmented(experiment)
    draws = data.draws()
    samples = distinct(draws)
    test = partial(evaluate, class_ids=data.unseen, classes=data.classes, protocol=data.sample_protocol)
    named = test(predict, load(samples), label=f"test fold {cfg.fold}", draws=draws,
                 name_auc=cfg.eval.name_check, keep=spread(samples, SHOWN))
    if cfg.eval.name_check:
        queried = absent_classes(samples, data.index.pixels, data.unseen, cfg.eval.seed)
        absent, _, results = test(replace(predict, queried_class=queried), load(list(queried)),
                                  label="under absent names")
        named.scores.update(
            absent_name_miou=absent["miou"] if queried else None,  # no class of the fold may be absent anywhere
            absent_name_samples=absent["samples"],
            **presence_scores([r for r in named.results if r.sample in queried], results, threshold))
    return named


def _augmented(experiment: Experiment):
    """Build the predictor with the config's test-time augmentation, and the loader for it."""
    cfg, data = experiment.cfg.eval, experiment.data
    augmentation = Augmentation(cfg.flip, cfg.refine)
    return (experiment.predictor(augmentation=augmentation, fill=data.fill),
            partial(data.loader, originals=any(augmentation)))


def _test_generalised(experiment: Experiment, threshold: float | None) -> Evaluation:
    """Evaluate all names in every image, one label a pixel. Raises UserError for a training-free model."""
    cfg, data = experiment.cfg, experiment.data
    if cfg.model.kind not in TRAINED:
        raise UserError(f"eval.protocol=generalised is for model.kind={' and '.join(TRAINED)}; the margins of "
                        f"{cfg.model.kind} cannot be compared between names")
    label_images = Labeller(experiment.model, experiment.text, data.fit, experiment.device, experiment.autocast,
                            threshold)
    scores = evaluate_generalised(label_images, data.loader(data.every_image()), data.seen, data.unseen, data.classes,
                                  label=f"generalised test, fold {cfg.fold}")
    return Evaluation(scores, {}, [])


def write_results(experiment: Experiment, run: Run, evaluation: Evaluation, checkpoint: str, extra: dict) -> dict:
    """Write results.json, which it returns, and pictures; checkpoint: "" for none; extra: further entries."""
    cfg, data, kept = experiment.cfg, experiment.data, evaluation.kept
    results = {
        "version": VERSION, "dataset": cfg.dataset, "arch": cfg.arch, "fold": cfg.fold,
        "folds": len(data.classes.folds), **evaluation.scores,
        "class_ids": {data.classes.name(c): c for c in data.unseen}, "checkpoint": checkpoint, **extra,
        "parameters": cost.parameters(experiment.model),
        "gflops_per_image": round(cost.gflops_per_image(experiment), 4),
        "clip_fingerprint": experiment.clip, "data": data.versions, "code": code_version(),
        "command": shlex.join(["python", *sys.argv]),
        "machine": describe(experiment.device, cfg.precision), "config": to_dict(cfg)}
    run.write_json("results.json", results)
    if kept:
        run.write("pictures/unseen.png", encode_png(sheet([panel(p, data.classes) for p in kept.values()])))
        _show_extremes(experiment, run, {result.sample: result.counts.iou for result in evaluation.results})
    return results


def _show_extremes(experiment: Experiment, run: Run, ious: dict[Sample, float]) -> None:
    """Draw pictures/extremes.png, a column a kind; its samples are predicted again, as all fit no memory."""
    chosen = extremes(ious, EXTREMES)
    data, samples = experiment.data, distinct(list(chosen.values()))
    predict, load = _augmented(experiment)
    kept = evaluate(predict, load(samples), data.unseen, data.classes, data.sample_protocol,
                    label="best, median and worst", keep=samples).kept
    cells = [panel(kept[sample], data.classes, ("truth", "prediction"), f"{kind}: ")
             for row in zip(*chosen.values()) for kind, sample in zip(chosen, row)]
    run.write("pictures/extremes.png", encode_png(sheet(cells, len(chosen))))


def where(run: Run) -> str:
    """Name pictures, if the protocol draws any, and results, a line each."""
    picture = run.folder / "pictures" / "unseen.png"
    return (f"pictures   {picture}\n" if picture.is_file() else "") + f"results    {run.folder}/results.json"


def table(results: dict) -> str:
    """Format the scores of one fold for a terminal."""
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
    if len(sizes := results.get("by_size", [])) > 1:
        lines.append("  mIoU by the size of what is asked for: "
                     + ", ".join(f"{part['miou']:.1f} up to {part['largest']} px" for part in sizes))
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
    if changed := results.get("changed_data") or results.get("trained_on", {}).get("changed_data"):
        lines.append(f"  {changed}")
    if results.get("name_auc") is not None:
        absent = results["absent_name_miou"]
        lines.append(f"  the name decides: AUC {results['name_auc']:.3f} against the other objects"
                     + (f"; mIoU under the name of an absent class {absent:.1f}" if absent is not None else ""))
    if results.get("presence_auroc") is not None:
        lines.append(f"  is it there at all: AUROC {results['presence_auroc']:.3f}; empty masks for "
                     f"{results['absent_empty']:.1f} % of absent and {results['present_empty']:.1f} % of present names"
                     + (" (no threshold known)" if results["presence_threshold"] is None else ""))
    return "\n".join(lines)

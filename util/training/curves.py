"""What TensorBoard shows of a run: the curves' names, their layout, and options beside the final scores.

TensorBoard sorts by name: ``mIoU_unseen`` has one of its own, without a slash, so that it comes first.
"""
from tensorboardX import summary

from util.config import Config, flat, to_dict

LAYOUT = summary.custom_scalars({  # {category: {chart: (kind, names or patterns of curves)}}, of the tab of that name
    "scores": {"mIoU of unseen and of seen classes": ("Multiline", ["mIoU_unseen", "seen/mIoU"]),
               "IoU of each unseen class": ("Multiline", ["unseen_IoU/.*"])},
    "training": {"losses": ("Multiline", ["train/loss.*"]), "learning rate": ("Multiline", ["train/lr"])}})
OPTIONS = ("dataset", "arch", "fold", "seed", "precision", "model.kind", "model.size", "train.epochs",
           "train.epoch_samples", "train.batch_size", "train.optimizer", "train.lr")  # of the tab "hparams"


def epoch_scores(unseen: dict, seen: dict) -> dict[str, float]:
    """{name: value} of an epoch's scores in percent."""
    return {"mIoU_unseen": unseen["miou"], "seen/mIoU": seen["miou"], "unseen/FB-IoU": unseen["fb_iou"],
            **{f"unseen_IoU/{name}": iou for name, iou in unseen["per_class"].items()}}


def final_scores(results: dict) -> dict[str, float]:
    """{name: value} of the final test's scores that it has."""
    return {f"test/{name}": results[key] for name, key in (
        ("mIoU", "miou"), ("FB-IoU", "fb_iou"), ("hIoU", "hiou"), ("name_AUC", "name_auc"))
        if results.get(key) is not None}


def hyperparameters(cfg: Config, results: dict) -> tuple:
    """Summaries of the tab "hparams". They lie in the run's own events, without a folder of their own.

    TensorBoard takes the columns from the first run that it finds, so they are the same few for all; util.compare tells
    every option in which runs differ.
    """
    values = flat(to_dict(cfg))
    return summary.hparams({name: values[name] for name in OPTIONS}, final_scores(results))

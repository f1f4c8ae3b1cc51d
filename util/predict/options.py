"""The options that a model is built with where a user names a checkpoint or a model and no config."""
from pathlib import Path

from util.config import ROOT, Config, from_dict, load, to_dict
from util.results.origin import RELEASED
from util.run.weights import TrainedWeights


def options_of(read: TrainedWeights | None, model: str | None, clip: str | Path | None, size: int | None, device: str,
               precision: str | None) -> Config:
    """Those of the checkpoint's run, or the defaults for ``model``, which needs no training, where ``read`` is None.

    The other arguments are as those of Segmenter.load. Raises UserError for values that are none.
    """
    if read is None:
        values = to_dict(Config())
        values["model"]["kind"], values["eval"]["fit"] = model, "cut"
    elif read.saved["config"] is None:  # a released checkpoint has none
        values = to_dict(load(Config, RELEASED))
    else:
        values = to_dict(from_dict(Config, read.saved["config"], f"{read.file}: its options", strict=False))
    values |= {"device": device, "compile": False, "precision": precision or values["precision"]}
    values["model"]["clip"] = str(clip or _from_root(values["model"]["clip"]))
    values["model"]["size"] = values["model"]["size"] if size is None else size
    values["data"]["classes"] = _from_root(values["data"]["classes"])
    return from_dict(Config, values, "what was asked for")


def _from_root(path: str) -> str:
    """A path of a config, which is written as seen from the project's own folder."""
    return path if Path(path).exists() else str(ROOT / path)

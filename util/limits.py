"""Values of the right type that can still not work: each ends the run before it starts, with the bounds."""
import math
import string

from util.runtime.errors import UserError

LIMITS = {  # option: (least, most); None: no bound
    "seed": (0, 2**63 - 1), "data.min_pixels": (1, None), "data.workers": (0, None),
    "augment.rotate": (0, 180), "augment.rotate_p": (0, 1), "augment.blur": (1, None), "augment.blur_p": (0, 1),
    "augment.flip_p": (0, 1), "augment.keep": (0, 1), "augment.crop_tries": (1, None),
    "model.size": (1, None), "model.branch_rank": (0, None), "model.interactor_layers": (1, None),
    "model.dropout": (0, 1), "model.prior_threshold": (0, 1), "loss.last": (0, None), "loss.others": (0, None),
    "train.epochs": (1, None), "train.epoch_samples": (0, None), "train.batch_size": (1, None),
    "train.micro_batch": (0, None), "train.lr": (0, None),
    "train.muon_lr": (0, None),
    "train.momentum": (0, 1), "train.weight_decay": (0, None), "train.warmup": (0, None), "train.power": (0, None),
    "train.clip_grad": (0, None), "train.text_noise": (0, None),
    "train.patience": (1, None), "train.checkpoint_minutes": (0, None),
    "train.log_every": (1, None), "eval.samples": (1, None), "eval.seed": (0, None), "eval.batch_size": (1, None),
    "eval.draws": (1, None), "eval.images": (0, None),
    "eval.presence": (0, None), "eval.chunk": (0, None), "eval.seen_samples": (1, None), "eval.pictures": (1, None),
}
LENGTHS = {"augment.scale": 2, "model.pixel_mean": 3, "model.pixel_std": 3}


def check_limits(config) -> None:
    """Raise UserError for the first option of a ``Config`` that is out of bounds."""
    def value(name):
        section, _, key = name.rpartition(".")
        return getattr(getattr(config, section) if section else config, key)

    for name, (least, most) in LIMITS.items():
        v = value(name)
        if not math.isfinite(v) or v < least or most is not None and v > most:
            raise UserError(f"{name}={v} should be " + (f"{least} or more" if most is None else f"{least} to {most}"))
    for name, length in LENGTHS.items():
        if len(value(name)) != length or not all(math.isfinite(v) for v in value(name)):
            raise UserError(f"{name}={value(name)} should be {length} numbers")
    if not 0 < config.augment.scale[0] <= config.augment.scale[1]:
        raise UserError(f"augment.scale={config.augment.scale} should be the least and the largest factor, above 0")
    if min(config.model.pixel_std) <= 0:
        raise UserError(f"model.pixel_std={config.model.pixel_std} should be above 0")
    if config.augment.blur % 2 == 0:
        raise UserError(f"augment.blur={config.augment.blur} should be odd, as the side of a kernel is")
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(config.model.prompt) if name is not None]
    except ValueError:
        fields = []
    if fields != [""]:
        raise UserError(f"model.prompt={config.model.prompt!r} should hold {{}} once, where the class name goes")

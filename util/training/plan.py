"""What a run would take: checked, counted, and predicted from a few real steps, of which nothing is kept."""
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch

from data.dataset import TrainBatch
from data.samples import distinct
from util.results import cost
from util.runtime.device import describe
from util.runtime.errors import UserError
from util.training.loop import Progress
from util.training.trainer import Trainer

TRAINING, TESTING = 20.0, 10.0   # s for which each is measured; a batch to warm up and another one at least
GIB = 2 ** 30


def plan(trainer: Trainer) -> None:
    """Print what the run of ``trainer`` would take. Its weights and optimiser are spoilt afterwards.

    Raises UserError where the run could not be written, or where memory runs out.
    """
    try:
        text = "\n".join(f"{label:<10} {said}" for label, said in _lines(trainer))
    except torch.OutOfMemoryError:
        size = trainer.cfg.train.micro_batch or trainer.cfg.train.batch_size
        raise UserError(f"{describe(trainer.device, trainer.cfg.precision)}: memory ran out; take "
                        f"train.micro_batch={max(1, size // 2)} or train.checkpoint_blocks=true, which change no "
                        f"number but by rounding") from None
    if not trainer.processes.rank:
        print(text, flush=True)
    exp, needed, free = _disk(trainer)
    if not (exp.is_dir() and os.access(exp, os.W_OK)):
        raise UserError(f"{exp}: cannot be written to; choose another place with exp=")
    if needed > free:
        raise UserError(f"{exp}: checkpoints need {needed / GIB:.2f} GiB, and {free / GIB:.2f} are free; free some "
                        f"space or choose another place with exp=")


def _lines(trainer: Trainer) -> Iterator[tuple[str, str]]:
    cfg, data, steps = trainer.cfg, trainer.data, trainer.batches.batches
    left = cfg.train.epochs * steps - (trainer.at.epoch * steps + trainer.at.step)
    samples, tested = distinct([trainer.draw]), distinct(data.draws())
    yield "plan", f"{cfg.dataset} fold {cfg.fold}, {cfg.arch}: nothing is trained, and nothing written to {cfg.exp}"
    yield "device", describe(trainer.device, cfg.precision, trainer.processes.count)
    sizes = cost.parameters(trainer.model)
    yield "weights", (f"{cfg.model.clip}; {sizes['trainable']:,} of {sizes['total']:,} parameters train")
    yield "data", (f"{trainer.batches.images:,} training images; {len(trainer.draw):,} test samples "
                   f"({data.sample_protocol}), {len(samples):,} of them distinct, and {len(trainer.seen):,} of seen "
                   f"classes")
    yield "steps", (f"{steps:,} an epoch, of {cfg.train.batch_size} images; {left:,} in the {cfg.train.epochs} epochs "
                    f"at most" + (f" that are left from epoch {trainer.at.epoch + 1} on" if trainer.at.epoch else ""))
    flop, step = _measure_training(trainer)
    tested_flop = 1e9 * cost.gflops_per_image(trainer)
    of_step, scored = flop * cfg.train.batch_size, len(samples) + len(trainer.seen)
    sample, count = _measure_testing(trainer)
    epochs = left / steps
    yield "operations", (f"{_flop(flop)} an image in training, {_flop(tested_flop)} in testing; {_flop(of_step)} a "
                         f"step ({_flop(of_step / median(step))}/s here); at most "
                         f"{_flop(left * of_step + epochs * scored * tested_flop)} in all")
    used, there, what = _memory(trainer.device)
    yield "memory", f"{used / GIB:.2f} GiB at most in these steps, of {there / GIB:.1f} ({what})"
    training, testing = steps * median(step), scored * sample
    final = len(tested) * (1 + cfg.eval.name_check) * sample
    yield "time", (f"{median(step):.3g} s a step (median of {len(step)}), {sample:.3g} s a test sample (of {count}): "
                   f"an epoch {_duration(training)} and its scores {_duration(testing)}; at most "
                   f"{_duration(left * median(step) + epochs * testing + final)} in all"
                   + (", without the generalised test" * (cfg.eval.protocol == "generalised")))
    exp, needed, free = _disk(trainer)
    yield "disk", f"{needed / GIB:.2f} GiB for checkpoints in {exp}, where {free / GIB:.1f} are free"


def _measure_training(trainer: Trainer) -> tuple[float, list[float]]:
    """Operations of an image in a training step, and the seconds of each step that was measured, loading included."""
    trainer.batches.start(0)
    first = next(iter(trainer.loader))
    one = TrainBatch(*(part[:1] for part in first))  # the counter wants attention that takes more memory
    flop = cost.count_flops(lambda: list(trainer.steps([one], Progress())))
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
    trainer.batches.start(0)
    seconds, start = [], time.monotonic()
    for step in trainer.steps(_endless(trainer.loader), Progress()):
        seconds.append(step["seconds"])
        if len(seconds) > 1 and trainer.processes.gather(time.monotonic() - start > TRAINING)[0] or len(seconds) > 20:
            break
    return flop, seconds[1:]  # the first one warms up


def _endless(loader) -> Iterator:
    while True:
        yield from loader


def _measure_testing(trainer: Trainer) -> tuple[float, int]:
    """Seconds of a test sample, shared among the processes and loading included, and how many were measured."""
    predict, batches = trainer.predictor(), _endless(trainer.data.loader(distinct([trainer.draw])))
    predict(next(batches))  # warms up
    start, count = time.monotonic(), 0
    for number, batch in enumerate(batches, 1):
        predict(batch)
        count += len(batch.samples)
        seconds = time.monotonic() - start
        if trainer.processes.gather(seconds > TESTING)[0] or number > 10:
            break
    return seconds / count / trainer.processes.count, count


def _memory(device: torch.device) -> tuple[int, int, str]:
    """The most that was used, what there is, and of what, in bytes."""
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory,
                "of the GPU, what torch itself and CUDA take not counted")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return used, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "main memory; loader processes come on top"


def _disk(trainer: Trainer) -> tuple[Path, int, int]:
    """The part of exp= that exists, the bytes that a run's checkpoints need, and the bytes that are free.

    A checkpoint is written beside the one it replaces, so the largest counts twice.
    """
    folder = Path(trainer.cfg.exp).resolve()
    while not folder.exists():
        folder = folder.parent
    weights = _bytes(trainer.model.trainable_state())
    last = weights + _bytes(trainer.optimizer.state_dict()) + _bytes(trainer.average.state())
    return folder, 2 * last + 2 * weights, shutil.disk_usage(folder).free


def _bytes(state) -> int:
    """Of all tensors in nested dicts and lists."""
    if torch.is_tensor(state):
        return state.numel() * state.itemsize
    return sum(map(_bytes, state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()))


def _flop(count: float) -> str:
    for unit in ("G", "T", "P"):
        count /= 1000 if unit != "G" else 1e9
        if count < 999.5:
            return f"{count:.3g} {unit}FLOP"
    return f"{count / 1000:.3g} EFLOP"


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1), ("min", 60)):
        if seconds < 100 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"

"""Dry run: memory, time and disk of a run, estimated from a few steps of which nothing is kept."""
import io
import os
import resource
import shutil
import sys
import time
from itertools import chain, cycle, islice
from pathlib import Path
from statistics import median

import torch

from data.dataset import TrainBatch
from data.samples import distinct
from util.evaluation import cost
from util.runtime import distributed
from util.runtime.device import describe
from util.runtime.errors import UserError
from util.training.loop import Position

TRAINING, TESTING = 20.0, 10.0   # s for which each is measured; a batch to warm up and another one at least
STEPS, BATCHES = 20, 10          # ... and at most
GIB = 2 ** 30


def plan(trainer) -> None:
    """Print the estimate, spoiling a Trainer's weights. Raises UserError if memory runs out or exp= cannot hold it."""
    cfg, data, steps = trainer.cfg, trainer.data, trainer.batches.batches
    left = cfg.train.epochs * steps - (trainer.at.epoch * steps + trainer.at.step)
    tested = distinct(data.draws())
    try:
        flop, seconds = _measure_training(trainer)
        sample, count = _measure_testing(trainer)
    except torch.OutOfMemoryError:
        size = cfg.train.micro_batch or cfg.train.batch_size
        raise UserError(f"{describe(trainer.device, cfg.precision)}: memory ran out; take train.micro_batch="
                        f"{max(1, size // 2)} or train.checkpoint_blocks=true, which change no number but by "
                        f"rounding") from None
    step = median(seconds)
    sizes, (used, there, what) = cost.parameters(trainer.model), _memory(trainer.device)
    training, scores = steps * step, (len(trainer.draw) + len(trainer.seen)) * sample
    final = len(tested) * (1 + cfg.eval.name_check) * sample
    folder, needed, free = _disk(trainer)
    lines = {
        "plan": f"{cfg.dataset} fold {cfg.fold}, {cfg.arch}: nothing is trained, and nothing written to {cfg.exp}",
        "device": describe(trainer.device, cfg.precision),
        "weights": f"{cfg.model.clip}; {sizes['trainable']:,} of {sizes['total']:,} parameters train",
        "data": f"{trainer.batches.images:,} training images; {len(trainer.draw):,} test samples "
                f"({data.sample_protocol}) and {len(trainer.seen):,} of seen classes",
        "steps": f"{steps:,} an epoch, of {cfg.train.batch_size} images; {left:,} at most",
        "operations": f"{flop / 1e9:,.1f} GFLOP an image in a training step; "
                      f"{flop * cfg.train.batch_size * left / 1e15:,.3g} PFLOP of training",
        "memory": f"{used / GIB:.2f} GiB at most in these steps, of {there / GIB:.1f} ({what})",
        "time": f"{step:.3g} s a step (median of {len(seconds)}), {sample:.3g} s a test sample (of {count}): an epoch "
                f"{_duration(training)} and its scores {_duration(scores)}; at most "
                f"{_duration(left * step + left / steps * scores + final)} in all"
                + ", without the generalised test" * (cfg.eval.protocol == "generalised"),
        "disk": f"{needed / GIB:.2f} GiB for checkpoints in {folder}, where {free / GIB:.1f} are free"}
    if not distributed.rank():
        print("\n".join(f"{label:<10} {said}" for label, said in lines.items()), flush=True)
    if not os.access(folder, os.W_OK) or needed > free:
        raise UserError(f"{folder}: cannot be written to, or is too full; choose another place with exp=")


def _measure_training(trainer) -> tuple[float, list[float]]:
    """Measure FLOPs of an image in a training step, and seconds of each step, loading included."""
    trainer.batches.start(0)
    first = next(iter(trainer.loader))
    one = TrainBatch(*(part[:1] for part in first))  # the counter wants attention that takes more memory
    flop = cost.count_flops(lambda: list(trainer.steps([one], Position())))
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
    trainer.batches.start(0)
    seconds, start = [], time.monotonic()
    batches = chain.from_iterable(cycle([trainer.loader]))
    for step in trainer.steps(islice(batches, STEPS + 1), Position()):
        seconds.append(step["seconds"])
        if len(seconds) > 1 and distributed.gather(time.monotonic() - start > TRAINING)[0]:
            break
    return flop, seconds[1:]  # the first one warms up


def _measure_testing(trainer) -> tuple[float, int]:
    """Measure seconds of a test sample, shared among processes, loading included; also how many were measured."""
    predict = trainer.predictor()
    batches = chain.from_iterable(cycle([trainer.data.loader(distinct([trainer.draw]))]))
    predict(next(batches))  # warms up
    start, count = time.monotonic(), 0
    for batch in islice(batches, BATCHES):
        predict(batch)
        count += len(batch.samples)
        if distributed.gather(time.monotonic() - start > TESTING)[0]:
            break
    return (time.monotonic() - start) / count / distributed.count(), count


def _memory(device: torch.device) -> tuple[int, int, str]:
    """Return the peak and the total memory in bytes, and what kind it is."""
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory,
                "of the GPU, what torch itself and CUDA take not counted")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return used, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "main memory; loader processes come on top"


def _disk(trainer) -> tuple[Path, int, int]:
    """Find the part of exp= that exists, the bytes that a run's checkpoints need at most, and the free bytes."""
    folder = Path(trainer.cfg.exp).resolve()
    while not folder.exists():
        folder = folder.parent
    last = io.BytesIO()
    torch.save(trainer.state(), last)
    return folder, 4 * last.tell(), shutil.disk_usage(folder).free


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"

"""Training as the loader feeds it: how long a step waits for images that other processes decode and augment."""
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from data.dataset import TrainBatch, TrainBatches, train_loader
from util.benchmark import loader as speed
from util.benchmark.ceiling import multiplying_in
from util.benchmark.subject import ORIGINAL, Subject, Variant
from util.benchmark.switches import TRAIN, fast
from util.runtime.processes import SINGLE_PROCESS
from util.training.loop import Progress, train_one_epoch

WARM = 2            # steps, during which workers start and a GPU warms up
PREFETCHED = 2      # batches that DataLoader has each worker make ahead
MOST_WORKERS = 16   # that are tried: their batches of 32 images of 480 px take 1 GB of shared memory
STEPS = 4           # counted on a CPU
EPOCH = 5953        # images, those of the largest fold of PASCAL: on CUDA as many steps as they fill are counted


def workers(configured: int, device: torch.device) -> list[int]:
    """Numbers of loader processes to measure with: data.workers, and on CUDA also one a core, up to MOST_WORKERS,
    which shows whether more of them would help.
    """
    most = min(os.cpu_count() or 1, MOST_WORKERS)
    return list(dict.fromkeys([configured, most] if device.type == "cuda" else [configured]))


def uncounted(workers: int, device: torch.device) -> int:
    """Steps before the counted ones. On CUDA as many more as batches may have been made while it warmed up, for those
    cost no waiting; on a CPU, where a step takes far longer than its images, batches are always waiting.
    """
    return WARM + (PREFETCHED * workers if device.type == "cuda" else 0)


def counted(images: int, device: torch.device) -> int:
    """Steps of ``images`` images that are counted."""
    return max(1, EPOCH // images) if device.type == "cuda" else STEPS


class Waited:
    """Passes batches on and adds up the ``seconds`` for which they were not there yet."""

    def __init__(self, batches: Iterable[TrainBatch], names: int):
        self.batches, self.names, self.seconds = batches, names, 0.0

    def __iter__(self) -> Iterator[TrainBatch]:
        batches = iter(self.batches)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - start
            if batch is None:
                return
            batch.class_ids.sub_(1).remainder_(self.names).add_(1)  # what is looked for costs the same; it stays pinned
            yield batch


def measure(subject: Subject, precision: str, images: int, workers: int, steps: int) -> dict:
    """One row: ``steps`` steps of ``images`` images from JPEGs of ORIGINAL size, by ``workers`` loader processes.

    ms: of a step, loading included; waiting: the share of it that was spent on waiting for the loader, 0..1.
    """
    cfg, variant, before = subject.cfg, Variant(subject, fast(TRAIN, precision)), uncounted(workers, subject.device)
    with tempfile.TemporaryDirectory() as folder:
        dataset, _ = speed.datasets(Path(folder), *ORIGINAL, cfg)
        batches = TrainBatches(len(dataset), images, images * (before + steps), cfg.seed)
        stream = Waited(train_loader(dataset, batches, workers), len(subject.words.cls))
        with multiplying_in(precision):
            run = train_one_epoch(variant.model, variant.losses_of, variant.text, stream, variant.optimizer, Progress(),
                                  batches.batches, cfg.train, subject.device, variant.autocast, SINGLE_PROCESS)
            for _ in range(before):
                next(run)
            waited, seconds = stream.seconds, sum(step["seconds"] for step in run)
    return {"size": cfg.model.size, "images": images, "precision": precision, "steps": steps, "workers": workers,
            "ms": 1000 * seconds / steps, "waiting": (stream.seconds - waited) / seconds}

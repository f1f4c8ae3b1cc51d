"""Training as the loader feeds it: how long a step waits for images that other processes decode and augment."""
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from data import speed
from util.benchmark.ceiling import multiplying_in
from util.benchmark.subject import ORIGINAL, Subject, Variant
from util.benchmark.switches import TRAIN, fast
from util.dataset import TrainBatch, TrainBatches, train_loader
from util.engine import Progress, train_one_epoch
from util.processes import ALONE

WARM = 2  # steps that are not counted: workers start, and the queue of ready batches is full


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
            yield batch._replace(class_ids=(batch.class_ids - 1) % self.names + 1)  # what is looked for costs the same


def measure(subject: Subject, precision: str, images: int, steps: int) -> dict:
    """One row: ``steps`` steps of ``images`` images from JPEGs of ORIGINAL size, by data.workers loader processes.

    ms: of a step, loading included; waiting: the share of it that was spent on waiting for the loader, 0..1.
    """
    cfg, variant = subject.cfg, Variant(subject, fast(TRAIN, precision))
    with tempfile.TemporaryDirectory() as folder:
        dataset, _ = speed.datasets(Path(folder), *ORIGINAL, cfg)
        batches = TrainBatches(len(dataset), images, images * (WARM + steps), cfg.seed)
        stream = Waited(train_loader(dataset, batches, cfg.data.workers), len(subject.words.cls))
        with multiplying_in(precision):
            run = train_one_epoch(variant.model, variant.losses_of, variant.text, stream, variant.optimizer, Progress(),
                                  batches.batches, cfg.train, subject.device, variant.autocast, ALONE)
            for _ in range(WARM):
                next(run)
            before, seconds = stream.seconds, sum(step["seconds"] for step in run)
    return {"size": cfg.model.size, "images": images, "precision": precision, "steps": steps,
            "workers": cfg.data.workers, "ms": 1000 * seconds / steps, "waiting": (stream.seconds - before) / seconds}

"""One epoch of training. Returns numbers; the script logs them and decides what is best."""
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

from data.dataset import TrainBatch
from model.losses import EsdaLosses, Losses
from util.runtime.processes import Processes
from util.training.optim import schedule, set_share


@dataclass
class Progress:
    """Where training stands: plain values, kept in checkpoints. ``sums`` are over the epoch's steps so far."""
    epoch: int = 0
    step: int = 0                       # steps done in this epoch
    sums: dict[str, float] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        return {name: value / max(1, self.step) for name, value in self.sums.items()}


def train_one_epoch(model, losses_of: EsdaLosses, text, batches: Iterable[TrainBatch], optimizer, at: Progress,
                    steps: int, options, device, autocast, processes: Processes) -> Iterator[dict]:
    """Train from where ``at`` stands to the end of its epoch, yielding after each step what there is to log.

    Args:
        text: the embeddings of all names, row = class id - 1, on ``device``.
        batches: what is left of the epoch, this process's part of each; steps: of a whole epoch.
        options: config section ``train``.
    Yields:
        iteration, lr, loss, main, last, others, images (in the whole batch), seconds (of the step, loading included)
        and stop, whether any process was asked to end.
    """
    model.train()
    wrapped = processes.wrap(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    before = time.perf_counter()
    for batch in batches:
        iteration = at.epoch * steps + at.step
        share = schedule(iteration, options.epochs * steps, options)
        set_share(optimizer, share)
        losses = _gradients(model, wrapped, losses_of, text, batch, options, device, autocast, processes)
        if options.clip_grad:
            torch.nn.utils.clip_grad_norm_(trained, options.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        values, stop = processes.agree(losses)
        values = dict(zip(("loss", "main", "last", "others"), values))
        at.step += 1
        at.sums = {name: at.sums.get(name, 0.0) + value for name, value in values.items()}
        now = time.perf_counter()
        yield {"iteration": iteration, "lr": share * options.lr, **values, "seconds": now - before, "stop": stop,
               "images": len(batch.images) * processes.count}
        before = time.perf_counter()


def _gradients(model, wrapped, losses_of, text, batch: TrainBatch, options, device, autocast,
               processes: Processes) -> torch.Tensor:
    """Backward of one step, in parts of ``options.micro_batch`` images; returns this process's share of the Losses (4,).

    The parts of all processes add up to the batch as one: their losses are divided by the pixels of all of it, and its
    random numbers are drawn for all of it by every process, which then takes its own rows. So parts and processes change
    no number but by rounding, and every process's generator stands where a single one's would.
    """
    images, targets = (part.to(device, non_blocking=True) for part in (batch.images, batch.targets))
    rows = batch.class_ids.to(device, non_blocking=True) - 1
    mine, whole = len(images), len(images) * processes.count
    own = slice(processes.rank * mine, (processes.rank + 1) * mine)
    keep = model.decoder.draw(whole)[own]
    noise = text.draw(whole)[own] if options.text_noise else None
    pixels = processes.sum(losses_of.pixels(targets))
    size = options.micro_batch or mine
    total = torch.zeros(len(Losses._fields), device=device)
    for first in range(0, mine, size):
        part = slice(first, first + size)
        named = text[rows[part]]
        heard = None if noise is None else named.noisy(options.text_noise, noise[part])
        with processes.gradients_wait(wrapped, first + size < mine):
            with autocast:
                output = wrapped(images[part], named, keep[part], heard)
            losses = losses_of(output, targets[part], pixels)
            (losses.total * processes.count).backward()  # gradients are averaged over processes
        total += torch.stack(losses).detach()
    return total

"""One epoch of training. Returns numbers; the script logs them and decides what is best."""
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

from data.dataset import TrainBatch
from model.losses import EsdaLosses
from util.runtime.errors import UserError
from util.runtime.processes import Processes
from util.training.optim import schedule, set_share

REMEDY = ("no checkpoint was overwritten; try a lower train.lr, a longer train.warmup, train.clip_grad=1 or "
          "precision=fp32")


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
        iteration, lr, losses (as EsdaLosses returns them, as numbers), images (in the whole batch), seconds (of the
        step, loading included) and stop, whether any process was asked to end.
    Raises UserError at the first step whose losses or gradients are not finite; that step changes no weight.
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
        values, stop = processes.agree(torch.stack(list(losses.values())))
        values = dict(zip(losses, values))
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        require_finite({**values, "gradient": norm.item()}, at.epoch, at.step, steps)
        if options.clip_grad:
            torch.nn.utils.clip_grads_with_norm_(trained, options.clip_grad, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        at.step += 1
        at.sums = {name: at.sums.get(name, 0.0) + value for name, value in values.items()}
        now = time.perf_counter()
        yield {"iteration": iteration, "lr": share * options.lr, "losses": values, "seconds": now - before,
               "stop": stop, "images": len(batch.images) * processes.count}
        before = time.perf_counter()


def require_finite(values: dict[str, float], epoch: int, step: int, steps: int) -> None:
    """Raise UserError that names the values which are not finite, and the step, counted from 0, that they are of."""
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(f"epoch {epoch + 1}, step {step + 1} of {steps}: {', '.join(wrong)}; {REMEDY}")


def _gradients(model, wrapped, losses_of: EsdaLosses, text, batch: TrainBatch, options, device, autocast,
               processes: Processes) -> dict[str, torch.Tensor]:
    """Backward of one step, in parts of ``options.micro_batch`` images; returns this process's share of the losses.

    The parts of all processes add up to the batch as one. Their losses are divided by the pixels of all of it. Every
    process draws the random numbers of all of it and takes its own rows. So parts and processes change no number but
    by rounding, and every process's generator stands where a single one's would.
    """
    images, targets = (part.to(device, non_blocking=True) for part in (batch.images, batch.targets))
    rows = batch.class_ids.to(device, non_blocking=True) - 1
    count = len(images)
    first = processes.rank * count
    noise = model.draw_noise(count * processes.count, text, options.text_noise)[first:first + count]
    pixels = processes.sum(losses_of.pixels(targets))
    size = options.micro_batch or count
    totals: dict[str, torch.Tensor] = {}
    for first in range(0, count, size):
        part = slice(first, first + size)
        with processes.gradients_wait(wrapped, first + size < count):
            with autocast:
                output = wrapped(images[part], text[rows[part]], noise[part])
            losses = losses_of(output, targets[part], pixels)
            (losses["loss"] * processes.count).backward()  # gradients are averaged over processes
        totals = {name: totals.get(name, 0) + value.detach() for name, value in losses.items()}
    return totals

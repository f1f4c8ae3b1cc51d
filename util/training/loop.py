"""One epoch of training, as numbers: the script logs them and decides what is best."""
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from data.dataset import TrainBatch
from util.runtime import progress
from util.runtime.errors import UserError
from util.training.optim import schedule, set_share


@dataclass
class Position:
    """Position in training: plain values, kept in checkpoints; ``sums`` are over the epoch's steps so far."""
    epoch: int = 0
    step: int = 0                       # steps done in this epoch
    sums: dict[str, float] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        return {name: value / max(1, self.step) for name, value in self.sums.items()}


def train_one_epoch(model, losses_of, text, batches: Iterable[TrainBatch], optimizer, at: Position, steps: int,
                    options, device, autocast, wrapped=None) -> Iterator[dict]:
    """Train from ``at`` to the end of its epoch, yielding after each step what there is to log.

    losses_of: EsdaLosses; text: embeddings of all names, row = class id - 1, on ``device``; batches: what is left of
        the epoch, this process's part of each; steps: of a whole epoch; options: config section ``train``; wrapped:
        ``model`` in DistributedDataParallel, None with one process.
    Yields iteration, lr, losses {term: number}, images (in the whole batch), seconds (of the step, loading included)
        and stop, whether any process was asked to end.
    Raises UserError at the first step whose losses or gradients are not finite; that step changes no weight.
    """
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    processes = dist.get_world_size() if wrapped else 1
    before = time.perf_counter()
    for batch in batches:
        iteration = at.epoch * steps + at.step
        share = schedule(iteration, options.epochs * steps, options)
        set_share(optimizer, share)
        losses = _gradients(model, wrapped, losses_of, text, batch, options, device, autocast)
        told = torch.stack([*losses.values(), losses["loss"].new_tensor(progress.asked())])
        if wrapped:
            dist.all_reduce(told)               # sums of the shares; all must end after the same step
        *values, stopping = told.tolist()
        values = dict(zip(losses, values))
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        _require_finite({**values, "gradient": norm.item()}, at, steps)
        if options.clip_grad:
            torch.nn.utils.clip_grads_with_norm_(trained, options.clip_grad, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        at.step += 1
        at.sums = {name: at.sums.get(name, 0.0) + value for name, value in values.items()}
        now = time.perf_counter()
        yield {"iteration": iteration, "lr": share * options.lr, "losses": values, "seconds": now - before,
               "stop": stopping > 0, "images": len(batch.images) * processes}
        before = time.perf_counter()


def _require_finite(values: dict[str, float], at: Position, steps: int) -> None:
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(f"epoch {at.epoch + 1}, step {at.step + 1} of {steps}: {', '.join(wrong)}; no checkpoint was "
                        f"overwritten; try a lower train.lr, a longer train.warmup or train.clip_grad=1")


def _gradients(model, wrapped, losses_of, text, batch: TrainBatch, options, device,
               autocast) -> dict[str, torch.Tensor]:
    """Run backward in parts of ``options.micro_batch`` images; returns this process's share of the losses.

    Losses are divided by the pixels of the whole batch, whose random numbers every process draws to take its own rows.
    So parts and processes change no number but by rounding, and all generators stand where a single process's would.
    """
    images, targets = (part.to(device, non_blocking=True) for part in (batch.images, batch.targets))
    rows = batch.class_ids.to(device, non_blocking=True) - 1
    count, size = len(images), options.micro_batch or len(images)
    rank, processes = (dist.get_rank(), dist.get_world_size()) if wrapped else (0, 1)
    noise = model.sample_noise(count * processes, text, options.text_noise)[rank * count:(rank + 1) * count]
    pixels = losses_of.pixels(targets)
    if wrapped:
        dist.all_reduce(pixels)
    totals: dict[str, torch.Tensor] = {}
    for first in range(0, count, size):
        part = slice(first, first + size)
        if wrapped:
            wrapped.require_backward_grad_sync = first + size >= count  # gradients are averaged in the last part
        with autocast:
            output = (wrapped or model)(images[part], text[rows[part]], noise[part])
        losses = losses_of(output, targets[part], pixels)
        (losses["loss"] * processes).backward()     # gradients are averaged over processes
        totals = {name: totals.get(name, 0) + value.detach() for name, value in losses.items()}
    return totals

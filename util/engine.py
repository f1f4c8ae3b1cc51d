"""One epoch of training. Returns numbers; the script logs them and decides what is best."""
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch

from util.dataset import TrainBatch
from util.optim import schedule, set_share


@dataclass
class Progress:
    """Where training stands: plain values, kept in checkpoints. ``sums`` are over the epoch's steps so far."""
    epoch: int = 0
    step: int = 0                       # steps done in this epoch
    sums: dict[str, float] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        return {name: value / max(1, self.step) for name, value in self.sums.items()}


def train_one_epoch(model, losses_of: Callable, text, batches: Iterable[TrainBatch], optimizer, at: Progress,
                    steps: int, options, device, autocast) -> Iterator[dict]:
    """Train from where ``at`` stands to the end of its epoch, yielding after each step what there is to log.

    Args:
        losses_of: (model output, targets) -> Losses.
        text: the embeddings of all names, row = class id - 1, on ``device``.
        batches: what is left of the epoch; steps: of a whole epoch; options: config section ``train``.
    Yields:
        iteration, lr, loss, main, last, others, images (in the batch) and seconds (of the step, loading included).
    """
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    before = time.perf_counter()
    for batch in batches:
        iteration = at.epoch * steps + at.step
        share = schedule(iteration, options.epochs * steps, options)
        set_share(optimizer, share)
        images, targets = (part.to(device, non_blocking=True) for part in (batch.images, batch.targets))
        with autocast:
            output = model(images, text[batch.class_ids.to(device) - 1].noisy(options.text_noise))
        losses = losses_of(output, targets)
        losses.total.backward()
        if options.clip_grad:
            torch.nn.utils.clip_grad_norm_(trained, options.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        values = {"loss": losses.total, "main": losses.main, "last": losses.last, "others": losses.others}
        values = {name: float(value.detach()) for name, value in values.items()}
        at.step += 1
        at.sums = {name: at.sums.get(name, 0.0) + value for name, value in values.items()}
        now = time.perf_counter()
        yield {"iteration": iteration, "lr": share * options.lr, **values, "images": len(images), "seconds": now - before}
        before = time.perf_counter()

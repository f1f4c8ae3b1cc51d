"""Data set of every experiment: a list of images and masks in PASCAL's layout, read from disk into batches."""
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data.files import read_pair
from data.index import Index
from data.samples import Sample, TrainImages
from data.transform import FITS, Fit, augment
from model import IGNORE
from util.runtime.errors import UserError
from util.runtime.workers import cores, start_worker


class TrainBatch(NamedTuple):
    """Training batch; an item of TrainDataset is one sample of it, without B."""
    images: Tensor      # (B, 3, S, S) uint8 RGB
    targets: Tensor     # (B, S, S) uint8: 1 the class, 0 the rest, 255 ignored
    class_ids: Tensor   # (B,) int64


class EvalBatch(NamedTuple):
    images: Tensor                      # (B, 3, S, S) uint8 RGB, padded on the right and below
    valid_sizes: list[tuple[int, int]]  # (height, width) of S x S that each image fills
    masks: list[np.ndarray]             # each (H, W) uint8 of class ids and 255, at the image's own size
    samples: list[Sample]
    originals: Sequence[np.ndarray] = ()    # the images (H, W, 3) uint8 RGB as they were read, where asked for


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def mean_colour(pixel_mean: list[float]) -> tuple[int, int, int]:
    """Return the padding colour, uint8 RGB: the mean, which normalisation maps to zero."""
    return tuple(round(255 * value) for value in pixel_mean)


class TrainDataset(Dataset):
    """Augmented crops, each with the binary target of one query class.

    With probability ``absent_names`` the query is a class not in the image; the target is then empty.
    Item (epoch, position, image) is a pure function of these and the seed, whichever worker makes it.
    """

    def __init__(self, root: str, index: Index, images: TrainImages, classes: int, size: int, fill, options, seed: int,
                 absent_names: float = 0.0):
        self.root, self.index, self.images, self.classes, self.absent_names = root, index, images, classes, absent_names
        self.size, self.fill, self.options, self.seed = size, fill, options, seed

    def __len__(self) -> int:
        return len(self.images.rows)

    def __getitem__(self, key: tuple[int, int, int]) -> TrainBatch:
        epoch, position, which = key
        rng = np.random.default_rng((self.seed, epoch, position))
        image, mask = read_pair(self.root, self.index.pairs[self.images.rows[which]], self.classes)
        if self.images.ignored:
            mask = np.where(np.isin(mask, self.images.ignored), np.uint8(IGNORE), mask)
        class_id = int(rng.choice(self.images.classes[which]))
        image, mask = augment(image, mask, class_id, self.size, self.fill, self.options, rng)
        if self.absent_names and self.images.absent[which] and rng.random() < self.absent_names:
            class_id = int(rng.choice(self.images.absent[which]))
        target = np.where(mask == IGNORE, np.uint8(IGNORE), (mask == class_id).astype(np.uint8))
        return TrainBatch(_to_tensor(image), torch.from_numpy(target), class_id)


class TrainBatches(Sampler):
    """Sampler of an epoch's whole batches, in an order set by seed and epoch alone; items (epoch, position, image).

    samples: per epoch; 0: each image once; images repeat where there are fewer. Process ``rank`` of ``count`` gets an
    equal part of each batch. Raises UserError if the batch does not divide.
    """

    def __init__(self, images: int, batch_size: int, samples: int, seed: int, rank: int = 0, count: int = 1):
        if batch_size % count:
            raise UserError(f"train.batch_size={batch_size}, the batch of all processes together, does not divide "
                            f"evenly among {count} processes; take {count} or a multiple of it")
        self.images, self.batch_size, self.seed, self.rank = images, batch_size, seed, rank
        self.samples, self.part = samples or images, batch_size // count
        self.epoch, self.first = 0, 0

    def start(self, epoch: int, first: int = 0) -> None:
        """Make the next iteration yield the batches of ``epoch``, from batch ``first`` on."""
        self.epoch, self.first = epoch, first

    @property
    def batches(self) -> int:
        """Batches of a whole epoch."""
        return max(1, self.samples // self.batch_size)

    def __len__(self) -> int:
        return self.batches - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        needed = self.batches * self.batch_size
        order = np.concatenate([rng.permutation(self.images) for _ in range(-(-needed // self.images))])
        for batch in range(self.first, self.batches):
            first = batch * self.batch_size + self.rank * self.part
            yield [(self.epoch, position, int(order[position])) for position in range(first, first + self.part)]


class EvalDataset(Dataset):
    """Samples of a protocol: images fitted to the network, masks at their own size; ``originals``: images as read."""

    def __init__(self, root: str, index: Index, samples: list[Sample], classes: int, size: int, fill,
                 fit: Fit = FITS["described"], originals: bool = False):
        self.root, self.index, self.samples, self.classes = root, index, samples, classes
        self.size, self.fill, self.fit, self.originals = size, fill, fit, originals

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int):
        sample = self.samples[i]
        image, mask = read_pair(self.root, self.index.pairs[sample.row], self.classes)
        canvas, valid = self.fit.to_input(image, self.size, self.fill)
        return _to_tensor(canvas), valid, mask, sample, *([image] if self.originals else [])


def _collate_eval(items) -> EvalBatch:
    images, *others = zip(*items)
    return EvalBatch(torch.stack(images), *map(list, others))


def eval_loader(dataset: EvalDataset, batch_size: int, workers: int) -> DataLoader:
    return loader(dataset, workers, batch_size=batch_size, collate_fn=_collate_eval)


class Loader(DataLoader):
    """DataLoader whose processes start with signals blocked, until start_worker ignores them: one would end them."""

    def __iter__(self) -> Iterator:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def loader(dataset: Dataset, workers: int, **options) -> DataLoader:
    """Collate batches in ``workers`` processes (0: in this one); their number does not change the batches."""
    workers = min(workers, cores())     # more would only wait, and torch would warn
    return Loader(dataset, num_workers=workers, worker_init_fn=start_worker, persistent_workers=workers > 0,
                  pin_memory=torch.cuda.is_available(),
                  # Its own generator: starting a loader must not draw from dropout's.
                  generator=torch.Generator(), **options)

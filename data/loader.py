"""Loader processes that change nothing but the speed, fail with one line and go quietly when told to stop."""
import signal
from collections.abc import Callable, Iterator

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from util.runtime.errors import UserError


class _Guarded(Dataset):
    """Hands a UserError over as an item: raised in a worker, it would arrive wrapped in that worker's traceback."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key):
        try:
            return self.dataset[key]
        except UserError as error:
            return error


class _Collate:
    def __init__(self, collate: Callable):
        self.collate = collate

    def __call__(self, items: list):
        return next((item for item in items if isinstance(item, UserError)), None) or self.collate(items)


class Loader:
    """Batches of ``dataset`` put together by ``collate`` in ``workers`` processes (0: in this one).

    ``options`` are DataLoader's batch_size or batch_sampler. Iterating raises the UserError of a bad file.
    """

    def __init__(self, dataset: Dataset, collate: Callable, workers: int, **options):
        self._loader = DataLoader(
            _Guarded(dataset), collate_fn=_Collate(collate), num_workers=workers, worker_init_fn=_start_worker,
            persistent_workers=workers > 0, pin_memory=torch.cuda.is_available(),
            # Its own generator: starting a loader must not draw from the one that dropout draws from.
            generator=torch.Generator(), **options)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator:
        for batch in self._loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)                            # one process, one core
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C reaches the whole group; the main process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)   # not the main process's handler, which a fork inherits

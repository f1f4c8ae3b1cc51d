"""Loader processes: they change nothing but the speed, and whatever ends one of them ends the run with its reason."""
import multiprocessing.queues
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from util.runtime.errors import UserError, shortage
from util.runtime.workers import cause_of_end, signals_wait, start_worker

NO_ROOM = "take data.workers=0, or give a container more shared memory (docker run --shm-size=1g)"

_processes = set()  # of all loaders


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
        except MemoryError:
            return UserError("loading images: memory ran out; take fewer data.workers or a smaller train.batch_size")


class _Collate:
    """Puts a batch together and, in a worker, into shared memory."""

    def __init__(self, collate: Callable, in_worker: bool):
        self.collate, self.in_worker = collate, in_worker

    def __call__(self, items: list):
        error = next((item for item in items if isinstance(item, UserError)), None)
        if error:
            return error
        batch = self.collate(items)
        if self.in_worker:
            try:  # torch would do it in a thread whose failure leaves the main process waiting for ever
                for part in batch if isinstance(batch, tuple) else (batch,):
                    if isinstance(part, Tensor):
                        part.share_memory_()
            except RuntimeError as error:
                return UserError(f"/dev/shm has no room for the batches of loader processes "
                                 f"({str(error).rpartition('>: ')[2]}); {NO_ROOM}")
        return batch


class Loader:
    """Batches of ``dataset`` put together by ``collate`` in ``workers`` processes (0: in this one).

    ``options`` are DataLoader's batch_size or batch_sampler. Iterating raises the UserError of a bad file, and one that
    says why a worker ended.
    """

    def __init__(self, dataset: Dataset, collate: Callable, workers: int, **options):
        self._loader = DataLoader(
            _Guarded(dataset), collate_fn=_Collate(collate, workers > 0), num_workers=workers,
            worker_init_fn=_start_worker, persistent_workers=workers > 0, pin_memory=torch.cuda.is_available(),
            # Its own generator: starting a loader must not draw from the one that dropout draws from.
            generator=torch.Generator(), **options)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator:
        try:
            with signals_wait():
                batches = self._start()
            while (batch := next(batches, None)) is not None:
                if isinstance(batch, UserError):
                    try:
                        raise batch
                    finally:
                        del batch  # a cycle with its own traceback would keep the loader from ending its processes
                yield batch
        except RuntimeError as error:
            if isinstance(error.__cause__, UserError):  # ours, raised within torch's own wait for a batch
                raise UserError(str(error.__cause__)) from None
            _raise_if_one_died()
            raise

    def _start(self) -> Iterator:
        try:  # as many queues as torch will make, first: where it fails, half-made things complain at the exit
            [multiprocessing.Queue() for _ in range(self._loader.num_workers and self._loader.num_workers + 2)]
            batches = iter(self._loader)
        except (OSError, RuntimeError) as error:
            _raise_if_one_died()
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"loader processes cannot start: {shortage(error) or f'{reason}; {NO_ROOM}'}") from None
        _processes.update(getattr(batches, "_workers", ()))
        if _processes and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, _raise_if_one_died)  # torch's raises a RuntimeError wherever we are
        return batches


def _raise_if_one_died(*_) -> None:
    """Also called when a child process ends, even while the main process waits for half of a batch."""
    for process in list(_processes):
        status = process.exitcode
        if status is not None:
            _processes.discard(process)
        if status:
            remedy = NO_ROOM if status == -signal.SIGBUS else "take fewer data.workers, or data.workers=0 to see more"
            raise UserError(f"a loader process {cause_of_end(status)}; {remedy}")


def _start_worker(_: int) -> None:
    start_worker()
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_leave)


def _leave(error: Exception, _) -> None:
    """A batch that cannot be handed over would leave the main process waiting for ever."""
    print(f"loader process: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)

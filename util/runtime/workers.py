"""Worker processes that load batches and make data sets. None outlives the main process or fails in silence."""
import multiprocessing.queues
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import cv2

from util.runtime.progress import progress


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker(_: int = 0) -> None:
    """Set up a worker, which ignores Ctrl-C and SIGTERM (sent to the whole group): the main process decides."""
    cv2.setNumThreads(0)                                            # one process, one core
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # A batch that cannot be handed over (/dev/shm is full) would leave the main process waiting for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(1))


def map_in_processes(function: Callable, items: Iterable, label: str, chunksize: int = 16) -> Iterator:
    """Map a picklable ``function`` over items, in order, on all cores. Raises BrokenProcessPool where a worker dies."""
    items = list(items)
    with ProcessPoolExecutor(max(1, min(cores(), len(items))), initializer=start_worker) as pool:
        try:
            yield from progress(pool.map(function, items, chunksize=chunksize), label, len(items))
        finally:
            pool.shutdown(cancel_futures=True)

"""Worker processes: what loads batches and what makes data sets. None outlives the main process or fails in silence."""
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import parent_process

import cv2

from util.runtime.errors import UserError, shortage
from util.runtime.progress import progress

POLL = 0.5  # s between two looks at whether the main process is still there


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker(_: int = 0) -> None:
    """Called first in every worker process.

    The main process alone decides when to stop. Ctrl-C and a cluster's SIGTERM reach the whole process group; a worker
    ignores both, unless the SIGTERM comes from the main process. It ends as soon as the main process has gone.
    """
    cv2.setNumThreads(0)                                            # one process, one core
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)                   # not the main process's handler
    if not hasattr(signal, "sigtimedwait"):                         # on macOS SIGTERM ends a worker
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_leave_with_main, args=(os.getppid(),), daemon=True).start()
    with suppress(OSError):  # libpng, libjpeg and OpenCV name no file when they complain; our own message does
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.excepthook = lambda *_: None  # for a thread that hands something to a main process that has gone


@contextmanager
def signals_wait() -> Iterator[None]:
    """Ctrl-C and SIGTERM that come meanwhile are told at its end.

    While workers are started: what the handler raises would leave half of the workers behind. Blocking the signals
    would not do, for another thread would take them. But SIGTERM is blocked as well: workers inherit that, and keep it,
    for a thread of theirs to take. Until ``start_worker`` they may have another handler, the main process's or torch's.
    """
    if threading.current_thread() is not threading.main_thread():   # which alone is told of signals
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number))
              for number in (signal.SIGINT, signal.SIGTERM)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _leave_with_main(parent: int) -> None:
    main = parent_process()  # which is the parent, unless a fork server is
    while main.is_alive() and os.getppid() == parent:
        if not hasattr(signal, "sigtimedwait"):
            main.join(POLL)
            continue
        received = signal.sigtimedwait({signal.SIGTERM}, POLL)
        if received is not None and received.si_pid == main.pid:
            break
    os._exit(0)


def cause_of_end(status: int) -> str:
    """How a process ended, in words. ``status`` is as in ``subprocess``: negative for a signal."""
    if status >= 0:
        return f"ended with status {status}"
    why = {signal.SIGKILL: ", as the kernel does where memory runs out",
           signal.SIGBUS: ", as happens where /dev/shm is full"}.get(-status, "")
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name}{why}"
    return f"was killed by signal {-status}"


def map_in_processes(function: Callable, items: Iterable, label: str, chunksize: int = 16) -> Iterator:
    """``function`` of each item, in order, on all cores and with progress. Both must be picklable.

    Raises what ``function`` raises, and UserError where a worker dies. Work that has not begun is then dropped.
    """
    items, waiting = list(items), ExitStack()
    waiting.enter_context(signals_wait())
    try:
        pool = ProcessPoolExecutor(max(1, min(cores(), len(items))), initializer=start_worker)
        results = pool.map(function, items, chunksize=chunksize)
    except OSError as error:
        waiting.close()
        why = shortage(error) or f"{error.strerror}; they need memory and some room in /dev/shm (docker run --shm-size)"
        raise UserError(f"{label}: worker processes cannot start: {why}") from None
    workers = list((getattr(pool, "_processes", None) or {}).values())  # which a broken pool forgets
    with pool:
        try:
            waiting.close()
            yield from progress(results, label, len(items))
        except BrokenProcessPool:
            pool.shutdown()
            statuses = [worker.exitcode for worker in workers if worker.exitcode not in (None, 0, -signal.SIGTERM)]
            reason = cause_of_end(statuses[0]) if statuses else "was lost"
            raise UserError(f"{label}: a worker process {reason}; start the same command again") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)  # not waiting for what is under way leads to a traceback at the exit
            raise

"""All cores for many small files: processes that stop when told to and report a bad file in one line."""
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import parent_process
from pathlib import Path

import cv2
import numpy as np

from util.run.atomic import write_bytes_atomically
from util.runtime.progress import progress

REMEDY = "free some space, then start the same command again: what is whole is kept"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker() -> None:
    cv2.setNumThreads(0)                            # one process, one core
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C reaches the whole group; the main process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A main process that is killed tells nobody; its workers would wait for work for ever."""
    parent_process().join()
    os._exit(1)


def write_changed(path: Path, data: bytes) -> None:
    """Write ``data``, unless that is what ``path`` holds: finished work stays untouched. Raises UserError."""
    if not path.is_file() or path.read_bytes() != data:
        write_bytes_atomically(path, data, REMEDY)


def write_lists(root: Path, parts: dict[str, list[tuple[str, str]]]) -> None:
    """ROOT/lists/PART.txt with a line "image mask", paths below ROOT, for each pair of a part."""
    for part, pairs in parts.items():
        write_changed(root / "lists" / f"{part}.txt", "".join(f"{i} {m}\n" for i, m in pairs).encode())


def clear_leftovers(targets: Iterable[Path]) -> None:
    """Remove what a process that was killed left half-written beside ``targets``."""
    for folder in {target.parent for target in targets}:
        if folder.is_dir():
            for leftover in folder.glob(".*.part"):
                leftover.unlink(missing_ok=True)


def make_masks(draw: Callable[[object], np.ndarray], jobs: list[tuple[Path, object]], label: str) -> None:
    """Write the mask ``draw(what)`` to ``target`` for each (target, what) whose target is not there yet.

    draw: a picklable function to (H, W) uint8. Files are whole or absent, whenever the work is stopped; a later call
    goes on from there. Prints the rate. Raises UserError as ``draw`` does, and where the disk is full.
    """
    clear_leftovers(target for target, _ in jobs)
    todo = [(target, what) for target, what in jobs if not target.is_file() or not target.stat().st_size]
    if not todo:
        return
    start = time.perf_counter()
    used = min(cores(), len(todo))
    with ProcessPoolExecutor(used, initializer=start_worker) as pool:
        try:
            for _ in progress(pool.map(partial(_write, draw), todo, chunksize=16), label, len(todo)):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    seconds = time.perf_counter() - start
    print(f"{label}: {len(todo)} masks in {seconds:.1f} s ({len(todo) / seconds:.0f}/s on {used} cores, "
          f"{1000 * seconds * used / len(todo):.2f} ms a mask and core)", flush=True)


def _write(draw, job: tuple[Path, object]) -> None:
    target, what = job
    write_bytes_atomically(target, cv2.imencode(".png", draw(what))[1].tobytes(), REMEDY, durable=False)

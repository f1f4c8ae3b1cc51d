"""All cores for many small files, each of which is whole or absent."""
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from util.run.atomic import write_bytes_atomically
from util.runtime.workers import cores, map_in_processes

REMEDY = "free some space, then start the same command again: what is whole is kept"


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
    for _ in map_in_processes(partial(_write, draw), todo, label):
        pass
    seconds, used = time.perf_counter() - start, min(cores(), len(todo))
    print(f"{label}: {len(todo)} masks in {seconds:.1f} s ({len(todo) / seconds:.0f}/s on {used} cores, "
          f"{1000 * seconds * used / len(todo):.2f} ms a mask and core)", flush=True)


def _write(draw, job: tuple[Path, object]) -> None:
    target, what = job
    write_bytes_atomically(target, cv2.imencode(".png", draw(what))[1].tobytes(), REMEDY, durable=False)

"""Masks as PNG files, each of which remembers what it was made from and is made again when that changes."""
import hashlib
import struct
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from data.prepare.archives import REMEDY, clear_leftovers
from util.run.atomic import write_bytes_atomically
from util.runtime.progress import progress
from util.runtime.workers import cores, map_in_processes

HEADER = 33                         # bytes of a PNG before its second chunk: the signature and IHDR
KEY, END = b"made from\0", b"IEND\xaeB`\x82"   # of the text chunk that follows, and how a whole PNG ends
VERSION = "1"                       # of the rules below; masks of another version are made again


def make_masks(draw: Callable[[object], np.ndarray], source: Callable[[object], bytes], rule: str,
               jobs: list[tuple[Path, object]], label: str) -> None:
    """Write the mask ``draw(what)`` to ``target`` for each (target, what), unless it is there and made from the same.

    draw: a picklable function to (H, W) uint8. source: all that the mask follows from, with ``rule``, as bytes.
    Files are whole or absent, whenever the work is stopped; a later call goes on from there. Prints the rate.
    Raises UserError as ``draw`` and ``source`` do, and where the disk is full.
    """
    clear_leftovers(target for target, _ in jobs)
    todo = []
    for target, what in progress(jobs, f"comparing {label}", len(jobs)):
        digest = hashlib.sha256(f"{VERSION} {rule}\0".encode() + source(what)).hexdigest()
        if not _made_from(target, digest):
            todo.append((target, what, digest))
    if not todo:
        return
    start = time.perf_counter()
    for _ in map_in_processes(partial(_write, draw), todo, label):
        pass
    seconds, used = time.perf_counter() - start, min(cores(), len(todo))
    print(f"{label}: {len(todo)} of {len(jobs)} made in {seconds:.1f} s ({len(todo) / seconds:.0f}/s on {used} cores, "
          f"{1000 * seconds * used / len(todo):.2f} ms a mask and core)", flush=True)


def _chunk(digest: str) -> bytes:
    """A tEXt chunk, which readers of images pass over (PNG specification, 11.3.4.3)."""
    body = b"tEXt" + KEY + digest.encode()
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _made_from(target: Path, digest: str) -> bool:
    data = target.read_bytes() if target.is_file() else b""
    return data.startswith(_chunk(digest), HEADER) and data.endswith(END)


def _write(draw, job: tuple[Path, object, str]) -> None:
    target, what, digest = job
    png = cv2.imencode(".png", draw(what))[1].tobytes()
    write_bytes_atomically(target, png[:HEADER] + _chunk(digest) + png[HEADER:], REMEDY, durable=False)

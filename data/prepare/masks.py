"""Masks as PNG files, each of which remembers what it was made from and is made again when that changes."""
import hashlib
import struct
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from data.prepare.archives import REMEDY, clear_leftovers
from util.run.atomic import write_bytes_atomically
from util.runtime.png import encode_png
from util.runtime.progress import progress
from util.runtime.workers import cores, map_in_processes

HEADER = 33                         # bytes of a PNG before its second chunk: the signature and IHDR
KEY = b"made from\0"                # of the text chunk that follows: two SHA-256 in hexadecimal, 129 bytes
CHUNK = 12 + len(KEY) + 129         # bytes of it
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


def _marked(png: bytes, digest: str) -> bytes:
    """``png`` with a tEXt chunk of ``digest`` and its own hash, which readers ignore (PNG specification, 11.3.4.3)."""
    body = b"tEXt" + KEY + f"{digest} {hashlib.sha256(png).hexdigest()}".encode()
    return b"".join((png[:HEADER], struct.pack(">I", len(body) - 4), body, struct.pack(">I", zlib.crc32(body)),
                     png[HEADER:]))


def _made_from(target: Path, digest: str) -> bool:
    """Whether ``target`` is as it was written, and was made from what ``digest`` is the hash of."""
    data = target.read_bytes() if target.is_file() else b""
    return data == _marked(data[:HEADER] + data[HEADER + CHUNK:], digest)


def made_here(target: Path) -> bool:
    """Whether data.prepare wrote the file, be it from other sources than today's."""
    with open(target, "rb") as file:
        return file.read(HEADER + 8 + len(KEY)).endswith(b"tEXt" + KEY)


def _write(draw, job: tuple[Path, object, str]) -> None:
    target, what, digest = job
    write_bytes_atomically(target, _marked(encode_png(draw(what)), digest), REMEDY, durable=False)

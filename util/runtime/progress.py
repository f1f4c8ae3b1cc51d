"""Progress with the time left: a bar on a terminal, a plain line now and then in a log file or CI."""
import contextlib
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm


class _Lines:
    """The part of tqdm that we use, as plain lines, at most one every ``every`` seconds."""

    def __init__(self, items: Iterable, label: str, total: int | None, initial: int, every: float = 15.0):
        self.items, self.label, self.total, self.initial, self.every = items, label, total, initial, every
        self.note = ""

    def __iter__(self) -> Iterator:
        start = last = time.monotonic()
        done = self.initial
        for item in self.items:
            yield item
            done += 1
            now = time.monotonic()
            if now - last >= self.every:
                last = now
                rate = (done - self.initial) / (now - start)
                left = f", {tqdm.format_interval((self.total - done) / rate)} left" if self.total else ""
                with contextlib.suppress(OSError):  # nobody reads it, or the disk is full
                    print(f"{self.label}: {done}/{self.total or '?'} ({rate:.1f}/s{left}) {self.note}".rstrip(),
                          file=sys.stderr, flush=True)

    def set_postfix(self, **values) -> None:
        self.note = " ".join(f"{key}={value}" for key, value in values.items())


def progress(items: Iterable, label: str, total: int | None = None, initial: int = 0):
    """Iterate over ``items`` with progress on stderr; ``set_postfix(loss=...)`` adds a note.

    Of several processes only the first prints.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items) + initial
    if os.environ.get("RANK", "0") != "0":
        return _Lines(items, label, total, initial, every=math.inf)
    if sys.stderr.isatty():
        return tqdm(items, desc=label, total=total, initial=initial, dynamic_ncols=True, leave=False)
    return _Lines(items, label, total, initial)

"""Progress with the time left, a bar on a terminal or plain lines; and an orderly end on Ctrl-C or SIGTERM."""
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

SAME = 1.0  # s within which a second signal is the first again: clusters signal a process and what started it

go_on = ""                  # what a stopped run says of how to go on
_asked: int | None = None   # the signal that came
_since = 0.0


class Stopped(BaseException):
    """Exception raised where a run can be left; status: the shell's for the signal."""

    def __init__(self, number: int):
        self.status = 128 + number


def listen() -> None:
    """Let SIGINT and SIGTERM ask for an end; a second one ends the program at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _handle)


def _handle(number: int, _frame) -> None:
    """Note the signal; raises nothing, as a destructor might swallow an exception. Loops ask instead."""
    global _asked, _since
    if _asked is None:
        _asked, _since = number, time.monotonic()
    elif time.monotonic() - _since > SAME:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def asked() -> bool:
    """Tell whether a signal has come."""
    return _asked is not None


def leave(number: int | None = None) -> None:
    """Raise Stopped for the signal that came, or for ``number``; return if there is neither."""
    if _asked or number:
        raise Stopped(_asked or number)


class Progress:
    """Progress on stderr with ``note``, of rank 0; raises Stopped between items after a signal unless ``held``."""

    def __init__(self, items: Iterable, label: str, total: int | None, initial: int, held: bool):
        self.items, self.label, self.total, self.initial, self.held = items, label, total, initial, held
        rank = os.environ.get("RANK", "0") if "TORCHELASTIC_RUN_ID" in os.environ else "0"  # torchrun's, no other's
        self.note, first, terminal = "", rank == "0", sys.stderr.isatty()
        self.every = 15.0 if first and not terminal else math.inf       # s between two lines
        self.bar = tqdm(desc=label, total=total, initial=initial, dynamic_ncols=True, leave=False,
                        disable=not (first and terminal))

    def __iter__(self) -> Iterator:
        start = last = time.monotonic()
        with self.bar:
            for done, item in enumerate(self.items, self.initial + 1):
                yield item
                if not self.held:
                    leave()
                self.bar.set_postfix_str(self.note, refresh=False)
                self.bar.update()
                now = time.monotonic()
                if now - last >= self.every:
                    last, rate = now, (done - self.initial) / (now - start)
                    left = f", {tqdm.format_interval((self.total - done) / rate)} left" if self.total else ""
                    print(f"{self.label}: {done}/{self.total or '?'} ({rate:.1f}/s{left}) {self.note}".rstrip(),
                          file=sys.stderr, flush=True)


def progress(items: Iterable, label: str, total: int | None = None, initial: int = 0, held: bool = False) -> Progress:
    """Iterate over ``items`` with progress on stderr."""
    if total is None and hasattr(items, "__len__"):
        total = len(items) + initial
    return Progress(items, label, total, initial, held)

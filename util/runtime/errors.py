"""Errors that a user can mend: one clear line on stderr, exit status 2, no traceback."""
import argparse
import atexit
import errno
import io
import multiprocessing.util
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import regex

from model.clip.errors import WeightsError
from util.runtime import progress

# Control and format characters and line separators, but newlines, tabs and, as bars need them, carriage returns outside
HIDDEN = regex.compile(r"(?!\A\r|\r\Z)[^\P{Cc}\n\t]|[\p{Cf}\p{DI}\p{Zl}\p{Zp}]")


class UserError(Exception):
    """Mistake of a user's: what is wrong, where, and what to do about it, in one line."""


class Parser(argparse.ArgumentParser):
    """Argument parser that raises UserError for a wrong command line, in one line that ends in ``remedy``."""
    remedy = "--help explains the arguments"

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str):
        raise UserError(f"{message}; {self.remedy}")


def visible(text: str) -> str:
    """Escape HIDDEN characters, which a terminal would obey and nobody would see."""
    return HIDDEN.sub(lambda match: ascii(match[0])[1:-1], text)


def require_file(path: str | Path, remedy: str) -> Path:
    """Return ``path`` if a file is there. Raises UserError, which ends with ``remedy``, otherwise."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    return path


def _end_workers() -> None:
    """Kill the loader processes that are left: they ignore SIGTERM, and Python would wait for them for ever."""
    workers = multiprocessing.active_children()
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)   # torch's raises an error for each that ends
    for worker in workers:
        worker.kill()


atexit.register(_end_workers)  # for programs without run_main; after multiprocessing's own handler, so it runs before


def run_main(main: Callable[[], int | None]) -> None:
    """Run ``main`` and exit: UserError and WeightsError with a line and 2, signals with theirs, else a traceback."""
    os.environ.setdefault("NO_COLOR", "1")  # newer Pythons colour help and tracebacks, by characters that are HIDDEN
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold what a terminal or a log cannot
            stream.write = lambda text, write=stream.write: write(visible(text))
    try:
        sys.exit(main())
    except (UserError, WeightsError) as error:
        # From a loader process it comes with that one's traceback, whose last line is the message.
        line, status = f"error: {' '.join(visible(regex.split('(?:User|Weights)Error: ', str(error))[-1]).split())}", 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        line, status = visible(f"error: {error.filename}: {error.strerror.lower()}"), 2
    except progress.Stopped as stopped:
        line, status = f"stopped{progress.go_on}", stopped.status
    except KeyboardInterrupt:
        line, status = "stopped", 130
    finally:
        _end_workers()
    print(("\n" if sys.stderr.isatty() else "") + line, file=sys.stderr)
    sys.exit(status)

"""Mistakes that a user can mend: one clear line on stderr, exit status 2, no traceback."""
import argparse
import errno
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from util.runtime.stop import Stopped


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line."""


def reason_of(error: BaseException) -> str:
    """What a library says in its error, in one line; the kind of error where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other mistake is reported: in one line, which ends in ``remedy``."""
    remedy = "--help explains the arguments"

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str):
        raise UserError(f"{message}; {self.remedy}")


def require_file(path: str | Path, remedy: str) -> Path:
    """``path`` if a file is there; otherwise a UserError that ends with ``remedy``."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    return path


def run_main(main: Callable[[], int | None], *also: type[Exception]) -> None:
    """Run a script's ``main`` and leave with its status.

    UserError, ``also``, errors of files and streams and a machine that is too small become a line and status 2; a
    reader of stdout that has gone (``| head``) ends the script in silence. A process of torchrun leaves its reason to
    what started it.
    """
    _open_streams()
    try:
        status = main()
        sys.stdout.flush()
    except (UserError, *also) as error:
        status = _end(f"error: {error}", 2)
    except Stopped as stopped:
        status = _end(f"stopped{stopped.where}", stopped.status)
    except KeyboardInterrupt:
        status = _end("stopped", 130)
    except Exception as error:
        line = shortage(error)
        if line:
            status = _end(f"error: {line}", 2)
        elif isinstance(error, OSError):
            status = _end_of_stream(error)
        elif _record(traceback.format_exc()):
            status = 1
        else:
            raise
    sys.exit(status)


def shortage(error: Exception) -> str:
    """What the machine had too little of, and what to lower, if ``error`` was raised for that; otherwise ""."""
    text, torch = str(error), sys.modules.get("torch")  # not imported here: that takes seconds
    out_of_memory = (MemoryError, torch.OutOfMemoryError) if torch else MemoryError
    if isinstance(error, out_of_memory) or "DefaultCPUAllocator" in text:
        asked = re.search(r"tried to allocate ([\d.]+ \w+)", text, re.IGNORECASE)
        return (f"memory ran out{f' ({asked[1]} more were wanted)' if asked else ''}; train with a smaller "
                f"train.micro_batch, test with a smaller eval.batch_size, predict with a smaller --size or fewer "
                f"names, or take precision=bf16")
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) \
            or re.search("Too many open files|items of ancdata", text):  # torch's, from loader processes
        return "too many open files; take fewer data.workers or raise the limit (ulimit -n 65536)"
    return ""


def tell(line: str) -> None:
    """Print a line on stderr, below a bar or a ^C that may stand there. If nobody can hear it, the status tells."""
    line = line.encode(errors="backslashreplace").decode()
    with suppress(OSError, ValueError):
        print(("\n" if sys.stderr.isatty() else "") + line, file=sys.stderr)
    _give_up(sys.stderr)


def _open_streams() -> None:
    """Let a script print where stdout or stderr is closed, and print names that are not UTF-8."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as while a command is imported (util/runtime/__init__.py)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(text: str, status: int) -> int:
    _give_up(sys.stdout)
    line = " ".join(text.split())
    if not _record(line):
        tell(line)
    return status


def _end_of_stream(error: OSError) -> int:
    """An error of a file names it. One without a name is nearly always that of stdout."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        return _end(f"error: {error.filename}: {reason}", 2)
    if isinstance(error, BrokenPipeError):
        _give_up(sys.stdout)
        return 128 + signal.SIGPIPE
    return _end(f"error: stdout, or another stream, failed ({reason}); free some space, or send it elsewhere", 2)


def _give_up(stream) -> None:
    """Write what is left. Where that fails, keep Python from trying again when it exits."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _record(reason: str) -> bool:
    """Leave a line or a traceback in the error file that torchrun gave this process; False if there is none."""
    file, now = os.environ.get("TORCHELASTIC_ERROR_FILE"), int(time.time())
    message = {"message": reason, "extraInfo": {"py_callstack": reason, "timestamp": now}} if "\n" in reason else reason
    with suppress(OSError):
        if file:
            Path(file).write_text(json.dumps({"message": message, "timestamp": now}))
            return True
    return False

"""torchrun, with the reason of a failure told once, in one line.

    python -m util.runtime.torchrun --standalone --nproc-per-node=4 train.py [argument ...]

Takes torchrun's arguments. The first process of a machine has the terminal; what ends one of the others is recorded in
torchrun's error files (``run_main`` does that) and told here. Ctrl-C and SIGTERM are passed on once, and all processes
have the time that their step takes.
"""
import json
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed import DistError
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError

from util.runtime.errors import run_main, tell
from util.runtime.stop import Stopped, StopRequest
from util.runtime.workers import cause_of_end, cores

TOGETHER = 2  # s between a failure and those that follow from it: the others lose the connection at once


def main() -> int:
    logging.disable()  # torchrun logs every step of an end
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600")  # s that a step may take after SIGTERM, not 30
    arguments = torchrun.parse_args(sys.argv[1:])
    count = torchrun.determine_local_world_size(arguments.nproc_per_node)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    arguments.signals_to_handle = "SIGQUIT"  # StopRequest takes the others: a second signal soon after is the same one
    arguments.local_ranks_filter = "0"
    StopRequest()
    with TemporaryDirectory(prefix="torchrun-") as folder:
        arguments.log_dir = folder
        try:
            torchrun.run(arguments)
        except ChildFailedError as error:
            return _tell(error.failures)
        except Stopped as stopped:
            said = [_recorded(file) for file in sorted(Path(folder).rglob("error.json"))]
            stopped.where = next((text.removeprefix("stopped") for text in said if text.startswith("stopped")), "")
            raise
    return 0


def _tell(failures: dict[int, ProcessFailure]) -> int:
    """Say why the run ended; returns its status. What followed from the first failure is passed over."""
    since = min(failure.timestamp for failure in failures.values())
    first = {rank: failure for rank, failure in failures.items() if failure.timestamp <= since + TOGETHER}
    rank = min(first, key=lambda rank: (_kind(first[rank]), rank))
    failure, text = first[rank], _recorded(first[rank].error_file)
    if not text or "\n" in text:
        if text:
            print(text, file=sys.stderr)
        text = (f"error: rank {rank} {cause_of_end(failure.exitcode)}; the other processes were ended; go on with "
                f"resume= and the folder of the run")
    tell(text)
    return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode


def _kind(failure: ProcessFailure) -> int:
    """How well it explains the end, 0 best: a user's mistake, a killed process, one that stopped when torchrun told it
    to, an error, one that torchrun ended.
    """
    text = _recorded(failure.error_file)
    if text and "\n" not in text:
        return 2 if text.startswith("stopped") else 0
    return 4 if failure.exitcode == -signal.SIGTERM else 1 if failure.exitcode < 0 else 3


def _recorded(error_file: str | Path) -> str:
    """A line of ``run_main``, or a traceback, or ""."""
    with suppress(OSError, ValueError, KeyError):
        message = json.loads(Path(error_file).read_text())["message"]
        return message if isinstance(message, str) else message["extraInfo"]["py_callstack"]
    return ""


if __name__ == "__main__":
    run_main(main, DistError, RendezvousError)  # machines that do not meet

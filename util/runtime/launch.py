"""Start a script in several processes on this machine that begin and end together.

    python -m util.runtime.launch COUNT train.py [argument ...]

They find each other by torchrun's environment variables, and torchrun starts them too (on several machines, say). On
one machine this takes its place: torchrun tells of a mistake as often as there are processes, with a traceback of its
own, or ends rank 0 before that has said what is wrong; it stops the loader workers of a process that is still to finish
its step; and processes that wait for a lost one it leaves 30 s.
"""
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

GRACE = 3.0  # s that rank 0 has to say what is wrong where another process has met it first


class Ranks:
    """``count`` processes of one command. Rank 0 has this terminal; what others say on stderr is told if it ended all.

    Ctrl-C and SIGTERM are passed on to all, once each: a terminal's Ctrl-C does not reach them, for each has a session
    of its own, which also lets it be ended with its loader workers.
    """

    def __init__(self, count: int, command: list[str]):
        self.asked: int | None = None
        self.processes: list[subprocess.Popen] = []
        self.stderr = [None] + [tempfile.TemporaryFile() for _ in range(1, count)]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._pass_on)
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count),
                  "LOCAL_WORLD_SIZE": str(count),
                  "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))}
        for rank, stderr in enumerate(self.stderr):
            if self.asked is None:
                self.processes.append(subprocess.Popen(
                    command, env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL if rank else None, stderr=stderr,
                    start_new_session=True))
        if self.asked is not None:  # the last one may have missed it, and none has begun
            self.end()

    def _pass_on(self, number: int, _frame) -> None:
        self.asked = number
        for process in self.processes:
            process.send_signal(number)

    def wait(self) -> int:
        """Wait for all, ending the rest once one has failed; returns the status of the whole."""
        failed, since = None, 0.0
        while None in [process.poll() for process in self.processes]:
            if failed is None:
                failed, since = self._failed(), time.monotonic()
            elif self.processes[0].returncode is not None or time.monotonic() - since > GRACE:
                break
            time.sleep(0.05)
        if failed is None:
            failed = self._failed()
        if failed is None:
            return 0
        self.end()
        return self._tell(failed)

    def _failed(self) -> int | None:
        return next((rank for rank, process in enumerate(self.processes) if process.returncode), None)

    def end(self) -> None:
        """Kill what is left, loader workers of lost processes included. What the script writes is whole or absent."""
        for process in self.processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

    def _tell(self, failed: int) -> int:
        """Say why rank ``failed`` ended all, unless rank 0 has said it; returns the status."""
        status, first, who = self.processes[failed].returncode, self.processes[0].returncode, \
            f"rank {failed} of {len(self.processes)}"
        if self.asked is not None:
            if first < 0:  # it had no time to say so
                print("\nstopped; go on with resume= and the folder of the run", file=sys.stderr)
            return 128 + self.asked
        if status < 0:
            number = signal.Signals(-status)
            why = ", as the kernel does where memory runs out" if number == signal.SIGKILL else ""
            print(f"\nerror: {who} was killed by {number.name}{why}; the others were ended; go on with resume= and the "
                  f"folder of the run", file=sys.stderr)
            return 128 - status
        if first > 0:
            return first
        self.stderr[failed].seek(0)
        said = self.stderr[failed].read().decode(errors="replace").rstrip()
        mistake = [line for line in said.splitlines() if line.startswith("error: ")] if status == 2 else []
        print("\n" + (mistake[-1] if mistake else f"{said}\nerror: {who} ended with status {status}; the others were "
                      f"ended; go on with resume= and the folder of the run"), file=sys.stderr)
        return status


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> int:
    ranks = Ranks(int(sys.argv[1]), [sys.executable, *sys.argv[2:]])
    try:
        return ranks.wait()
    finally:
        ranks.end()


if __name__ == "__main__":
    sys.exit(main())

"""Stopping a run: Ctrl-C and SIGTERM wait for the step under way, so that nothing is lost."""
import signal
import time

SAME = 1.0  # s within which a second signal is the first one again: clusters signal a process and what started it


class Stopped(BaseException):
    """Raised where the run can be left. status: the shell's for the signal; where: how to go on, in words."""

    def __init__(self, number: int, where: str = ""):
        self.status, self.where = 128 + number, where


class StopRequest:
    """Turns SIGINT and SIGTERM into a request. Within ``with request:`` it waits for ``check`` or for the caller.

    Outside, and at a second signal, ``Stopped`` is raised at once.
    """

    def __init__(self):
        self.number: int | None = None
        self.held, self._since = False, 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number, _frame) -> None:
        again = self.number is not None
        if again and time.monotonic() - self._since < SAME:
            return
        self.number, self._since = number, time.monotonic()  # kept, should a destructor swallow what is raised here
        if again or not self.held:
            raise Stopped(number)

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self.number is not None:
            raise Stopped(self.number)

    def __enter__(self) -> "StopRequest":
        self.held = True
        return self

    def __exit__(self, *_) -> None:
        self.held = False

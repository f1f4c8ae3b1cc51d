"""Stopping a run: Ctrl-C and SIGTERM wait for the step under way, so that nothing is lost."""
import signal
import sys
import threading
import time

SAME = 1.0  # s within which a second signal is the first one again: clusters signal a process and what started it
SOON = 0.05  # s from a destructor, which swallows what is raised in it, to the next try


class Stopped(BaseException):
    """Raised where the run can be left. status: the shell's for the signal; where: how to go on, in words."""

    def __init__(self, number: int, where: str = ""):
        self.status, self.where = 128 + number, where


class StopRequest:
    """Turns SIGINT and SIGTERM into a request. Within ``with request:`` it waits for the caller, at most to the end.

    ``Stopped`` is raised there. Outside, and at a second signal, it is raised at once; in a destructor, which swallows
    it, soon after.
    """

    def __init__(self):
        self.number: int | None = None
        self.held, self._since = False, 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        sys.unraisablehook = self._try_again

    def _handle(self, number, _frame) -> None:
        again = self.number is not None
        if again and time.monotonic() - self._since < SAME:
            return
        self.number, self._since = number, time.monotonic()
        if again or not self.held:
            raise Stopped(number)

    def _try_again(self, swallowed) -> None:
        if not isinstance(swallowed.exc_value, Stopped):
            return sys.__unraisablehook__(swallowed)
        self.number = None
        timer = threading.Timer(SOON, signal.pthread_kill,
                                (threading.main_thread().ident, swallowed.exc_value.status - 128))
        timer.daemon = True
        timer.start()

    def __enter__(self) -> "StopRequest":
        self.held = True
        return self

    def __exit__(self, error, *_) -> None:
        self.held = False
        if self.number is not None and error is None:
            raise Stopped(self.number)

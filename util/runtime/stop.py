"""Stopping a run: Ctrl-C and SIGTERM wait for the step under way, so that nothing is lost."""
import signal


class Stopped(BaseException):
    """Raised where the run can be left; ``status`` is the shell's for the signal."""

    def __init__(self, number: int):
        self.status = 128 + number


class StopRequest:
    """Turns SIGINT and SIGTERM into a request that the training loop honours between steps.

    Outside ``hold``, and at a second signal, ``Stopped`` is raised at once.
    """

    def __init__(self):
        self.number: int | None = None
        self.held = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number, _frame) -> None:
        again, self.number = self.number is not None, number  # kept, should what is raised here be lost in a destructor
        if again or not self.held:
            raise Stopped(number)

    def check(self) -> None:
        if self.number is not None:
            raise Stopped(self.number)

    def __enter__(self) -> "StopRequest":
        self.held = True
        return self

    def __exit__(self, *_) -> None:
        self.held = False

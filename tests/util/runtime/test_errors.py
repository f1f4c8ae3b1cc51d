"""However a command ends: one line on stderr and a status that tells; a fault of the program keeps its traceback."""
import signal
import subprocess
import sys

import cv2
import pytest

from model.clip.errors import WeightsError
from util.config import ROOT
from util.runtime.errors import UserError, run_main
from util.runtime.progress import Stopped, progress

FROM_A_WORKER = """Caught UserError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "worker.py", line 3, in _worker_loop
util.runtime.errors.UserError: a.jpg: the JPEG is cut short; fetch it again
"""


@pytest.mark.parametrize("error, status, line", [
    (UserError("a.yaml: not valid YAML:\n  in line 3\n    here"), 2, "error: a.yaml: not valid YAML: in line 3 here"),
    (UserError(FROM_A_WORKER), 2, "error: a.jpg: the JPEG is cut short; fetch it again"),
    (WeightsError("clip.pt: no such file"), 2, "error: clip.pt: no such file"),
    (UserError("a\r\x1b[2J\u202eb.png"), 2, r"error: a\r\x1b[2J\u202eb.png"),
    (Stopped(signal.SIGTERM), 143, "stopped"), (KeyboardInterrupt(), 130, "stopped")])
def test_an_end_is_told_in_one_line(error, status, line, capsys):
    def main():
        raise error
    with pytest.raises(SystemExit) as left:
        run_main(main)
    assert left.value.code == status and capsys.readouterr().err == line + "\n"


def test_what_is_printed_moves_and_hides_nothing(capsys):
    with pytest.raises(SystemExit):
        run_main(lambda: print("\rbar 1%\r", "星\ta\n", "a\rb\x07\x9b\u200b\u2066\u2028\U000e0041", sep="", end=""))
    assert capsys.readouterr().out == "\rbar 1%\r星\ta\n" + r"a\rb\x07\x9b\u200b\u2066\u2028\U000e0041"


def test_a_rank_counts_where_torchrun_gave_it(monkeypatch):
    for name, value, every in (("RANK", "abc", 15), ("TORCHELASTIC_RUN_ID", "x", float("inf"))):
        monkeypatch.setenv(name, value)
        assert progress([], "").every == every


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 / 0)


def test_opencv_is_silent(capfd):
    """Our own message names the file; OpenCV's would follow it."""
    assert cv2.imread("nowhere.png") is None and capfd.readouterr().err == ""


PROGRAM = """
import signal
from util.runtime import progress
progress.listen()
for _ in range(2):  # as `timeout` and clusters send it: to a process, and to its group
    signal.raise_signal(signal.SIGTERM)
print(progress.asked(), flush=True)
progress.SAME = 0
signal.raise_signal(signal.SIGTERM)
"""


def test_a_second_signal_ends_the_program_unless_it_is_the_first_one_again():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True\n" and done.returncode == -signal.SIGTERM and done.stderr == ""

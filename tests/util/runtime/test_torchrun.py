"""Of all that torchrun knows of a failure, one reason is told. tests/scripts/test_processes.py starts real ones."""
import json
import signal
import threading

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from util.runtime import processes, torchrun
from util.runtime.errors import UserError, run_main
from util.runtime.stop import Stopped

TERM, KILL, SEGV = -signal.SIGTERM, -signal.SIGKILL, -signal.SIGSEGV


@pytest.fixture
def fail(tmp_path, monkeypatch, capsys):
    """fail(rank, exception or None, status, seconds) is what torchrun knows of a process that ended so."""
    def fail(rank, error, status, seconds=0):
        file = tmp_path / f"{rank}.json"
        if error:
            def main():
                raise error
            monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
            with pytest.raises(SystemExit) as left:
                run_main(main)
            assert left.value.code == status and capsys.readouterr() == ("", ""), "silent itself"
            monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
        failure = ProcessFailure(rank, 1, status, str(file))
        failure.timestamp = 1000 + seconds
        return failure
    return fail


LOST = RuntimeError("[gloo] Connection closed by peer")
MISTAKE = UserError("bad.jpg is\ncut short")
CASES = {
    "a mistake of one": ({0: (LOST, 1), 1: (MISTAKE, 2)}, 2, "error: bad.jpg is cut short"),
    "a mistake of all": ({0: (MISTAKE, 2), 1: (MISTAKE, 2)}, 2, "error: bad.jpg is cut short"),
    "the others are ended": ({0: (None, TERM), 1: (MISTAKE, 2)}, 2, "error: bad.jpg is cut short"),
    "told while it was ended": ({0: (None, TERM), 1: (Stopped(15, "; resume=x"), 143)}, 143, "stopped; resume=x"),
    "killed while the other evaluates": ({0: (Stopped(15, "; resume=x"), 143), 1: (None, KILL)}, 137,
                                         "error: rank 1 was killed by SIGKILL, as the kernel does"),
    "killed": ({0: (LOST, 1), 1: (None, KILL, 1)}, 137, "error: rank 1 was killed by SIGKILL, as the kernel does"),
    "crashed": ({0: (None, TERM), 1: (None, SEGV)}, 139, "error: rank 1 was killed by SIGSEGV; the other"),
    "killed by torchrun in the end": ({0: (None, KILL, 30), 1: (None, 3)}, 3, "error: rank 1 ended with status 3; the"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_reason_is_told(case, fail, capsys):
    failures, status, line = CASES[case]
    assert torchrun._tell({rank: fail(rank, *failure) for rank, failure in failures.items()}) == status
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1


def test_an_error_of_the_program_comes_with_its_traceback(fail, capsys):
    assert torchrun._tell({0: fail(0, None, TERM), 1: fail(1, ZeroDivisionError("oh"), 1)}) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and "ZeroDivisionError: oh" in said
    assert said.splitlines()[-1].startswith("error: rank 1 ended with status 1; ")


def test_torchrun_itself_shows_the_line(fail):
    failure = fail(1, MISTAKE, 2)
    assert failure.message == "error: bad.jpg is cut short" and json.loads(open(failure.error_file).read())["timestamp"]


def test_a_process_without_torchrun_stops_as_after_sigterm(monkeypatch):
    sent = []
    monkeypatch.setattr(processes.os, "kill", lambda pid, number: sent.append(number))
    monkeypatch.setattr(processes.os, "_exit", lambda status: sent.append(status))
    monkeypatch.setattr(processes, "GRACE", 0)
    thread = threading.Thread(target=processes._stop_without, args=(1 + processes.os.getppid(),))
    thread.start()
    thread.join()
    assert sent == [signal.SIGTERM, 143]

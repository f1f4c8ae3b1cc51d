"""However a command ends: one line or none on stderr, a status that tells, no traceback."""
import importlib
import os
import signal
import subprocess
import sys
import time

import cv2
import pytest
import torch
from runs import signals_kept

from util.config import ROOT
from util.runtime.errors import UserError, run_main
from util.runtime.stop import Stopped, StopRequest

NAME = os.fsdecode(b"caf\xe9.jpg")  # Latin-1, as an old disk has it

FULL = "error: stdout, or another stream, failed (No space left on device); "


@pytest.mark.parametrize("error, status, line", [
    (UserError("a.yaml: not valid YAML:\n  in line 3\n    here"), 2, "error: a.yaml: not valid YAML: in line 3 here"),
    (UserError(f"{NAME}: not an image"), 2, "error: caf\\udce9.jpg: not an image"),
    (PermissionError(13, "Permission denied", "/root/list.txt"), 2, "error: /root/list.txt: Permission denied"),
    (OSError(28, "No space left on device"), 2, f"{FULL}free some space, or send it elsewhere"),
    (Stopped(signal.SIGTERM, "; go on with resume=x"), 143, "stopped; go on with resume=x"),
    (KeyboardInterrupt(), 130, "stopped")])
def test_an_end_is_told_in_one_line(error, status, line, capsys):
    def main():
        raise error
    with pytest.raises(SystemExit) as left:
        run_main(main)
    assert left.value.code == status
    told = capsys.readouterr().err.encode(errors="backslashreplace").decode()
    assert told == line + "\n"


@pytest.mark.parametrize("error, told", [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 3 GiB"),
     ["memory ran out (2.50 GiB more", "train.micro_batch", "eval.batch_size", "precision=bf16"]),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to "
                  "allocate 99 bytes."), ["memory ran out (99 bytes more", "train.micro_batch"]),
    (MemoryError(), ["memory ran out;", "eval.batch_size"]),
    (OSError(24, "Too many open files", "a.jpg"), ["too many open files", "data.workers", "ulimit -n"]),
    (RuntimeError("Too many open files. Communication with the workers is no longer possible."), ["ulimit -n"]),
    (RuntimeError("received 0 items of ancdata"), ["too many open files"])])
def test_a_machine_that_is_too_small_is_told_in_one_line_with_what_to_lower(error, told, capsys):
    def main():
        raise error
    with pytest.raises(SystemExit) as left:
        run_main(main)
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert all(part in said for part in told), said


def test_a_mistake_of_the_program_keeps_its_traceback():
    def mistaken():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    for wrong in (lambda: 1 / 0, mistaken):
        with pytest.raises((ZeroDivisionError, RuntimeError)):
            run_main(wrong)


SAY = "from util.runtime.errors import UserError, run_main\ndef main():\n    "
SAYS = {"little": "print('word')", "much": "print('word' * 100000)", "name": f"print({NAME!r})",
        "mistake": "print('word'); raise UserError('wrong')"}


@pytest.mark.parametrize("says, redirection, status, told", [
    ("much", "| head -c 1", 141, ""), ("little", "| true", None, ""), ("little", ">&-", 0, ""),
    ("little", "> /dev/full", 2, FULL), ("much", "> /dev/full", 2, FULL),
    ("mistake", "> /dev/full", 2, "error: "), ("mistake", ">&-", 2, "error: wrong"), ("mistake", "2>&-", 2, ""),
    ("mistake", "2> /dev/full", 2, ""), ("mistake", ">&- 2>&-", 2, ""), ("name", "> /dev/null", 0, "")])
@pytest.mark.parametrize("buffered", [True, False])
def test_closed_and_full_streams(says, redirection, status, told, buffered, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "" if buffered else "1"}
    script = tmp_path / "script.py"
    script.write_text(f"{SAY}{SAYS[says]}\nrun_main(main)\n")
    line = f'{sys.executable} {script} {redirection}; echo "${{PIPESTATUS[0]}}" > {tmp_path}/status'
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment, text=True,
                          capture_output=True)
    found = int((tmp_path / "status").read_text())
    assert found in ((0, 141) if status is None else (status,))
    assert done.stderr.startswith(told) and done.stderr.count("\n") == bool(told), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seconds, command", [
    *((seconds, ["train.py", "--config=config/shapes/esda.yaml"]) for seconds in (0.15, 0.6, 1.5)),
    (0.4, ["-m", "data.verify", "shapes"])])
def test_ctrl_c_in_the_first_seconds_prints_no_traceback(command, seconds, tmp_path):
    process = subprocess.Popen([sys.executable, *command, f"data.root={tmp_path}/none"], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert "Traceback" not in said and said.count("\n") <= 2 and process.returncode in (-2, 130, 2), said


def test_a_second_signal_soon_after_is_the_first_again(monkeypatch):
    handlers, now = {}, [100.0]
    monkeypatch.setattr("signal.signal", handlers.__setitem__)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stop = StopRequest()
    with pytest.raises(Stopped), stop:
        handlers[signal.SIGTERM](signal.SIGTERM, None)
        now[0] += 0.5
        handlers[signal.SIGTERM](signal.SIGTERM, None)  # torchrun's, after the cluster's own
        now[0] += 5
        with pytest.raises(Stopped):
            handlers[signal.SIGINT](signal.SIGINT, None)  # somebody who does not want to wait for the step


class Last:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_in_a_destructor_is_told_soon_after(capfd):
    with signals_kept(), pytest.raises(Stopped):
        StopRequest()
        Last()
        time.sleep(10)
    assert capfd.readouterr().err == ""


def test_opencv_is_silent(capfd):
    """Our own message names the file; OpenCV's would follow it."""
    assert cv2.imread("nowhere.png") is None and capfd.readouterr().err == ""


@pytest.mark.parametrize("module", ["data.prepare.__main__", "data.prepare.own", "util.compare.__main__",
                                    "util.compare.effects", "util.benchmark.__main__", "convert"])
def test_a_wrong_argument_is_told_in_one_line(module, monkeypatch, capsys):
    main = importlib.import_module(module).main
    monkeypatch.setattr("sys.argv", ["command", "--nosuch"])
    with pytest.raises(SystemExit) as left:
        run_main(main)
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1 and "--help" in said

"""Runs of the real scripts: started, waited for, and compared; and their mains called in the test's own process."""
import contextlib
import importlib.util
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from tensorboardX.proto.event_pb2 import Event

from util.config import ROOT
from util.run import checkpoint
from util.runtime import progress
from util.runtime.errors import run_main

CONFIG = "config/shapes/esda.yaml"
# As in an active environment, which is this one, and with one thread, whatever machine the tests are on.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "VIRTUAL_ENV": sys.prefix,
               "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@contextlib.contextmanager
def signals_kept():
    """Gives SIGINT and SIGTERM back to whom they belong: a run takes them."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        progress._asked, progress.go_on = None, ""
        for number, handler in handlers.items():
            signal.signal(number, handler)


def in_process(script: str, *arguments, **constants) -> subprocess.CompletedProcess:
    """What ``python script arguments`` gives, or ``python -m script``, without the seconds that another Python and
    torch take to start. On one thread, as scripts in processes of their own: a sum's rounding depends on it.

    constants: other values of the script's own ones; train.py logs every iteration if nothing else is said.
    """
    file = ROOT / script
    if file.suffix != ".py":
        file = ROOT / script.replace(".", "/")
        file = file / "__main__.py" if file.is_dir() else file.with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"script_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update({"LOG_EVERY": 1, **constants})
    out, err = io.StringIO(), io.StringIO()
    folder, threads = os.getcwd(), torch.get_num_threads()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    try:
        with mock.patch.object(sys, "argv", [script, *map(str, arguments)]), contextlib.redirect_stdout(out), \
                contextlib.redirect_stderr(err), signals_kept():
            run_main(module.main)
    except SystemExit as left:
        return subprocess.CompletedProcess(script, left.code or 0, out.getvalue(), err.getvalue())
    finally:
        torch.set_num_threads(threads)
        os.chdir(folder)


def complains(result: subprocess.CompletedProcess, *expected) -> None:
    """The run failed with one line on stderr, the last, that holds all of ``expected``, and without a traceback."""
    said = f"{result.stdout}\n{result.stderr}"
    assert result.returncode == 2, said
    assert "Traceback" not in said, said
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("error: ") and said.count("error: ") == 1, said
    for text in expected:
        assert str(text) in lines[-1], f"{text!r} is not in {lines[-1]!r}"


def run_folder(exp: Path, arch: str = "esda", dataset: str = "shapes") -> Path:
    return next((exp / dataset / arch / "fold0").iterdir())


def train(options, exp, *more, config: str = CONFIG) -> Path:
    done = in_process("train.py", "--config", config, *options, f"exp={exp}", *more)
    assert done.returncode == 0, done.stderr
    return run_folder(exp, Path(config).stem, Path(config).parent.name)


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def trained(folder: Path) -> dict:
    return checkpoint.load(folder / "checkpoints/last.pt")["model"]


def losses(folder: Path) -> list[str]:
    """The log's lines of epochs. A run that was stopped between such a line and its checkpoint logs the same again."""
    lines = (folder / "log.txt").read_text().splitlines()
    return list(dict.fromkeys(line.split(" ", 1)[1] for line in lines if " epoch " in line))


def same(a: Path, b: Path) -> None:
    """Same scores, same losses, same weights bit for bit."""
    for key in ("miou", "fb_iou", "per_class", "best_epoch", "last_epoch", "samples", "name_auc", "absent_name_miou"):
        assert results(a)[key] == results(b)[key]
    assert losses(a) == losses(b)
    one, other = trained(a), trained(b)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def events(file: Path) -> list[Event]:
    """What an event file holds, as TensorBoard would read it."""
    found, data, at = [], file.read_bytes(), 0
    while at < len(data):
        length, = struct.unpack_from("<Q", data, at)
        found.append(Event.FromString(data[at + 12:at + 12 + length]))
        at += 16 + length
    return found


# train.py that writes last.pt after every step, and logs every step
EVERY_STEP = [sys.executable, "-c", "import sys, train; sys.argv[0] = 'train.py'; "
              "train.SAVE_EVERY, train.LOG_EVERY = 0, 1; train.run_main(train.main)"]


def start(options, exp, *more, config: str = CONFIG) -> subprocess.Popen:
    return subprocess.Popen([*EVERY_STEP, "--config", config, *options, f"exp={exp}", *more], cwd=ROOT,
                            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            start_new_session=True)


def wait_for(exp: Path, epoch: int, step: int, process: subprocess.Popen) -> None:
    """Wait until ``process``, just started, has written a checkpoint of the run in ``exp`` of that step or a later."""
    started = time.time()
    while time.time() < started + 120:
        assert process.poll() is None, process.communicate()[1]
        for file in exp.rglob("last.pt"):
            at = checkpoint.load(file)["at"]
            if file.stat().st_mtime > started and (at["epoch"], at["step"]) >= (epoch, step):
                return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"no checkpoint of epoch {epoch}, step {step}")

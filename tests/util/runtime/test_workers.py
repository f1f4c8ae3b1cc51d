"""Worker processes of loaders and makers: a dead one ends the work with its reason, none outlives the main process."""
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections import namedtuple
from functools import partial
from pathlib import Path

import pytest
import torch
from runs import signals_kept
from torch.utils.data import Dataset

from data.loader import Loader
from util.runtime import workers
from util.runtime.errors import UserError
from util.runtime.stop import Stopped, StopRequest
from util.runtime.workers import cause_of_end, map_in_processes

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="Linux alone tells who sent a signal")
Batch = namedtuple("Batch", "images ids")


class Images(Dataset):
    """Item i is an image of i; ``act(i)`` comes first, in the worker."""

    def __init__(self, act=lambda i: None, count=8):
        self.act, self.count = act, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.act(i)
        return torch.full((3, 64, 64), i, dtype=torch.uint8), i


def collate(items) -> Batch:
    images, ids = zip(*items)
    return Batch(torch.stack(images), list(ids))


def ids(act, count=8, workers=2) -> list[int]:
    return [i for batch in Loader(Images(act, count), collate, workers, batch_size=2) for i in batch.ids]


def double(i: int) -> int:
    return 2 * i


def kill_at_3(i: int) -> int:
    if i == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return i


def memory_error_at_3(i: int) -> int:
    if i == 3:
        raise MemoryError
    return i


def group_signals(i: int) -> int:
    """What the terminal or a cluster sends to every process of the group."""
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    return i


def complain(i: int) -> int:
    """As libpng and libjpeg do: past Python, on the descriptor."""
    os.write(2, b"libpng error: PNG input buffer is incomplete\n")
    print("python speaks", file=sys.stderr)
    return i


def test_work_is_done_in_order():
    assert list(map_in_processes(double, range(40), "doubling", chunksize=3)) == [2 * i for i in range(40)]
    assert list(map_in_processes(double, [], "nothing")) == []
    assert ids(lambda i: None) == list(range(8))


@pytest.mark.parametrize("work", [lambda: list(map_in_processes(kill_at_3, range(8), "making", chunksize=1)),
                                  lambda: ids(kill_at_3)])
def test_a_killed_worker_ends_the_work_with_its_reason(work):
    began = time.monotonic()
    with pytest.raises(UserError, match="process was killed by SIGKILL, as the kernel does where memory runs out; "):
        work()
    assert time.monotonic() - began < 20


def test_a_worker_killed_between_epochs_ends_the_run():
    loader = Loader(Images(), collate, 1, batch_size=2)
    others = set(multiprocessing.active_children())
    list(loader)
    worker, = set(multiprocessing.active_children()) - others
    with pytest.raises(UserError, match="SIGKILL"):
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(5)  # which its end interrupts


def test_memory_that_runs_out_in_a_worker():
    with pytest.raises(UserError, match="memory ran out; take fewer data.workers"):
        ids(memory_error_at_3)


def test_shared_memory_that_is_too_small():
    """A limit on the size of files stands for a small /dev/shm: that is where shared memory lies."""
    def limit(_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with pytest.raises(UserError, match=r"^/dev/shm has no room[^\n]*data.workers=0[^\n]*--shm-size[^\n]*$"):
        ids(limit)


def test_shared_memory_that_takes_no_worker_at_all(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("multiprocessing.Queue", full)
    with pytest.raises(UserError, match="cannot start.*No space left.*data.workers=0"):
        ids(lambda i: None)
    monkeypatch.setattr(workers, "ProcessPoolExecutor", full)
    with pytest.raises(UserError, match="making: worker processes cannot start.*--shm-size"):
        list(map_in_processes(double, [1], "making"))


def test_a_batch_that_cannot_be_handed_over_ends_the_run(capfd):
    def unpicklable(items):
        return lambda: items
    with pytest.raises(UserError, match="ended with status 1"):
        list(Loader(Images(), unpicklable, 1, batch_size=2))
    assert "loader process: " in capfd.readouterr().err


@pytest.mark.parametrize("work", [lambda: list(map_in_processes(group_signals, range(8), "making", chunksize=1)),
                                  lambda: ids(group_signals)])
def test_a_signal_to_the_whole_group_leaves_the_decision_to_the_main_process(work):
    assert work() == list(range(8))


amid_fork = []  # signals that a new process gets before it does anything
os.register_at_fork(after_in_child=lambda: [os.kill(os.getpid(), number) for number in amid_fork])


@pytest.mark.parametrize("work", [lambda: list(map_in_processes(int, range(8), "making", chunksize=1)),
                                  lambda: ids(lambda i: None)])
def test_a_signal_to_the_whole_group_while_workers_start_does_too(work, monkeypatch, capfd):
    with signals_kept():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os.write(2, b"told"))  # the main process's, which a new one has, too
        monkeypatch.setitem(globals(), "amid_fork", [signal.SIGTERM, signal.SIGINT])
        assert work() == list(range(8))
    assert "told" not in capfd.readouterr().err


def test_a_stop_while_workers_start_comes_when_they_have(monkeypatch):
    start, started = multiprocessing.process.BaseProcess.start, []

    def start_amid_a_stop(process):
        os.kill(os.getpid(), signal.SIGTERM)
        started.append(start(process))
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start_amid_a_stop)
    with signals_kept(), pytest.raises(Stopped):
        StopRequest()
        ids(lambda i: None)
    assert len(started) == 2


@pytest.mark.parametrize("work", [lambda: list(map_in_processes(complain, range(2), "making")),
                                  lambda: ids(complain, 2, 1)])
def test_what_c_libraries_say_in_a_worker_does_not_follow_our_error(work, capfd):
    assert work() == [0, 1]
    said = capfd.readouterr().err
    assert "libpng" not in said and "python speaks" in said


def sleep(folder: str, i: int) -> int:
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)


def keep_busy(folder: str) -> None:
    """A main process with busy workers of both kinds."""
    loader = iter(Loader(Images(partial(sleep, folder)), collate, 2, batch_size=2))
    threading.Thread(target=next, args=(loader,), daemon=True).start()
    next(map_in_processes(partial(sleep, folder), range(4), "sleeping", chunksize=1))


def test_workers_die_with_the_main_process(tmp_path):
    main = multiprocessing.get_context("fork").Process(target=keep_busy, args=(str(tmp_path),))
    main.start()
    wait_for(lambda: len(list(tmp_path.iterdir())) >= 2 + min(workers.cores(), 4))
    main.kill()
    main.join()
    wait_for(lambda: not any(Path("/proc", path.name).exists() for path in tmp_path.iterdir()))


def wait_for(what, seconds=20):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_how_a_process_ended_in_words():
    assert cause_of_end(3) == "ended with status 3" and cause_of_end(-11) == "was killed by SIGSEGV"
    assert "/dev/shm" in cause_of_end(-signal.SIGBUS) and "memory" in cause_of_end(-9)
    assert cause_of_end(-1000) == "was killed by signal 1000"

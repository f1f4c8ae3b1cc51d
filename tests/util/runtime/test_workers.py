"""Worker processes: they change nothing but the speed, and one that dies or fails ends the work."""
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import pytest
import torch
from torch.utils.data import Dataset

from data import dataset
from util.config import ROOT
from util.runtime.errors import UserError
from util.runtime.workers import map_in_processes


class Numbers(Dataset):
    """Item i is i; ``act(i)`` comes first, in the worker."""

    def __init__(self, act):
        self.act = act

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> int:
        self.act(i)
        return i


def loaded(act) -> list[int]:
    return torch.cat(list(dataset.loader(Numbers(partial(at_3, act)), 2, batch_size=2))).tolist()


def mapped(act) -> list[int]:
    return list(map_in_processes(partial(at_3, act), range(8), "making", chunksize=1))


def at_3(act, i: int) -> int:
    if i == 3:
        act()
    return i


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def complain() -> None:
    raise UserError("a.jpg: cut short")


def group_signals() -> None:
    """What the terminal or a cluster sends to every process of the group."""
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)


class Unsendable:
    """Its error arises in the thread that hands batches over; the main process would wait for ever."""

    def __reduce__(self):
        raise RuntimeError("no room in /dev/shm")


@pytest.fixture(autouse=True)
def no_worker_is_left(monkeypatch):
    """Beside one that was killed others may be stuck. As run_main does: Python would wait for them for ever."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)    # s that torch waits for each
    yield
    gc.collect()
    for worker in multiprocessing.active_children():
        worker.kill()


each_kind = pytest.mark.parametrize("work", [loaded, mapped])


@each_kind
def test_signals_to_the_whole_group_are_the_main_process_s_business(work):
    assert work(group_signals) == list(range(8))


@each_kind
def test_a_worker_that_dies_ends_the_work(work):
    with pytest.raises((RuntimeError, BrokenProcessPool)):
        work(die)


@each_kind
def test_a_worker_s_error_is_the_main_process_s(work):
    with pytest.raises(UserError, match="cut short"):
        work(complain)


def test_a_batch_that_cannot_be_handed_over_ends_the_work():
    with pytest.raises(RuntimeError):
        list(dataset.loader(Numbers(int), 1, batch_size=2, collate_fn=lambda items: Unsendable()))


LEAVES = """
from data.dataset import loader
batches = iter(loader(list(range(1000)), 2, batch_size=1))
next(batches)
raise KeyError("a fault of somebody's program, which has no run_main")
"""


def test_a_program_that_fails_waits_for_no_worker():
    done = subprocess.run([sys.executable, "-c", LEAVES], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "KeyError" in done.stderr

"""Worker processes: they change nothing but the speed, and one that dies or fails ends the work."""
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import pytest
import torch
from torch.utils.data import Dataset

from data import dataset
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

"""A run's folder: half-written files go, names of any encoding stay, and a stream that fails names the way on."""
import os
import sys

import numpy as np
import pytest

from util.run import atomic
from util.run.atomic import write_bytes_atomically
from util.run.folder import Run
from util.runtime.errors import UserError
from util.runtime.stop import Stopped


def parts(folder) -> list:
    return list(folder.rglob("*.part"))


def test_what_killed_runs_left_half_written_goes_when_the_run_is_opened_again(tmp_path):
    Run(tmp_path / "run", fresh=True).close()
    for name in (".log.txt.7.part", "checkpoints/.last.pt.8.part", "pictures/unseen/.a.png.9.part"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).touch()
    (tmp_path / "run/checkpoints/last.pt").write_bytes(b"whole")
    Run(tmp_path / "run", fresh=False, silent=True)
    assert len(parts(tmp_path)) == 3, "of several processes one writes"
    Run(tmp_path / "run", fresh=False).close()
    assert not parts(tmp_path) and (tmp_path / "run/checkpoints/last.pt").read_bytes() == b"whole"


def test_a_stop_while_a_file_is_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_bytes_atomically(tmp_path / "last.pt", b"old")

    def stop(_):
        raise Stopped(15)
    monkeypatch.setattr(atomic.os, "fsync", stop)
    with pytest.raises(Stopped):
        write_bytes_atomically(tmp_path / "last.pt", b"new")
    assert (tmp_path / "last.pt").read_bytes() == b"old" and not parts(tmp_path)


def test_a_silent_run_writes_and_says_nothing(tmp_path, capsys):
    run = Run(tmp_path / "run", fresh=True, silent=True)
    run.log("word")
    run.open_events(3)
    run.scalars({"loss": 1.0}, 3)
    run.picture("seen", np.zeros((2, 2, 3), np.uint8), 3)
    run.write_json("results.json", {})
    run.write_checkpoint("last.pt", {})
    run.close()
    assert capsys.readouterr().out == "" and not run.folder.exists()


def test_names_that_are_not_utf8_are_written_as_they_are(tmp_path, capsys):
    run = Run(tmp_path / "run", fresh=True)
    name = os.fsdecode(b"caf\xe9.jpg")
    run.write_text("code.txt", name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", open(tmp_path / "out", "w", errors="surrogateescape"))
        run.log(name)
    run.close()
    assert all(b"caf\xe9.jpg" in (tmp_path / file).read_bytes() for file in ("run/code.txt", "run/log.txt", "out"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full to stand for a full disk")
def test_a_stream_that_takes_no_more_ends_the_run_with_the_way_on(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", fresh=True)
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w", buffering=1))
    with pytest.raises(UserError, match=f"stdout could not be written .No space.*resume={run.folder}"):
        run.log("epoch 1")
    monkeypatch.undo()
    run.close()
    assert "epoch 1" in (run.folder / "log.txt").read_text()

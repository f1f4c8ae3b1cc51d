"""A run's folder: files are whole or absent, a taken name is refused, and a resumed run's curves are one run's."""
import os

import pytest
from runs import events

from util.run.atomic import write_bytes_atomically
from util.run.folder import Run
from util.runtime.errors import UserError


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write_bytes_atomically(tmp_path / "last.pt", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="last.pt: could not be written .*No space.*intact"):
        write_bytes_atomically(tmp_path / "last.pt", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("last.pt", b"old")]


def test_a_name_that_is_taken_is_refused(tmp_path):
    Run(tmp_path / "run", fresh=True).close()
    with pytest.raises(UserError, match="resume="):
        Run(tmp_path / "run", fresh=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="exp="):
        Run(tmp_path / "file" / "run")


def test_curves_of_a_run_that_went_on_have_every_step_once(tmp_path):
    for first in (0, 3):                # stopped after step 5, gone on from a checkpoint after step 2
        run = Run(tmp_path / "run")
        run.open_events(first)
        for step in range(first, 6):
            run.scalars({"train/loss": first + step}, step)
        run.close()
    shown = {}
    for file in sorted((tmp_path / "run" / "events").iterdir(), key=lambda file: file.stat().st_mtime_ns):
        for event in events(file):
            if event.HasField("session_log"):   # by which TensorBoard discards what is not before it
                shown = {step: value for step, value in shown.items() if step < event.step}
            shown.update((event.step, value.simple_value) for value in event.summary.value)
    assert shown == {0: 0, 1: 1, 2: 2, 3: 6, 4: 7, 5: 8}

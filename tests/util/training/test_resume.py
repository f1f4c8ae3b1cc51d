"""resume=: a run's own options, what may be others, and what results say of a run that got more epochs."""
import json
import shutil
from pathlib import Path

import pytest
import yaml
from runs import complains, in_process

from util.config import from_command_line
from util.runtime.errors import UserError


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """A copy of a run of one epoch."""
    return Path(shutil.copytree(finished_run[0], tmp_path / "mine"))


def test_resume_alone_takes_the_options_of_the_run(run, tmp_path):
    options = yaml.safe_load((run / "config.yaml").read_text())
    for named in (run, run / "checkpoints" / "last.pt"):
        cfg = from_command_line([f"resume={named}", "data.workers=2"])
        assert cfg.train.epochs == 1 and cfg.data.workers == 2 and cfg.model.clip == options["model"]["clip"]
    for arguments in ([f"resume={tmp_path}/nowhere"], ["resume=auto", "run=x"]):
        with pytest.raises(UserError, match="config"):
            from_command_line(arguments)


def test_more_epochs_are_allowed_and_the_schedule_s_change_is_said(run):
    done = in_process("train.py", f"resume={run}", "train.epochs=2", "eval.batch_size=4")
    assert done.returncode == 0, done.stderr
    said = next(line for line in done.stdout.splitlines() if "goes on after 1 of 1 epochs" in line)
    assert "train.epochs 2 (then 1): numbers are not those" in said
    assert "eval.batch_size 4 (then 8)" in said and "epoch 2/2: loss" in done.stdout
    results = json.loads((run / "results.json").read_text())
    assert results["trained_on"]["extended"] == [1] and results["last_epoch"]["epoch"] == 2
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["epochs"] == 2, "for the next resume=RUN"
    complains(in_process("train.py", f"resume={run}", "train.epochs=1"), "train.epochs (then 2, now 1)")
    complains(in_process("train.py", f"resume={run}", "train.lr=1", "fold=1"), "fold (then 0, now 1)", "train.lr (then")


def test_auto_starts_a_run_and_goes_on_with_it(finished_run, tmp_path):
    options = ["--config", "config/shapes/esda.yaml", *finished_run[1], f"exp={tmp_path}", "resume=auto", "run="]
    complains(in_process("train.py", *options), "resume=auto", "run=NAME")
    run = tmp_path / "shapes" / "esda" / "fold0" / "job"
    run.mkdir(parents=True)
    (run / "log.txt").write_text("of a start that was cut off before it had a checkpoint\n")
    for count in (0, 1):
        done = in_process("train.py", *options, "run=job")
        log = (run / "log.txt").read_text()
        assert done.returncode == 0 and log.count("goes on after 1 of 1 epochs") == count, done.stderr
        assert log.count("epoch 1/1: loss") == 1
    assert json.loads((run / "results.json").read_text())["config"]["resume"] == str(run)

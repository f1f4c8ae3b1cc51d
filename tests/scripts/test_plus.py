"""ESDA+ through the real scripts: training, a stop, a checkpoint's test, and all classes at once."""
import signal

import pytest
from runs import in_process, results, run_folder, same, train

from util.run import checkpoint
from util.run.folder import Run

CONFIG = "config/shapes/plus.yaml"
pytestmark = pytest.mark.slow


def test_a_run_and_the_test_of_its_checkpoint(whole, checked_options, tmp_path):
    first = results(whole)
    assert first["arch"] == "plus" and first["best_epoch"] == 2  # the last one, whatever its unseen score
    done = in_process("test.py", "--config", CONFIG, *checked_options, f"exp={tmp_path}", "eval.batch_size=3",
                      f"weights={whole / 'checkpoints/last.pt'}")
    assert done.returncode == 0, done.stderr
    again = results(run_folder(tmp_path, "plus"))
    for key in ("miou", "fb_iou", "samples", "name_auc", "absent_name_miou", "presence_auroc", "absent_empty",
                "present_empty", "presence_threshold"):  # other batches, same score
        assert again[key] == pytest.approx(first[key], abs=1e-3)


def test_all_classes_at_once(whole, checked_options, tmp_path):
    done = in_process("test.py", "--config", CONFIG, *checked_options, f"exp={tmp_path}", "eval.protocol=generalised",
                      f"weights={whole / 'checkpoints/last.pt'}")
    assert done.returncode == 0, done.stderr
    found = results(run_folder(tmp_path, "plus"))
    assert found["protocol"] == "generalised" and found["samples"] == 40 and "hIoU" in done.stdout
    assert all(0 <= found[score] <= 100 for score in ("miou", "seen_miou", "hiou", "pixel_accuracy"))


def test_a_stopped_run_goes_on_to_the_same_result(whole, checked_options, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Run, "log", lambda *_: signal.raise_signal(signal.SIGTERM))
        done = in_process("train.py", "--config", CONFIG, *checked_options, f"exp={tmp_path}")
    folder = run_folder(tmp_path, "plus")
    assert done.returncode == 143 and checkpoint.load(folder / "checkpoints/last.pt")["at"]["step"] == 1
    same(train(checked_options, tmp_path, f"resume={folder}", config=CONFIG), whole)

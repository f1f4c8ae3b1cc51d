"""ESDA+ through the real scripts: training, a stop, a checkpoint's test, all classes at once, and wrong options."""
import json
import signal

import pytest
from runs import complains, in_epoch, in_process, run_folder, same, start, train, wait_for

CONFIG = "config/shapes/plus.yaml"
pytestmark = pytest.mark.slow


def test_a_run_and_the_test_of_its_checkpoint(whole, checked_options, tmp_path):
    first = json.loads((whole / "results.json").read_text())
    assert first["arch"] == "plus" and first["best_epoch"] == 2  # the last one, whatever its unseen score
    done = in_process("test.py", "--config", CONFIG, *checked_options, f"exp={tmp_path}", "eval.batch_size=3",
                      f"weights={whole / 'checkpoints/last.pt'}")
    assert done.returncode == 0, done.stderr
    again = json.loads((run_folder(tmp_path, "plus") / "results.json").read_text())
    for key in ("miou", "fb_iou", "samples", "name_auc", "absent_name_miou", "presence_auroc", "absent_empty",
                "present_empty", "presence_threshold"):  # other batches, same score
        assert again[key] == pytest.approx(first[key], abs=1e-3)


def test_all_classes_at_once(whole, checked_options, tmp_path):
    done = in_process("test.py", "--config", CONFIG, *checked_options, f"exp={tmp_path}", "eval.protocol=generalised",
                      "eval.images=4", f"weights={whole / 'checkpoints/last.pt'}")
    assert done.returncode == 0, done.stderr
    results = json.loads((run_folder(tmp_path, "plus") / "results.json").read_text())
    assert results["protocol"] == "generalised" and results["samples"] == 4 and "hIoU" in done.stdout
    assert all(0 <= results[score] <= 100 for score in ("miou", "seen_miou", "hiou", "pixel_accuracy"))


def test_a_stopped_run_goes_on_to_the_same_result(checked_options, tmp_path):
    """With everything that has a state of its own or another path."""
    options = [*checked_options, "model.branch_rank=2", "loss.others=0.1", "model.decoder=guided", "train.ema=0.9"]
    process = start(options, tmp_path / "stopped", "train.checkpoint_minutes=0", config=CONFIG)
    wait_for(lambda: in_epoch(tmp_path / "stopped", 0, 1), process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    folder = run_folder(tmp_path / "stopped", "plus")
    assert not (folder / "results.json").exists()
    train(options, tmp_path / "stopped", f"resume={folder}", config=CONFIG)
    same(folder, train(options, tmp_path / "whole", config=CONFIG))


@pytest.mark.parametrize("option, told", [
    ("train.text_noise=1", "train.text_noise=0"), ("loss.last=0.2", "loss.last=0"),
    ("loss.others=0.1", "model.branch_rank=2"), ("model.replace_indices=[9]", "block 9"),
    ("model.maps=[]", "model.maps"), ("model.maps=[value, value]", "model.maps"), ("model.maps=[kv]", "kk"),
    ("model.interactor_width=100", "a multiple of 64"), ("model.decoder_channels=6", "a multiple of 4"),
    ("train.absent_names=0", "model.presence_head=false")])
def test_options_that_do_nothing_are_rejected(option, told, checked_options, tmp_path):
    complains(in_process("train.py", "--config", CONFIG, *checked_options, f"exp={tmp_path}", option), told)
    assert not list(tmp_path.iterdir())

"""Emoji through the real scripts, on a cut of it: the shipped checkpoint by either artist, and training."""
import pytest
from needs import needs_artwork
from runs import in_process, results, run_folder, train

from data.shapes.make import ShapesData, make
from util.config import load

CONFIG, SHIPPED = "config/emoji/plus.yaml", "data/emoji/plus_fold0.safetensors"
pytestmark = [pytest.mark.slow, needs_artwork]


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> list[str]:
    """Options for a set of 90 scenes."""
    root = tmp_path_factory.mktemp("emoji") / "set"
    make(load(ShapesData, "config/emoji/data.yaml", [f"root={root}", "train=30", "val=30"]))
    return [f"data.root={root}", f"data.train_list={root}/lists/train.txt", f"data.val_list={root}/lists/val.txt",
            "data.workers=0", "precision=fp32", "device=cpu"]


@pytest.mark.parametrize("artist, least", [("val", 35), ("other", 15)])
def test_the_shipped_checkpoint_knows_unseen_names_by_either_artist(artist, least, cut, tmp_path):
    other_list = [option.replace("/val.txt", f"/{artist}.txt") for option in cut]
    done = in_process("test.py", "--config", CONFIG, *other_list, f"exp={tmp_path}", f"weights={SHIPPED}")
    assert done.returncode == 0, done.stderr
    found = results(run_folder(tmp_path, "plus", dataset="emoji"))
    assert found["miou"] > least and found["name_auc"] > 0.7 and "not_zero_shot" not in found  # 61 and 37 on 800 images


def test_it_trains(cut, tmp_path):
    options = [*cut, "train.epochs=1", "train.epoch_samples=8", "train.batch_size=4", "train.warmup=0",
               "eval.seen_samples=8"]
    found = results(train(options, tmp_path, config="config/emoji/esda.yaml"))
    assert found["dataset"] == "emoji" and set(found["per_class"]) <= {"aeroplane", "bicycle", "bird", "boat", "bottle"}

"""What results.json records of a training run: its best epochs, the rule that selects one, and what the model costs."""
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import CONFIG, in_process, signals_kept
from torch import nn

from model.losses import TERMS
from util.config import from_command_line
from util.results import cost
from util.run import checkpoint
from util.runtime.stop import StopRequest
from util.training.trainer import Trainer


def test_flops_and_parameters_by_hand():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.frozen = nn.Conv2d(3, 4, 2, stride=2), nn.Linear(4, 5).requires_grad_(False)

        def forward(self, images, text):
            assert images.shape == (1, 3, 8, 8) and images.dtype == torch.uint8 and text.shape == (1, 6)
            assert not self.training and not torch.is_grad_enabled()
            x = self.conv(images / 255).flatten(2).transpose(1, 2)   # (1, 16, 4)
            x = nn.functional.scaled_dot_product_attention(x, x, x)
            return self.frozen(x)

    model = Model().train()
    flops = 2 * (16 * 4 * 3 * 2 * 2 + 2 * 16 * 16 * 4 + 16 * 4 * 5)
    made = SimpleNamespace(model=model, text=torch.zeros(3, 6), device=torch.device("cpu"), autocast=torch.no_grad(),
                           cfg=SimpleNamespace(model=SimpleNamespace(size=8)))
    assert cost.gflops_per_image(made) == pytest.approx(flops / 1e9)
    assert model.training
    assert cost.parameters(model) == {"trainable": 4 * 3 * 2 * 2 + 4, "total": 4 * 3 * 2 * 2 + 4 + 4 * 5 + 5}


@pytest.fixture
def trainer(options_for, tiny_shapes, tmp_path, monkeypatch):
    """trainer([(unseen mIoU, seen mIoU) of epoch 1, ...], "key=value", ...): a Trainer whose epochs score just that.

    An epoch whose scores are None ends the run as a power cut would.
    """
    mode, open_runs = torch.get_deterministic_debug_mode(), []
    sums = dict.fromkeys(("loss", *TERMS), 1.0)
    monkeypatch.setattr(Trainer, "train_epoch", lambda self: vars(self.at).update(step=self.batches.batches, sums=sums))

    def make(scripted, *options) -> Trainer:
        def evaluate_epoch(self):
            unseen, seen = scripted[self.at.epoch]
            return {"epoch": self.at.epoch + 1, "miou": unseen, "fb_iou": 0.0, "seen_miou": seen, "per_class": {},
                    "protocol": "exhaustive", "samples": 1}

        monkeypatch.setattr(Trainer, "evaluate_epoch", evaluate_epoch)
        cfg = from_command_line(["--config", CONFIG, *options_for(tiny_shapes, tmp_path / "runs"), "run=r",
                                 f"train.epochs={len(scripted)}", *options])
        made = Trainer(cfg, StopRequest())
        open_runs.append(made.run)
        return made

    with signals_kept():
        yield make
    for folder in open_runs:
        folder.close()
    torch.set_deterministic_debug_mode(mode)


SCORES = [(10, 50), (30, 40), (20, 60), (5, 55)]


def kept(trainer: Trainer) -> dict[str, int]:
    """Epoch of each checkpoint."""
    return {path.name: checkpoint.read(path, "")["epoch"] + 1 for path in trainer.run.checkpoints.glob("best*.pt")}


def test_the_last_checkpoint_tells_the_epoch_its_weights_come_from(trainer):
    whole = trainer(SCORES)
    whole.fit()
    assert checkpoint.read(whole.run.checkpoints / "last.pt", "")["epoch"] + 1 == len(SCORES)


def test_the_best_by_unseen_and_by_seen_are_kept_and_survive_a_power_cut(trainer):
    whole = trainer(SCORES)
    whole.fit()
    assert {rule: best["epoch"] for rule, best in whole.best.items()} == {"unseen": 2, "seen": 3}
    assert kept(whole) == {"best.pt": 2, "best_seen.pt": 3}
    shutil.rmtree(whole.run.folder)
    for cut in (1, 2, 3):  # in epoch 2, 3 and 4
        stopped = trainer([*SCORES[:cut], None, *SCORES[cut + 1:]])
        with pytest.raises(TypeError):
            stopped.fit()
        again = trainer(SCORES, f"resume={stopped.run.folder}")
        assert again.at.epoch == cut
        again.fit()
        assert again.best == whole.best and again.last_scores == whole.last_scores
        assert kept(again) == {"best.pt": 2, "best_seen.pt": 3}
        shutil.rmtree(again.run.folder)


def test_select_decides_what_is_tested_and_results_say_so(trainer):
    first = trainer(SCORES)
    first.fit()
    tested = {}
    for select in ("unseen", "seen", "last"):
        again = trainer(SCORES, f"resume={first.run.folder}", f"train.select={select}")
        again.fit()
        again.finish()
        results = json.loads((first.run.folder / "results.json").read_text())
        tested[select] = Path(results["checkpoint"]).name, results["best_epoch"], results["selection"]
        assert {rule: scores["epoch"] for rule, scores in results["selections"].items()} == {
            "unseen": 2, "seen": 3, "last": 4}
        assert results["selections"]["seen"]["miou"] == 20, "the unseen classes' score of the epoch the seen ones chose"
    assert tested == {"unseen": ("best.pt", 2, "best epoch by unseen-class mIoU"),
                      "seen": ("best_seen.pt", 3, "best epoch by mIoU on held-out images of seen classes"),
                      "last": ("last.pt", 4, "last epoch")}


@pytest.mark.parametrize("select, epochs", [("unseen", 4), ("seen", 2), ("last", 5)])
def test_patience_goes_by_what_selects(select, epochs, trainer):
    scripted = [(10, 50), (20, 40), (30, 30), (25, 20), (26, 10)]
    stopped = trainer(scripted, f"train.select={select}", "train.patience=1")
    stopped.fit()
    assert stopped.last_scores["epoch"] == epochs
    again = trainer(scripted, f"train.select={select}", "train.patience=1", f"resume={stopped.run.folder}")
    again.fit()
    assert again.last_scores["epoch"] == epochs, "a run that was stopped early trains no further when it is resumed"


def test_from_training_to_the_table(options_for, tiny_shapes, tmp_path):
    """Real scores: the records agree with the log, and the comparison with both."""
    done = in_process("train.py", "--config", CONFIG, *options_for(tiny_shapes, tmp_path / "exp"), "run=r",
                      "train.lr=3e-5", "train.muon_lr=3e-5")  # so little that it still finds foreground, if at random
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "exp/shapes/esda/fold0/r"
    results = json.loads((folder / "results.json").read_text())
    logged = [tuple(map(float, found)) for found in re.findall(r" unseen mIoU ([\d.]+) .* seen mIoU ([\d.]+) \(",
                                                                (folder / "log.txt").read_text())]
    assert len(logged) == 2
    unseen, seen = zip(*logged)
    best = {"unseen": unseen.index(max(unseen)), "seen": seen.index(max(seen)), "last": 1}
    assert results["miou"] == results["selections"]["unseen"]["miou"] > 0
    for rule, epoch in best.items():
        scores = results["selections"][rule]
        assert scores["epoch"] == epoch + 1 and scores["miou"] == pytest.approx(unseen[epoch], abs=0.006)
        assert scores["seen_miou"] == pytest.approx(seen[epoch], abs=0.006)
    assert 0 < results["parameters"]["trainable"] < results["parameters"]["total"]
    assert results["gflops_per_image"] > 0 and results["folds"] == 4
    assert set(results["class_ids"].values()) == {1, 2, 3, 4, 5}
    assert results["per_class"].keys() <= results["class_ids"].keys()
    assert [(e["epoch"], round(e["miou"], 2), round(e["seen_miou"], 2)) for e in results["epochs"]] == [
        (k, *found) for k, found in enumerate(logged, 1)] and all(e["loss"] > 0 for e in results["epochs"])
    assert (results["steps"], results["images"]) == (4, 32) and set(results["data"]) == {"train", "val"}
    assert results["marked"].keys() <= results["class_ids"].keys() and sum(results["marked"]["circle"].values()) > 0
    assert (folder / "pictures/extremes.png").is_file() and list(results["extremes"]) == ["best", "median", "worst"]
    best, _, worst = (list(kind.values()) for kind in results["extremes"].values())
    assert best == sorted(best, reverse=True) and worst == sorted(worst) and worst[-1] <= best[-1]
    done = in_process("util.compare", tmp_path / "exp", "--out", tmp_path / "out", "--partial")
    assert done.returncode == 0, done.stderr
    score = f"{results['miou']:.1f}"
    assert f"| esda | {score} | - | - | - | {score} (partial: 1 of 4 folds) |" in done.stdout
    page = (tmp_path / "out/report.html").read_text()
    pictures = {"means", "curves", "classes", "marked", "predictions"}
    assert {file.name.partition("-")[0] for file in (tmp_path / "out").glob("*.[pj][np]g")} == pictures
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == len(pictures) + 1 and all(re.match("data:image/(png|jpeg);base64,", s) for s in sources)
    assert not re.search("https?:|<script|@import", page), "it needs no network"
    assert f"<td>{score} (partial: 1 of 4 folds)</td>" in page and "train.py --config" in page

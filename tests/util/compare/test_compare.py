"""python -m util.compare on results made by hand, and the records of train.py that it stands on."""
import csv
import json
import re
import shutil
import signal
import sys
from pathlib import Path

import cv2
import pytest
import torch
from torch import nn

from util.compare import __main__ as compare
from util.compare.picture import COLOURS, GREY
from util.compare.published import read_published
from util.config import ROOT, from_command_line
from util.results import cost
from util.run import checkpoint
from util.runtime.errors import UserError
from util.runtime.stop import StopRequest
from util.training.trainer import Trainer

CONFIG = "config/shapes/esda.yaml"


@pytest.fixture
def run(made, tmp_path, monkeypatch, capsys):
    """run("--partial", ...) compares all that was made, and returns what was printed."""
    def call(*options, places=None) -> str:
        places = [made.exp] if places is None else places
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, [*places, "--out", tmp_path / "out", *options])])
        compare.main()
        return capsys.readouterr().out
    return call


@pytest.fixture
def rows(run, tmp_path):
    """As run, but returns {model: row of the CSV}."""
    def call(*options, **more) -> dict[str, dict[str, str]]:
        run(*options, **more)
        return {row["model"]: row for row in csv.DictReader((tmp_path / "out/table.csv").read_text().splitlines())}
    return call


def cells(markdown: str, model: str) -> dict[str, str]:
    """The Markdown row of a model by its heads."""
    table = [[cell.strip() for cell in line.strip("| ").split("|")]
             for line in markdown.splitlines() if line[:2] == "| "]
    return dict(zip(table[0], next(row for row in table if row[0].startswith(model)), strict=True))


# Protocols with scores of their own

def test_generalised_rows_have_their_own_columns(made, run, rows):
    for fold in range(4):
        made("esda", fold, 40.0 + fold, protocol="generalised", seen_miou=60.0, hiou=48.0, pixel_accuracy=80.0 + fold,
             config={"train": {"select": "unseen"}, "eval": {"protocol": "generalised"}})
    found = cells(run(), "esda")
    assert found["seen mIoU (S)"] == "60.0" and found["hIoU"] == "48.0" and found["pixel accuracy"] == "81.5"
    assert float(rows()["esda"]["hiou"]) == 48


def test_several_draws_are_told_and_not_held_against_one(made, run):
    for arch, draws in (("esda", 5), ("clsclip", 1)):
        extra = {"miou_std": 0.5, "draws": [50.0] * 5} if draws > 1 else {}
        made.folds(arch, [50.0] * 4, config={"train": {"select": "unseen"}, "eval": {"draws": draws}}, **extra)
    text = run("--baseline", "clsclip")
    found = cells(text, "esda")
    assert "5 draws" in found["protocol, samples"] and found["± over draws"] == "0.5" and found["against clsclip"] == "-"


# Means

def test_means_and_deviation_by_hand(made, run, rows):
    made.folds("esda", (10, 20, 30, 40), seed=1)   # mean 25
    made.folds("esda", (12, 22, 32, 46), seed=2)   # mean 28
    row = rows()["esda"]
    assert [float(row[f"miou_fold{k}"]) for k in range(4)] == [11, 21, 31, 43]
    assert float(row["miou"]) == 26.5 and float(row["fb_iou"]) == 46.5
    assert float(row["miou_std_over_seeds"]) == pytest.approx((2 * 1.5 ** 2 / 1) ** 0.5, abs=1e-4)  # n - 1 = 1
    assert row["seeds"] == "1 2" and float(row["training_seconds"]) == 3601.5
    assert [float(row[f"miou_selected_by_{rule}"]) for rule in ("unseen", "seen", "last")] == [26.5, 25.5, 24.5]
    printed = cells(run(), "esda")
    assert printed["mean mIoU"] == "26.5 ± 2.1 (n=2)" and printed["fold 3"] == "43.0" and printed["FB-IoU"] == "46.5"
    assert [printed[f"at {what}"] for what in ("best unseen", "best seen", "last epoch")] == ["26.5", "25.5", "24.5"]
    assert printed["protocol, samples"] == "episodic, 1000 a fold" and printed["selected by"] == "unseen"
    assert printed["trained on"] == "seen" and printed["GFLOPs an image"] == "12.3"
    assert (printed["trains, M"], printed["parameters, M"]) == ("1.25", "5.00")
    assert printed["training a fold"] == "1:00:02"


def test_held_out_seen_classes_of_the_epoch_that_counts(made, run, rows):
    for fold in range(4):
        scores = {"fb_iou": 0, "protocol": "episodic", "samples": 1000, "per_class": {f"low {fold}": 39.0}}
        made("esda", fold, 40, selections={"unseen": {"miou": 40, "seen_miou": 60.0 + fold, **scores},
                                           "last": {"miou": 39, "seen_miou": 70.0 + fold, **scores}})
    made.folds("clsclip", [30] * 4)
    text = run()
    assert cells(text, "esda")["seen, held out"] == "61.5" and cells(text, "clsclip")["seen, held out"] == "-"
    assert "- Seen, held out: mIoU of seen classes on validation images" in text
    assert float(rows("--select", "last", places=[made.exp / "pascal/esda"])["esda"]["seen_held_out_miou"]) == 71.5


def test_every_run_has_a_line_with_what_made_it(made, run, tmp_path):
    made.folds("esda", (10, 20, 30, 40), seed=1, command="python train.py fold=K", code="abc1234", name_auc=0.91)
    made.folds("clsclip", (5, 6, 7, 8), seed=2, trained_on=None, training_seconds=None, selections=None)
    run("--partial")
    lines = list(csv.DictReader((tmp_path / "out/runs.csv").read_text().splitlines()))
    esda, clsclip = ([row for row in lines if row["model"] == arch] for arch in ("esda", "clsclip"))
    assert [(row["fold"], row["seed"], row["miou"]) for row in esda] == [(str(k), "1", str(10 * k + 10)) for k in range(4)]
    assert (esda[0]["command"], esda[0]["code"], esda[0]["name_auc"]) == ("python train.py fold=K", "abc1234", "0.91")
    assert esda[0]["miou_selected_by_last"] == "8" and clsclip[0]["miou_selected_by_last"] == ""
    assert len(lines) == 8 and clsclip[0]["command"] == "" and clsclip[3]["seed"] == "2"


def test_one_seed_has_no_deviation(made, run, rows):
    made.folds("esda", (10, 20, 30, 40))
    assert cells(run(), "esda")["mean mIoU"] == "25.0" and rows()["esda"]["miou_std_over_seeds"] == ""


def test_the_baseline_comes_first_and_the_others_against_it(made, rows):
    made.folds("esda", (10, 20, 30, 40))
    made.folds("plain", (9, 19, 29, 35))           # mean 23
    made.folds("other", (9, 19, 29, 35), protocol="exhaustive")
    found = rows("--baseline", "plain")
    assert list(found)[0] == "plain" and found["plain"]["miou_minus_baseline"] == ""
    assert float(found["esda"]["miou_minus_baseline"]) == 2
    assert found["other"]["miou_minus_baseline"] == "", "tested otherwise: the difference would mean nothing"


def test_select_takes_the_scores_of_that_epoch(made, rows):
    made.folds("esda", (10, 20, 30, 40))
    row = rows("--select", "seen")["esda"]
    assert float(row["miou"]) == 24 and float(row["fb_iou"]) == 44 and row["selected_by"] == "seen"


def test_runs_are_found_once_wherever_they_are_named(made, rows):
    folders = made.folds("esda", (10, 20, 30, 40))
    places = [*folders, made.exp / "pascal/../pascal", folders[0] / "results.json"]
    assert float(rows(places=places)["esda"]["miou"]) == 25


def test_what_test_py_leaves(made, rows):
    """Its results know of one epoch, by the file of the weights, and of no seed but the training's."""
    tested = {"selections": None, "training_seconds": None, "config": {"seed": 321, "model": {}}}
    for seed in (1, 2):
        made.folds("esda", (10, 20, 30, 40), seed=seed, checkpoint="x/checkpoints/best_seen.pt", **tested)
    made.folds("released", (10, 20, 30, 40), checkpoint="released/best.pt", trained_on=None, **tested)
    made.folds("everything", (1, 2, 3, 4), checkpoint="", trained_on=None, **tested)
    found = rows()
    assert [found[arch]["selected_by"] for arch in ("esda", "released", "everything")] == ["seen", "unknown", "-"]
    assert [found[arch]["trained_on"] for arch in ("esda", "released", "everything")] == ["seen", "unknown", "-"]
    assert found["esda"]["seeds"] == "1 2" and found["esda"]["training_seconds"] == ""
    assert found["esda"]["miou_selected_by_unseen"] == "" and float(found["esda"]["miou_selected_by_seen"]) == 25


# Refusals

def refused(run, *expected, options=()) -> None:
    with pytest.raises(UserError) as caught:
        run(*options)
    for text in expected:
        assert str(text) in str(caught.value), f"{text!r} is not in {caught.value}"


def test_protocols_are_not_mixed(made, run):
    folders = made.folds("esda", (10, 20, 30))
    odd = made("esda", 3, 40, protocol="exhaustive")
    refused(run, *folders, odd, "episodic", "exhaustive", "fold 3 of seed 1")


def test_numbers_of_samples_are_not_mixed(made, run):
    folders = made.folds("esda", (10, 20, 30))
    refused(run, folders[0], made("esda", 3, 40, samples=999), "episodic samples (1000, 999)")


def test_where_every_image_counts_a_fold_has_its_own_number(made, run):
    """But one for all seeds."""
    for seed in (1, 2):
        for fold in range(4):
            made("esda", fold, 40, seed=seed, protocol="exhaustive", samples=700 + fold)
    assert cells(run(), "esda")["protocol, samples"] == "exhaustive, 700+701+702+703"
    for fold in range(4):
        made("esda", fold, 40, seed=3, protocol="exhaustive", samples=700)
    refused(run, made.exp / "pascal/esda/fold1/seed1", made.exp / "pascal/esda/fold1/seed3", "samples (701, 700)")


def test_training_images_are_not_mixed(made, run):
    folders = made.folds("esda", (10, 20, 30))
    origin = {"dataset": "pascal", "fold": 3, "seed": 1}
    odd = made("esda", 3, 40, trained_on={**origin, "train_classes": "ignore"})
    refused(run, folders[0], odd, "trained on", "ignore")


def test_weights_of_another_fold_are_not_mixed_in(made, run, rows):
    for k in range(4):
        odd = made("esda", k, 10, trained_on={"dataset": "pascal", "fold": 0, "seed": 1, "train_classes": "seen"})
        made("ceiling", k, 10, trained_on={"dataset": "pascal", "fold": 0, "seed": 1, "train_classes": "all"})
    refused(run, "trained on", "seen of fold 0", odd.parent.parent / "fold1")
    shutil.rmtree(made.exp / "pascal/esda")
    assert rows()["ceiling"]["trained_on"] == "all", "which holds no class back"


@pytest.mark.parametrize("changes, named", [
    ({"config": {"seed": 1, "model": {"branch_rank": 8}, "train": {"select": "unseen"}}}, "model.branch_rank"),
    ({"clip_fingerprint": "other"}, "CLIP"), ({"parameters": {"trainable": 1, "total": 5_000_000}}, "parameters")])
def test_configurations_are_not_mixed(changes, named, made, run):
    folders = made.folds("esda", (10, 20, 30))
    refused(run, folders[0], made("esda", 3, 40, **changes), named)


def test_two_runs_of_one_fold_and_seed(made, run):
    made.folds("esda", (10, 20, 30, 40))
    again = made("esda", 2, 31, run="again")
    refused(run, again, made.exp / "pascal/esda/fold2/seed1", "name the one")
    refused(run, again, options=["--partial"])


def test_missing_folds(made, run):
    made.folds("esda", (10, 20, 30, 40), seed=1)
    made.folds("esda", (10, 20, 30), seed=2)
    refused(run, made.exp / "pascal/esda/fold0/seed2", "fold 3 of seed 2", "--partial")


@pytest.mark.parametrize("key", ["gflops_per_image", "parameters", "selections", "trained_on", "class_ids", "folds"])
def test_results_of_an_older_version(key, made, run):
    made.folds("esda", (10, 20, 30))
    refused(run, f"{made('esda', 3, 40, **{key: None})}/results.json: lacks {key}")


def test_an_epoch_that_results_do_not_know(made, run):
    made.folds("esda", (10, 20, 30, 40), selections=None, training_seconds=None)
    refused(run, "results.json", "best.pt", "--select last", options=["--select", "last"])
    shutil.rmtree(made.exp)
    known = {"miou": 1, "fb_iou": 2, "per_class": {}, "protocol": "exhaustive"}
    made.folds("esda", (10, 20, 30, 40), selections={"unseen": known, "last": known})
    refused(run, "lacks selections.seen", options=["--select", "seen"])
    refused(run, "exhaustive", "episodic", options=["--select", "last"])


def test_other_mistakes(made, run, tmp_path):
    made.folds("esda", (10, 20, 30, 40))
    refused(run, "--baseline plane", "esda", options=["--baseline", "plane"])
    refused(run, tmp_path / "none.yaml", "--published", options=["--published", tmp_path / "none.yaml"])
    with pytest.raises(UserError, match="nowhere: no such folder"):
        run(places=[tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no results.json"):
        run(places=[tmp_path / "empty"])
    (made.exp / "pascal/esda/fold1/seed1/results.json").write_text("{")
    refused(run, made.exp / "pascal/esda/fold1/seed1/results.json", "not valid JSON")


def test_the_command_line_refuses_in_one_line(made, run_script, tmp_path):
    made.folds("esda", (10, 20, 30))
    done = run_script("util.compare", made.exp, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "out").exists()
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "fold 3 of seed 1" in done.stderr


# Partial and published rows

def test_partial_means_are_marked(made, run, rows):
    made.folds("esda", (10, 20, 30, 40), seed=1)
    made.folds("esda", (14, 24), seed=2)
    made.folds("few", (10, 20), seed=1)
    made.folds("few", (12, 22), seed=2)
    made.folds("whole", (10, 20, 30, 40))
    printed = run("--partial")
    assert cells(printed, "esda")["mean mIoU"] == "26.0 (n=2) (partial: 4 of 4 folds)"  # 12, 22, 30, 40
    assert cells(printed, "few")["mean mIoU"] == "16.0 ± 1.4 (n=2) (partial: 2 of 4 folds)"
    assert cells(printed, "few")["fold 2"] == "-"
    assert cells(printed, "whole")["mean mIoU"] == "25.0"
    assert "esda (unseen, episodic) is partial: seed 1: folds 0, 1, 2, 3; seed 2: folds 0, 1." in printed
    assert rows("--partial")["few"]["folds"] == "0 1" and rows("--partial")["esda"]["miou_std_over_seeds"] == ""


def test_published_rows_stand_beside_and_are_marked(made, run, rows):
    made.folds("esda", (10, 20, 30, 40))
    printed = run()
    lseg = cells(printed, "LSeg RN101")
    assert re.fullmatch(r"LSeg RN101, published \[\d\]", lseg["model"]) and lseg["mean mIoU"] == "47.4"
    assert [lseg[f"fold {k}"] for k in range(4)] == ["52.8", "53.8", "44.4", "38.5"]
    number = lseg["model"][-3:]
    assert f"- {number} published, not run here: LSeg's README; HSNet's data." in printed
    assert cells(printed, "ESDA ViT-B")["mean mIoU"] == "58.9" and cells(printed, "ESDA ViT-B")["fold 0"] == "-"
    found = rows()
    assert found["esda"]["published"] == "no"
    assert all(row["published"] == "yes" and row["source"] for model, row in found.items() if model != "esda")
    assert "not strictly comparable" in found["SAZS ViT-L"]["source"]
    assert float(found["SAZS ViT-L"]["miou"]) == 59.5, "PASCAL's, not COCO's"


def test_published_rows_are_of_the_runs_data_sets_alone(made, rows):
    made.folds("esda", (10, 20, 30, 40), dataset="shapes")
    assert list(rows()) == ["esda"]


def test_the_list_of_published_scores(tmp_path):
    listed = {(p.dataset, p.model): p.mean for p in read_published(ROOT / "lists/published.yaml")}
    assert listed["coco", "ClsCLIP+ ViT-B"] == 52.9 and len(listed) == 10
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("- {dataset: pascal, model: M, miou: [1, 2, 3, 4], mean: 2.6, source: S}")
    with pytest.raises(UserError, match="wrong.yaml: M on pascal: 2.6 is not the mean"):
        read_published(wrong)
    wrong.write_text("- {dataset: pascal, model: M, mean: 2.5}")
    with pytest.raises(UserError, match="wrong.yaml.*source"):
        read_published(wrong)


# Formats

def test_latex_is_balanced_and_every_row_has_its_cells(made, run, tmp_path):
    made.folds("50%_of&{it}#1", (10, 20, 30, 40), seed=1)
    made.folds("50%_of&{it}#1", (11, 21, 31, 41), seed=2)
    made.folds("esda", (10, 20, 30, 40), dataset="shapes")
    run("--baseline", "esda")
    text = (tmp_path / "out/table.tex").read_text()
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2 and r"50\%\_of\&\{it\}\#1" in text
    opened = []
    for what, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if what == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    code = "\n".join(line for line in text.replace("{!}{%\n", "{!}{\n").splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[&%$#_{}]", "", code)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0 and not set("%#_~^") & set(bare) and bare.count("$") % 2 == 0
    for columns, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", bare, re.S):
        body = [line for line in body.splitlines() if line.endswith("\\\\")]
        assert len(body) >= 2 and all(line.count("&") == len(columns) - 1 for line in body)


def test_csv_and_markdown_have_full_rows(made, run, tmp_path):
    made.folds("a|b", (10, 20, 30, 40))
    printed = run()
    assert (tmp_path / "out/table.md").read_text() == printed
    lines = list(csv.reader((tmp_path / "out/table.csv").read_text().splitlines()))
    assert len(lines) == 7 and {len(line) for line in lines} == {len(lines[0])}
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) == 8 and {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {len(table[0].split("|")) - 1}


# The picture

def picture(tmp_path):
    return cv2.imread(str(tmp_path / "out/classes-pascal-episodic.png"))[:, :, ::-1]


def coloured(image, colour) -> int:
    return int((image == colour).all(axis=-1).sum())


def test_bars_are_as_long_as_the_ious(made, run, tmp_path):
    made.folds("plain", (40, 40, 40, 40))
    made.folds("esda", (50, 50, 50, 50))
    run("--baseline", "plain")
    before = picture(tmp_path)
    square = 20 * 14 + 1 * 20 + 14 + 1    # of the legend, roughly
    grey, blue = coloured(before, GREY), coloured(before, COLOURS[0])
    assert grey == pytest.approx(4 * (30 + 50) * 3 * 14 + square, abs=60)     # 3 px a percent, 14 px high
    assert blue == pytest.approx(4 * (40 + 60) * 3 * 14 + square - 8 * 14, abs=60)  # less the baseline's lines
    assert before.shape[1] > 4 * 300 and 150 < before.shape[0] < 400
    path = made.exp / "pascal/esda/fold2/seed1/results.json"
    path.write_text(path.read_text().replace('"high 2": 60', '"high 2": 70'))
    run("--baseline", "plain")
    after = picture(tmp_path)
    assert after.shape == before.shape and coloured(after, COLOURS[0]) == blue + 10 * 3 * 14
    changed = (before != after).any(axis=(0, 2)).nonzero()[0]
    assert before.shape[1] / 2 < changed.min() and changed.max() < before.shape[1] * 3 / 4, "in fold 2's column alone"


def test_the_picture_grows_with_rows_and_protocols_have_their_own(made, run, tmp_path):
    made.folds("a", (40, 40, 40, 40))
    run()
    one = picture(tmp_path)
    made.folds("b", (50, 50, 50, 50))
    made.folds("b", (50, 50, 50, 50), run="other", protocol="exhaustive")
    run()
    two = picture(tmp_path)
    assert two.shape[0] > one.shape[0] + 2 * 16 and two.shape[1] == one.shape[1]
    assert coloured(one, COLOURS[1]) == 0 < coloured(two, COLOURS[1])
    assert (tmp_path / "out/classes-pascal-exhaustive.png").is_file()


# What results hold

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
    device = torch.device("cpu")
    assert cost.gflops_per_image(model, torch.zeros(3, 6), 8, device, torch.no_grad()) == pytest.approx(flops / 1e9)
    assert model.training
    assert cost.parameters(model) == {"trainable": 4 * 3 * 2 * 2 + 4, "total": 4 * 3 * 2 * 2 + 4 + 4 * 5 + 5}


@pytest.fixture
def trainer(options_for, tiny_shapes, tmp_path, monkeypatch):
    """trainer([(unseen mIoU, seen mIoU) of epoch 1, ...], "key=value", ...): a Trainer whose epochs score just that.

    An epoch whose scores are None ends the run as a power cut would.
    """
    mode, open_runs = torch.get_deterministic_debug_mode(), []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(Trainer, "train_epoch", lambda self: setattr(self.at, "step", self.batches.batches))

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

    yield make
    for folder in open_runs:
        folder.close()
    torch.set_deterministic_debug_mode(mode)
    for number, handler in handlers.items():
        signal.signal(number, handler)


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


def test_from_training_to_the_table(options_for, tiny_shapes, run_script, tmp_path):
    """Real scores: the records agree with the log, and the comparison with both."""
    done = run_script("train.py", "--config", CONFIG, *options_for(tiny_shapes, tmp_path / "exp"), "run=r",
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
    done = run_script("util.compare", tmp_path / "exp", "--out", tmp_path / "out", "--partial")
    assert done.returncode == 0, done.stderr
    row = cells(done.stdout, "esda")
    assert row["fold 0"] == f"{results['miou']:.1f}" and "1 of 4 folds" in row["mean mIoU"]
    assert (tmp_path / "out/classes-shapes-exhaustive.png").is_file()

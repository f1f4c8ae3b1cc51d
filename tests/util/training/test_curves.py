"""What TensorBoard would show of a run, by its event files read back: it is not needed to write them."""
import json
import re
import shutil
from pathlib import Path

import pytest
from runs import CONFIG, events, in_process
from tensorboardX.proto import layout_pb2
from tensorboardX.proto.event_pb2 import SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData


def shown(folder: Path) -> dict[str, dict[str, dict[int, float]]]:
    """{name of a run: {curve: {step: value}}} below a logdir, as TensorBoard names and reads them."""
    runs: dict[str, dict] = {}
    for file in sorted(folder.rglob("*.tfevents.*")):
        curves = runs.setdefault(str(file.parent.relative_to(folder)), {})
        for event in events(file):
            if event.session_log.status == SessionLog.START:
                for tag, values in curves.items():
                    curves[tag] = {step: v for step, v in values.items() if step < event.step}
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    curves.setdefault(value.tag, {})[event.step] = value.simple_value
    return runs


def plugins(folder: Path, name: str) -> list:
    return [value for file in folder.glob("*.tfevents.*") for event in events(file) for value in event.summary.value
            if value.metadata.plugin_data.plugin_name == name]


def test_unseen_miou_comes_first_and_runs_have_plain_names(finished_run):
    folder, _ = finished_run
    name, = found = shown(folder.parents[3])
    assert name == "shapes/esda/fold0/mine", "without /events"
    assert min(found[name]) == "mIoU_unseen" and "seen/mIoU" in found[name]
    assert not [tag for tag in found[name] if tag.startswith("seen_IoU")], "no fifteen cards of seen classes"
    results = json.loads((folder / "results.json").read_text())
    assert list(found[name]["mIoU_unseen"].items()) == [(1, pytest.approx(results["last_epoch"]["miou"]))]
    assert found[name]["test/mIoU"] == {2: pytest.approx(results["miou"])}


def test_the_layout_names_curves_that_there_are(finished_run):
    folder, _ = finished_run
    value, = plugins(folder, "custom_scalars")
    layout = layout_pb2.Layout.FromString(value.tensor.string_val[0])
    assert value.tag == "custom_scalars__config__" and [c.title for c in layout.category] == ["scores", "training"]
    curves = shown(folder)["."]
    for tag in (tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag):
        assert any(re.fullmatch(tag, name) for name in curves), tag


def test_options_stand_beside_final_scores(finished_run):
    folder, _ = finished_run
    data = {v.tag: HParamsPluginData.FromString(v.metadata.plugin_data.content) for v in plugins(folder, "hparams")}
    assert set(data) == {"_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"}
    options = data["_hparams_/session_start_info"].session_start_info.hparams
    assert options["arch"].string_value == "esda" and options["train.epochs"].number_value == 1
    metrics = [info.name.tag for info in data["_hparams_/experiment"].experiment.metric_infos]
    assert metrics[0] == "test/mIoU" and set(metrics) <= shown(folder)["."].keys()


def test_a_resumed_run_goes_on_as_one_run(finished_run, tmp_path):
    folder = Path(shutil.copytree(finished_run[0], tmp_path / "exp/shapes/esda/fold0/mine"))
    done = in_process("train.py", "--config", CONFIG, *finished_run[1], f"resume={folder}", f"exp={tmp_path / 'exp'}",
                      "train.epochs=2")
    assert done.returncode == 0, done.stderr
    name, = found = shown(tmp_path / "exp")
    assert name == "shapes/esda/fold0/mine" and list(found[name]["mIoU_unseen"]) == [1, 3]
    assert list(found[name]["train/loss"]) == [0, 1, 2, 3]
    assert [e["epoch"] for e in json.loads((folder / "results.json").read_text())["epochs"]] == [1, 2]

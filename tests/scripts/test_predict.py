"""predict.py and predict.sh as users call them: files in, files out, and what is wrong in one line."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predicting import checkpoint_of, write_scene
from runs import ENVIRONMENT, complains, in_process, largest_file

from util.config import ROOT
from util.predict.outputs import Outputs
from util.predict.segmenter import Segmenter


@pytest.fixture(scope="module")
def weights(tiny_clip, tmp_path_factory) -> Path:
    return checkpoint_of("esda", tiny_clip, tmp_path_factory.mktemp("weights") / "best.pt", -5.0)


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """A folder with three images, one of them in a folder of its own under the same name as another."""
    folder = tmp_path_factory.mktemp("images")
    for k, name in enumerate(("a.png", "b.jpg", "sub/a.png")):
        write_scene(folder / name, k, (80, 60))
    return folder


@pytest.fixture(scope="module")
def load_once():
    """Segmenter.load, which loads the same thing once."""
    load, made = Segmenter.load, {}

    def load_once(**arguments):
        key = repr(sorted(arguments.items()))
        if key not in made:
            made[key] = load(**arguments)
        return made[key]
    return load_once


@pytest.fixture
def predict(weights, tmp_path, load_once, monkeypatch):
    """predict(arguments) runs predict.py on that checkpoint with results in tmp_path/out."""
    monkeypatch.setattr(Segmenter, "load", load_once)

    def run(*arguments, names=("star", "key")):
        return in_process("predict.py", "--out", tmp_path / "out", *arguments, "--names", *names, "--weights", weights,
                          "--device", "cpu")
    return run


def written(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_files_in_files_out(predict, three, tmp_path):
    done = predict(f"{three}/**/*", "--prob")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{stem}.{kind}" for stem in ("a", "a-2", "b")
        for kind in ("json", "mask.png", "overlay.png", "probabilities.npz"))
    assert "3 written" in done.stdout and f"{three}/b.jpg: star " in done.stdout
    files = {json.loads((out / f"{stem}.json").read_text())["image"]["file"] for stem in ("a", "a-2", "b")}
    assert files == {str(three / name) for name in ("a.png", "b.jpg", "sub/a.png")}
    about = json.loads((out / "b.json").read_text())
    with Image.open(out / "b.mask.png") as mask:
        indices = np.asarray(mask)
    assert indices.shape == (60, 80)
    assert [name["area"] for name in about["names"]] == [int((indices == k).sum()) for k in (1, 2)]
    with np.load(out / "b.probabilities.npz") as held:
        assert held["names"].tolist() == ["star", "key"] and held["probabilities"].shape == (2, 60, 80)
        found = held["probabilities"].max(axis=0)
        assert (found[indices > 0] >= 0.5).all() and (found[indices == 0] <= 0.5).all()


def test_results_are_made_once_and_again_when_asked_or_when_something_changed(predict, three, tmp_path):
    image = tmp_path / "a.png"
    shutil.copy(three / "a.png", image)
    predict(image)
    first = written(tmp_path / "out")
    again = predict(image)
    assert "1 there already" in again.stdout and written(tmp_path / "out") == first and again.returncode == 0
    assert "1 written" in predict(image, "--redo").stdout
    for change in (lambda: predict(image, names=("star",)), lambda: predict(image, "--separate", names=("star",)),
                   lambda: (write_scene(image, 5), predict(image))[1]):
        before = written(tmp_path / "out")
        assert "in place of results made with other" in change().stdout
        assert written(tmp_path / "out") != before
    assert len(json.loads((tmp_path / "out/a.json").read_text())["names"]) == 2
    (tmp_path / "out/a.mask.png").unlink()
    assert "1 written" in predict(image).stdout, "a file of the result was gone"


def test_files_of_the_users_and_of_other_images_stay(predict, three, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.mask.png").write_text("mine")
    (out / "b.json").write_text('{"image": "mine"}')
    assert predict(three).returncode == 0 and predict(three / "sub").returncode == 0
    assert (out / "a.mask.png").read_text() == "mine" and "mine" in (out / "b.json").read_text()
    assert {path.name for path in out.glob("*.json")} == {"a-2.json", "a-3.json", "b.json", "b-2.json"}
    assert "there already" in predict(three / "sub").stdout


def test_images_and_results_may_lie_in_one_folder(predict, three, tmp_path):
    (tmp_path / "out").mkdir()
    shutil.copy(three / "a.png", tmp_path / "out")
    assert predict(tmp_path / "out").returncode == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "a.json", "a.mask.png", "a.overlay.png"}
    assert "0 written, 1 there already" in predict(tmp_path / "out").stdout


def test_file_names_that_are_not_utf_8_or_as_long_as_can_be(predict, three, tmp_path):
    folder = tmp_path / "odd"
    names = [os.fsdecode(b"caf\xe9.png"), "l" * 250 + ".png", "l" * 250 + "2.png", "é" * 125 + ".png"]
    folder.mkdir()
    for name in names:
        shutil.copy(three / "a.png", folder / name)
    done = predict(folder, "--prob")
    assert done.returncode == 0 and "4 written" in done.stdout, done.stderr
    abouts = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "out").glob("*.json")]
    assert {about["image"]["file"] for about in abouts} == {str(folder / name) for name in names}
    assert "4 there already" in predict(folder, "--prob").stdout


def test_an_image_that_is_too_much_for_an_option_is_skipped(predict, three, tmp_path, monkeypatch):
    Image.open(three / "a.png").resize((200, 200)).save(tmp_path / "1.png")
    shutil.copy(three / "a.png", tmp_path / "2.png")
    for option, limit in (("--prob", "util.predict.outputs.MOST_PROBABILITIES"),
                          ("--zoom", "util.predict.segmenter.MOST_ZOOMED")):
        monkeypatch.setattr(limit, 10_000)
        done = predict(tmp_path, option)
        assert done.returncode == 1 and "1 written" in done.stdout and "1 skipped" in done.stdout
        assert f"skipped: {tmp_path}/1.png: " in done.stderr and "fewer names" in done.stderr


def test_a_damaged_image_is_named_and_skipped(predict, three, tmp_path):
    for name, data in (("1.png", b"text"), ("2.png", (three / "a.png").read_bytes()), ("3.jpg", b"")):
        (tmp_path / name).write_bytes(data)
    done = predict(tmp_path)
    assert done.returncode == 1 and "1 written, 2 skipped" in done.stdout
    skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == 2 and f"{tmp_path}/1.png: not an image" in skipped[0] and "3.jpg" in skipped[1]
    complains(predict(tmp_path / "1.png"), tmp_path / "1.png", "not an image")
    complains(predict(tmp_path / "1.png", tmp_path / "3.jpg"), "none of the 2 images")


def test_ctrl_c_waits_for_the_image_under_way_and_the_same_command_goes_on(predict, three, tmp_path, monkeypatch):
    write, calls = Outputs.write, []

    def interrupted(self, *arguments):
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        calls.append(arguments)
        return write(self, *arguments)
    monkeypatch.setattr(Outputs, "write", interrupted)
    done = predict(f"{three}/**/*")
    assert done.returncode == 130 and "stopped after 2 of 3 images" in done.stderr
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".png", ".json"}
    assert len(list((tmp_path / "out").iterdir())) == 6
    done = predict(f"{three}/**/*")
    assert done.returncode == 0 and "1 written, 2 there already" in done.stdout


@pytest.mark.parametrize("names, said", [
    ((), "no names"), (("",), "name 1 is ''"), (("star", "Star"), "the same as name 1"),
    (tuple(map(str, range(255))), "at most 254"), (("long " * 80,), "too long"), (("a\nb\x07",), "control")])
def test_names_that_will_not_do(predict, three, tmp_path, names, said):
    complains(predict(three / "a.png", names=names), said)
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("arguments, said", [
    ([], "no images"), (["nowhere.png"], "nowhere.png: no such file"), (["*.gif"], "no image matches"),
    (["EMPTY"], "without images"), (["a.png", "--threshold", "1.5"], "--threshold 1.5"),
    (["a.png", "--model", "naclip"], "give one of the two"), (["a.png", "--size", "-8"], "model.size=-8"),
    (["a.png", "--out", ""], "--out is empty"), (["a.png", ""], "image 2 is empty"),
    (["a.png", "--size", "60"], "multiple"), (["a.png", "--zoomm"], "--zoomm"),
    (["a.png", "--clip", "none.pt"], "data.prepare clip")])
def test_arguments_that_will_not_do(predict, three, tmp_path, arguments, said, monkeypatch):
    (tmp_path / "EMPTY").mkdir()
    shutil.copy(three / "a.png", tmp_path)
    places = {"a.png", "nowhere.png", "*.gif", "EMPTY", "none.pt"}
    complains(predict(*[tmp_path / a if a in places else a for a in arguments]), said)
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("size, said", [((1, 1), "1 x 1 px"), ((20_000, 16), "")])
def test_images_of_odd_sizes(predict, tmp_path, size, said):
    Image.new("L", size).save(tmp_path / "odd.png")
    done = predict(tmp_path / "odd.png")
    if size == (20_000, 16):
        assert done.returncode == 0 and json.loads((tmp_path / "out/odd.json").read_text())["image"]["width"] == 20_000
    else:
        complains(done, tmp_path / "odd.png", said)


def test_names_in_other_scripts_and_200_of_them(predict, three, tmp_path):
    names = ("星", "étoile", "نجمة")
    done = predict(three / "a.png", names=names)
    assert done.returncode == 0 and "note: 星, نجمة: CLIP has learned from English" in done.stderr
    assert tuple(name["name"] for name in json.loads((tmp_path / "out/a.json").read_text())["names"]) == names
    done = predict(three / "a.png", names=tuple(f"thing {k}" for k in range(200)))
    assert done.returncode == 0 and len(json.loads((tmp_path / "out/a.json").read_text())["names"]) == 200


def test_a_folder_that_cannot_be_written_to_is_told_before_the_model_is_loaded(predict, three, tmp_path, monkeypatch):
    monkeypatch.setattr(Segmenter, "load", lambda **_: pytest.fail("loaded"))
    (tmp_path / "out").write_text("a file in the way")
    complains(predict(three / "a.png"), tmp_path / "out", "--out")


def test_a_full_disk_leaves_nothing_half_written(predict, three, tmp_path):
    with largest_file(2000):
        complains(predict(three / "a.png"), "a.overlay.png", "could not be written", "--out")
    assert not list((tmp_path / "out").iterdir())
    assert predict(three / "a.png").returncode == 0


def test_the_shipped_model_says_what_it_is(weights, three, tmp_path, monkeypatch):
    """Another checkpoint stands for it."""
    monkeypatch.setattr("util.predict.segmenter.SHIPPED", weights)
    names = ["star", "zebra", *(f"thing {k}" for k in range(20))]
    done = in_process("predict.py", three / "a.png", "--names", *names, "--device", "cpu", "--out", tmp_path)
    assert done.returncode == 0 and "'thing 6' and 13 more: the miniature CLIP" in done.stderr
    for said in ("shipped Shapes-5i model", "'zebra'", f"{three}/a.png is no 128 x 128 px scene", "--model naclip"):
        assert said in done.stderr
    assert done.stderr.count("note: ") == 3


def test_clip_alone_and_the_threshold_that_is_not_calibrated(tiny_clip, three, tmp_path):
    done = in_process("predict.py", three, "--names", "star", "--model", "naclip", "--clip", tiny_clip, "--size", 64,
                      "--device", "cpu", "--out", tmp_path)
    assert done.returncode == 0 and "finds each name somewhere" in done.stderr and "not calibrated" in done.stderr


def test_the_shell_script_sees_paths_from_where_it_is_called_and_mistakes_are_told_without_torch(three):
    start = time.monotonic()
    done = subprocess.run(["bash", ROOT / "predict.sh", "a.png", "--names", "star", "star"], cwd=three, text=True,
                          capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "name 2, 'star', is the same" in done.stderr
    assert time.monotonic() - start < 20
    check = ("import sys; from util.predict.command import from_command_line as f; "
             "print(f(['a.png', '--names', 'star'], '').images, 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", check], cwd=three, text=True, capture_output=True,
                          env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)})
    assert done.stdout == "[PosixPath('a.png')] False\n", done.stderr

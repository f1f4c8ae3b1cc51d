"""predict.py and predict.sh as users call them: files in, files out, and what is wrong in one line."""
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predicting import checkpoint_of, write_scene
from runs import ENVIRONMENT, complains, in_process

from util.config import ROOT


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


@pytest.fixture
def predict(weights, tmp_path):
    """predict(arguments) runs predict.py on that checkpoint with results in tmp_path/out."""
    def run(*arguments, names=("star", "key")):
        return in_process("predict.py", *arguments, "--out", tmp_path / "out", "--names", *names, "--weights", weights,
                          "--device", "cpu")
    return run


def test_files_in_files_out(predict, three, tmp_path):
    done = predict(f"{three}/**/*")
    assert done.returncode == 0 and "3 written" in done.stdout, done.stderr
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        f"{stem}.{kind}" for stem in ("a", "a-2", "b") for kind in ("json", "mask.png", "overlay.png")}
    about, indices = json.loads((out / "b.json").read_text()), np.asarray(Image.open(out / "b.mask.png"))
    assert about["image"]["file"] == str(three / "b.jpg")
    assert [name["area"] for name in about["names"]] == [int((indices == k).sum()) for k in (1, 2)]
    shutil.copy(three / "b.jpg", odd := tmp_path / "\udcff\x1b.jpg")
    predict(three / "b.jpg", odd, "--separate", names=("stern, 星",))   # replaces its own results
    assert json.loads((out / "\udcff\x1b.json").read_text())["image"]["file"] == str(odd)
    assert [name["name"] for name in json.loads((out / "b.json").read_text())["names"]] == ["stern", "星"]
    assert {path.name for path in out.glob("b.*")} == {
        "b.json", "b.overlay.png", "b.mask.png", "b.mask-1.png", "b.mask-2.png"}


def test_a_folder_with_the_images_is_no_place_for_results(predict, three, tmp_path):
    (tmp_path / "out").mkdir()
    shutil.copy(three / "a.png", tmp_path / "out/a.overlay.png")
    complains(predict(tmp_path / "out/a.overlay.png"), "files of yours")
    assert (tmp_path / "out/a.overlay.png").read_bytes() == (three / "a.png").read_bytes()


@pytest.mark.parametrize("name, make", [("a.json", Path.touch), ("a.json", os.mkfifo), ("a.mask.png", Path.touch),
                                        ("a.overlay.png", Path.mkdir), ("a.mask-2.png", os.mkfifo)])
def test_what_no_prediction_wrote_is_not_replaced(predict, three, tmp_path, name, make):
    (tmp_path / "out").mkdir()
    make(tmp_path / "out" / name)
    complains(predict(three / "a.png", "--separate"), tmp_path / "out" / name)
    assert [path.name for path in (tmp_path / "out").rename(tmp_path / "kept").iterdir()] == [name]
    (tmp_path / "out").symlink_to("out")    # in a circle
    complains(predict(three / "a.png"), tmp_path / "out")


def test_a_damaged_image_is_named_and_skipped(predict, three, tmp_path):
    (tmp_path / "1.png").write_bytes(b"text")
    done = predict(tmp_path, three / "a.png")
    assert done.returncode == 1 and "1 written, 1 skipped" in done.stdout
    assert f"skipped: {tmp_path}/1.png" in done.stderr


@pytest.mark.parametrize("arguments, said", [
    (["nowhere.png"], "nowhere.png: no such image"), (["a.png", "--threshold", "1.5"], "1.5"),
    (["a.png", "--model", "naclip"], "without weights"), (["a.png", "--size", "60"], "multiple"),
    (["a.png", "--clip", "none.pt"], "none.pt"), (["a.png", "--others", "Star"], "twice")])
def test_arguments_that_will_not_do(predict, three, tmp_path, arguments, said):
    shutil.copy(three / "a.png", tmp_path)
    complains(predict(*[tmp_path / a if a in ("a.png", "nowhere.png", "none.pt") else a for a in arguments]), said)
    assert not (tmp_path / "out").exists()


def test_the_shell_script_sees_paths_from_where_it_is_called(three):
    done = subprocess.run(["bash", ROOT / "predict.sh", "a.png", "--names", "star", "--out", "."], cwd=three,
                          text=True, capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: --out .: a.png"), done.stderr

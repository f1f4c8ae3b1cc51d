"""The sheet of predictions of python -m util.compare, and the pictures of final tests that it is made of."""
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.files import read_image
from util.results.pictures import ORANGE, PICTURES

SHEET = "predictions-pascal-episodic.png"
IMAGE, TRUTH, PRIOR = (10, 200, 10), (20, 20, 180), (90, 0, 90)
SIDE = 192  # px, of a square picture on the sheet


def draw(folder: Path, colours: dict[int, tuple], side: int = 48, class_id: int = 0) -> None:
    """Solid pictures for a made run: {line of the list: colour of the prediction}."""
    results = json.loads((folder / "results.json").read_text())
    class_id = class_id or 2 * results["fold"] + 1
    results["pictures"] = {f"{row:05d}-m{row}-{class_id}": {"class_id": class_id, "iou": 50.0} for row in colours}
    (folder / "results.json").write_text(json.dumps(results))
    for name, colour in zip(results["pictures"], colours.values()):
        (folder / "pictures" / name).mkdir(parents=True)
        for file, c in (("image", IMAGE), ("truth", TRUTH), ("prior", PRIOR), ("prediction", colour)):
            picture = np.full((side, side, 3), c[::-1], np.uint8)
            cv2.imwrite(str(folder / "pictures" / name / f"{file}.png"), picture)


@pytest.fixture
def compare(made, run_script, tmp_path):
    """compare("--partial", ...) of all that was made, through the command line; returns what it said on stderr."""
    def call(*options, status: int = 0) -> str:
        done = run_script("util.compare", made.exp, "--out", tmp_path / "out", *options)
        assert done.returncode == status, done.stderr
        assert status or done.stdout == (tmp_path / "out/table.md").read_text()
        return done.stderr
    return call


@pytest.fixture
def sheet(tmp_path):
    """sheet() reads the sheet that was written."""
    return lambda: read_image(tmp_path / "out" / SHEET)


def places(picture: np.ndarray, colour) -> list[tuple[int, int]]:
    """(y, x) of the upper left corner of each square of a colour, from above."""
    there = (picture == colour).all(axis=-1).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(there)
    return sorted((int(y), int(x)) for x, y, width, height, area in stats[1:] if (width, height) == (SIDE, SIDE))


# The layout

def test_every_config_has_its_column_and_every_sample_its_row(made, compare, sheet):
    for k, arch in enumerate(("esda", "plain")):
        for fold in range(2):
            draw(made(arch, fold, 50), {row: (200 + k, 10 * fold, row) for row in (3, 7)})
    assert f"written: {made.exp.parent}/out/{SHEET}" in compare("--partial", "--baseline", "plain")
    picture = sheet()
    corners = places(picture, IMAGE)
    assert len(corners) == 4 and len({x for _, x in corners}) == 1
    (left,), down = {x for _, x in corners}, [y for y, _ in corners]
    assert places(picture, TRUTH) == [(y, left + SIDE + 6) for y in down] and places(picture, PRIOR) == []
    samples = [(fold, row) for fold in range(2) for row in (3, 7)]
    for y, (fold, row) in zip(down, samples):
        for column, k in ((2, 1), (3, 0)):  # the baseline first
            assert places(picture, (200 + k, 10 * fold, row)) == [(y, left + column * (SIDE + 6))]
    assert all((picture[y - 20:y - 2, x:x + 40] < 128).any() for y, x in corners + places(picture, TRUTH)), "heads"


def test_columns_and_rows_are_named(made, compare, sheet):
    def changed(before):
        there = np.argwhere((before != sheet()).any(axis=-1))
        return (*there.min(axis=0).tolist(), *there.max(axis=0).tolist())

    folders = {arch: made(arch, 0, 50) for arch in ("esda", "plain")}
    for k, folder in enumerate(folders.values()):
        draw(folder, {1: (200 + k, 0, 0)})
    compare("--partial")
    first = sheet()
    (y, x), = places(first, (201, 0, 0))
    moved = made.exp / "pascal/plane"
    (made.exp / "pascal/plain").rename(moved)
    path = moved / "fold0/seed1/results.json"
    path.write_text(path.read_text().replace('"plain"', '"plane"'))
    compare("--partial")
    top, left, bottom, right = changed(first)
    assert y - 22 < top < bottom < y and x < left < right < x + SIDE, "the head above the config's own column"
    second = sheet()
    for path in made.exp.rglob("results.json"):
        path.write_text(path.read_text().replace("low 0", "cow 0"))
    compare("--partial")
    top, left, bottom, right = changed(second)
    assert y - 44 < top < bottom < y - 22 and left < 60 and right < x, "the class at the head of the row"


def test_twelve_rows_evenly_over_folds_and_lists(made, compare, sheet):
    for fold, count in enumerate((20, 2, 20, 20)):
        draw(made("esda", fold, 50), {row: (200, 10 * fold, row) for row in range(count)})
    compare()
    picture = sheet()
    shown = {fold: [row for row in range(20) if places(picture, (200, 10 * fold, row))] for fold in range(4)}
    assert shown == {0: [0, 6, 13, 19], 1: [0, 1], 2: [0, 10, 19], 3: [0, 10, 19]}
    compare()
    assert (picture == sheet()).all()


def test_of_several_seeds_the_first_is_shown(made, compare, sheet):
    for seed in (2, 1, 3):
        draw(made("esda", 0, 50, seed=seed), {1: (200, 0, seed)})
    compare("--partial")
    assert [len(places(sheet(), (200, 0, seed))) for seed in (1, 2, 3)] == [1, 0, 0]


def test_pictures_of_any_size_and_shape_fit(made, compare, sheet):
    draw(made("esda", 0, 50), {1: (200, 0, 0)}, side=500)
    draw(made("plain", 0, 50), {1: (201, 0, 0)}, side=31)
    compare("--partial")
    assert len(places(sheet(), (200, 0, 0))) == len(places(sheet(), (201, 0, 0))) == 1


# What is not on it

def test_only_samples_that_all_share(made, compare, sheet):
    draw(made("esda", 0, 50), {1: (200, 0, 1), 2: (200, 0, 2)})
    draw(made("plain", 0, 50), {2: (201, 0, 2), 3: (201, 0, 3)})
    draw(made("plain", 1, 50), {1: (201, 0, 1)})
    compare("--partial")
    picture = sheet()
    assert len(places(picture, IMAGE)) == 1
    assert len(places(picture, (200, 0, 2))) == len(places(picture, (201, 0, 2))) == 1


@pytest.mark.parametrize("other", [{"fold": 1, "row": 1}, {"fold": 0, "row": 2}, {"fold": 0, "row": 1, "class_id": 2}])
def test_without_a_shared_sample_one_line_and_no_sheet(other, made, compare, tmp_path):
    draw(made("esda", 0, 50), {1: (200, 0, 0)})
    draw(made("plain", other["fold"], 50), {other["row"]: (201, 0, 0)}, class_id=other.get("class_id", 0))
    said = [line for line in compare("--partial").splitlines() if not line.startswith("written: ")]
    assert said == [f"no {SHEET}: the runs share no sample that they drew when they were tested"]
    assert not (tmp_path / "out" / SHEET).exists() and (tmp_path / "out/classes-pascal-episodic.png").is_file()


def test_runs_that_kept_no_pictures_stand_aside(made, compare, sheet, tmp_path):
    made.folds("old", (40, 40, 40, 40))
    assert f"no {SHEET}: " in compare() and not (tmp_path / "out" / SHEET).exists()
    for folder in made.folds("esda", (50, 50, 50, 50)):
        draw(folder, {1: (200, 0, 0)})
    assert f"not in {SHEET}: old, which drew no sample of this epoch; test it again\n" in compare()
    assert len(places(sheet(), (200, 0, 0))) == 4


def test_pictures_that_were_taken_away_count_as_not_drawn(made, compare, sheet):
    folder = made("esda", 0, 50)
    draw(folder, {1: (200, 0, 1), 2: (200, 0, 2)})
    shutil.rmtree(folder / "pictures/00001-m1-1")
    compare("--partial")
    assert [len(places(sheet(), (200, 0, row))) for row in (1, 2)] == [0, 1]


def test_an_epoch_that_was_not_tested_has_no_pictures(made, compare, tmp_path):
    scores = {"miou": 40, "fb_iou": 60, "protocol": "episodic", "per_class": {"low 0": 30, "high 0": 50}}
    draw(made("esda", 0, 50, best_epoch=4, selections={"unseen": {**scores, "epoch": 4}, "seen": {**scores, "epoch": 4},
                                                       "last": {**scores, "epoch": 9}}), {1: (200, 0, 0)})
    for select, there in (("last", False), ("seen", True)):
        assert (f"no {SHEET}: " not in compare("--partial", "--select", select)) == there
        assert (tmp_path / "out" / SHEET).is_file() == there


def test_a_picture_that_cannot_be_read(made, compare, tmp_path):
    folder = made("esda", 0, 50)
    draw(folder, {1: (200, 0, 0)})
    (folder / "pictures/00001-m1-1/truth.png").write_bytes(b"spoilt")
    said = compare("--partial", status=2)
    assert said.startswith(f"error: {folder}/pictures/00001-m1-1/truth.png: ") and said.count("\n") == 1


# From the final test to the sheet

def test_from_final_tests_to_the_sheet(tiny_options, run_script, tmp_path):
    """Two configs keep the same samples; the one that marks every pixel stands in its own column."""
    folders = {}
    for arch in ("clip_prior", "everything"):
        done = run_script("test.py", "--config", f"config/shapes/{arch}.yaml", *tiny_options, "run=r")
        assert done.returncode == 0, done.stderr
        folders[arch] = tmp_path / f"exp/shapes/{arch}/fold0/r"
    drawn = [json.loads((folder / "results.json").read_text())["pictures"] for folder in folders.values()]
    assert drawn[0].keys() == drawn[1].keys() and len(drawn[0]) == 4
    for folder in folders.values():
        assert {path.name for path in (folder / "pictures").iterdir()} == {*drawn[0], "unseen.png"}
    for name, about in drawn[0].items():
        row, stem, queried = name.split("-")
        assert stem == f"val_{int(row):06d}" and int(queried) == about["class_id"] in range(1, 6)
        a, b = ({file: read_image(folder / "pictures" / name / f"{file}.png") for file in PICTURES}
                for folder in folders.values())
        assert (a["image"] == b["image"]).all() and (a["truth"] == b["truth"]).all()
        inside = slice(5, -5)  # of the outline round the whole picture
        expected = b["image"] * 0.65 + np.array(ORANGE) * 0.35
        assert abs(b["prediction"] - expected)[inside, inside].max() <= 1 and b["image"].shape == (256, 256, 3)
    done = run_script("util.compare", tmp_path / "exp", "--out", tmp_path / "out", "--partial")
    assert done.returncode == 0, done.stderr
    picture = read_image(tmp_path / "out/predictions-shapes-exhaustive.png")
    tiles = picture[16 + 44:][:SIDE, 16:]
    a, b = (folder / "pictures" / min(drawn[0]) for folder in folders.values())
    for k, file in enumerate((a / "image.png", a / "truth.png", a / "prediction.png", b / "prediction.png")):
        tile = cv2.resize(read_image(file), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        assert (tiles[:, k * (SIDE + 6):][:, :SIDE] == tile).all()


def test_the_generalised_protocol_draws_no_samples(made, run_script, tmp_path):
    made("esda", 0, 40, protocol="generalised", pictures={}, seen_miou=60.0, hiou=48.0, pixel_accuracy=80.0)
    done = run_script("util.compare", made.exp, "--out", tmp_path / "out", "--partial")
    assert done.returncode == 0 and "no predictions-pascal-generalised.png: " in done.stderr

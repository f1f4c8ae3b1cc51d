"""data.prepare on both miniature sets: archives broken or missing, full disks, stops, repeats, training."""
import functools
import http.server
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import miniature
import numpy as np
import pytest
from miniature import complains, contents, prepared, times
from PIL import Image
from runs import ENVIRONMENT, in_process, largest_file

from data.folds import Classes
from data.index import read_index
from data.prepare import coco, pascal
from data.prepare.download import Remote
from data.prepare.published import STAMP
from data.samples import exhaustive, train_images
from util.config import ROOT

MASK_LIMIT, IMAGE_LIMIT = 4096, 40_000  # bytes a file that a full disk takes: all files of the sets but one made larger


class Set(NamedTuple):
    name: str
    content: dict[str, dict[str, bytes]]
    packed: Path
    unpacked: Path
    made: Path  # from what was unpacked

    def arguments(self, source: Path, root: Path) -> list[str]:
        return [self.name, "--source", str(source), "--out", str(root), "--any-archive"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Set]:
    out = {}
    for name, content in (("pascal", miniature.pascal()), ("coco", miniature.coco())):
        folder = tmp_path_factory.mktemp(name)
        unpacked = miniature.write_tree(content, folder / "unpacked")
        out[name] = Set(name, content, miniature.write_archives(content, folder / "packed"), unpacked,
                        prepared(name, unpacked, folder / "made"))
    return out


@pytest.fixture(scope="module", params=["pascal", "coco"])
def each(request, sets) -> Set:
    return sets[request.param]


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def run(capfd):
    """run("pascal", ...) is `python -m data.prepare pascal ...` without a process of its own."""
    return lambda *arguments: miniature.run_prepare(*arguments, capfd=capfd)


def assert_nothing_half_made(root: Path, whole: Path) -> None:
    """Masks are as in ``whole`` or absent, and no temporary file is left."""
    found = contents(root)
    assert not [name for name in found if name.endswith(".part")]
    assert {name: data for name, data in found.items() if name.endswith(".png")}.items() <= contents(whole).items()


# Archives that are not right

@pytest.mark.parametrize("number, share", [(0, 0.5), (1, 0.5), (-1, 0.1)])
def test_an_archive_cut_short_is_one_line(each, run, tmp_path, out, number, share):
    source = Path(shutil.copytree(each.packed, tmp_path / "source"))
    archive = source / list(each.content)[number]
    os.truncate(archive, int(share * archive.stat().st_size))
    named = () if archive.suffix == ".tar" else (archive, "cut short")  # a tar may well end between two members
    complains(run(*each.arguments(source, out)), "again", *named)
    assert_nothing_half_made(out, each.made)
    assert not (out / "lists" / "val.txt").exists()


@pytest.mark.parametrize("name, share", [("benchmark.tgz", 0.4), ("val2014.zip", 0.4),
                                         ("annotations_trainval2014.zip", 0.2)])
def test_an_archive_damaged_in_the_middle_is_one_line(sets, run, tmp_path, out, name, share):
    each = next(one for one in sets.values() if name in one.content)
    source = Path(shutil.copytree(each.packed, tmp_path / "source"))
    data = (source / name).read_bytes()
    start = int(share * len(data))
    (source / name).write_bytes(data[:start] + bytes(200) + data[start + 200:])
    named = () if name.endswith(".tgz") else (source / name, "damaged")  # a tar may end where its headers are damaged
    complains(run(*each.arguments(source, out)), "again", *named)
    assert_nothing_half_made(out, each.made)


@pytest.mark.parametrize("at, value", [(6, 99), (8, 1), (42, 7)], ids=["version", "encrypted", "offset"])
def test_a_zip_with_a_damaged_directory_is_named(sets, run, tmp_path, out, at, value):
    source = Path(shutil.copytree(sets["coco"].packed, tmp_path / "source"))
    data = bytearray((source / "train2014.zip").read_bytes())
    data[data.rindex(b"PK\x01\x02") + at] = value  # within the entry of the last member
    (source / "train2014.zip").write_bytes(data)
    complains(run(*sets["coco"].arguments(source, out)), source / "train2014.zip", "damaged", "fetch it again")


def test_an_archive_of_another_size_is_refused(each, run, out):
    first = each.packed / next(iter(each.content))
    done = run(each.name, "--source", each.packed, "--out", out)
    complains(done, first, f"has {first.stat().st_size} bytes, not ", "curl -L", "--any-archive")
    assert not list(out.rglob("*.png"))


def test_an_archive_of_another_hash_is_refused(sets, run, tmp_path, out):
    content = dict(sets["pascal"].content)
    source = miniature.write_archives({"benchmark.tgz": content.pop("benchmark.tgz")}, tmp_path / "source")
    miniature.write_tree(content, source)
    complains(run("pascal", "--source", source, "--out", out), source / "benchmark.tgz", "has MD5 ",
              "82b4d87ceb2ed10f6038a1cba92111cb", "--any-archive")
    assert not list(out.rglob("*.png"))


def test_another_archive_under_the_official_name_is_refused(each, run, tmp_path, out):
    name = next(iter(each.content))
    source = miniature.write_archives({**each.content, name: {"elsewhere/a.jpg": b"a"}}, tmp_path / "source")
    complains(run(*each.arguments(source, out)), source / name, "not the official archive")


# Sources that are not there

def test_what_is_missing_is_told_with_the_lines_to_type(each, run, out):
    done = run(each.name, "--out", out)
    complains(done, *each.content, out / "archives")
    pieces = (pascal if each.name == "pascal" else coco).PIECES
    assert done.stdout.splitlines() == [
        "What is missing can be fetched with", f"  python -m data.prepare {each.name} --out {out} --download",
        "or by hand with", f"  mkdir -p {out}/archives",
        *(f"  curl -L -C - -o {out}/archives/{piece.remote.name} {piece.remote.url}" for piece in pieces),
        "and then", f"  python -m data.prepare {each.name} --out {out}"]


def test_download_fetches_what_is_missing_and_makes_the_set(each, run, out, monkeypatch):
    """From a server of our own in place of the official ones."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(each.packed))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("no_proxy", "*")
    module = {"pascal": pascal, "coco": coco}[each.name]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setattr(module, "PIECES", tuple(
            replace(piece, remote=Remote(f"http://127.0.0.1:{server.server_address[1]}/{piece.remote.name}",
                                         (each.packed / piece.remote.name).stat().st_size)) for piece in module.PIECES))
        done = run(each.name, "--download", "--out", str(out))
        server.shutdown()
    assert done.returncode == 0, done.stderr
    shutil.rmtree(out / "archives")
    assert contents(out) == contents(each.made)


def test_the_lines_to_type_lead_to_the_set_when_one_archive_is_missing(each, run, tmp_path):
    """In folders whose names a shell would tear apart."""
    missing, *there = each.content
    source = miniature.write_archives({name: each.content[name] for name in there}, tmp_path / "what is there")
    done = run(*each.arguments(source, tmp_path / "my set"))
    complains(done, missing)
    assert not [name for name in there if name in done.stderr]
    typed = [shlex.split(line) for line in done.stdout.splitlines()]
    make, fetch = (next(words for words in typed if words[:1] == [program]) for program in ("mkdir", "curl"))
    subprocess.run(make, check=True)
    shutil.copyfile(each.packed / missing, fetch[fetch.index("-o") + 1])
    assert typed[-1][:3] == ["python", "-m", "data.prepare"]
    assert run(*typed[-1][3:]).returncode == 0
    lists = contents(tmp_path / "my set" / "lists")
    assert lists and lists == contents(each.made / "lists")


def test_a_source_that_is_no_folder_is_named(each, run, tmp_path, out):
    complains(run(each.name, "--source", tmp_path / "nowhere", "--out", out), tmp_path / "nowhere", "--source")
    assert not out.exists()


@pytest.mark.parametrize("name, count", [("pascal", 16), ("coco", 22)])
def test_images_of_an_unpacked_source_are_hard_links_to_it(sets, name, count):
    ours, theirs = ([path for path in folder.rglob("*.jpg") if not path.is_symlink()]
                    for folder in (sets[name].made, sets[name].unpacked))
    assert len(ours) == count and {p.stat().st_ino for p in ours} <= {p.stat().st_ino for p in theirs}


# Disks that fill up

def noise(*shape: int, values: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, values, shape).astype(np.uint8)


def with_a_large_mask(source: Set, folder: Path) -> Path:
    """PASCAL unpacked, with one mask that compression does not help."""
    miniature.write_tree(source.content, folder)
    mat = folder / "benchmark_RELEASE/dataset/cls" / f"{miniature.SBD_VAL[1].name}.mat"
    mat.write_bytes(miniature.gt_mat(noise(90, 120, values=21)))
    return folder


def with_a_large_image(source: Set, folder: Path, archive: str, member: str) -> Path:
    """The archives of a set, with one JPEG larger than any other file."""
    folder.mkdir()
    Image.fromarray(noise(300, 300, 3, values=256)).save(folder / "large.jpg", quality=95)
    large = {archive: {**source.content[archive], member: (folder / "large.jpg").read_bytes()}}
    return miniature.write_archives({**source.content, **large}, folder)


@pytest.mark.parametrize("name, limit, at, make", [
    ("pascal", MASK_LIMIT, f"{pascal.MASKS}/{miniature.SBD_VAL[1].name}.png", with_a_large_mask),
    ("pascal", IMAGE_LIMIT, "JPEGImages/2008_000202.jpg",
     lambda one, folder: with_a_large_image(one, folder, "VOCtrainval_11-May-2012.tar",
                                            "VOCdevkit/VOC2012/JPEGImages/2008_000202.jpg")),
    ("coco", IMAGE_LIMIT, "val2014/COCO_val2014_000000000074.jpg",
     lambda one, folder: with_a_large_image(one, folder, "val2014.zip", "val2014/COCO_val2014_000000000074.jpg"))],
    ids=["mask", "image of a tar", "image of a zip"])
def test_a_full_disk_is_one_line_and_the_command_goes_on(sets, run, tmp_path, out, name, limit, at, make):
    """A limit on the size of files stands for the disk: all fit but one."""
    source = make(sets[name], tmp_path / "source")
    whole = prepared(name, source, tmp_path / "whole")
    assert (whole / at).stat().st_size > limit
    arguments = sets[name].arguments(source, out)
    with largest_file(limit):
        done = run(*arguments)
    complains(done, out / at, "could not be written", "free some space", "same command")
    assert_nothing_half_made(out, whole)
    assert not (out / at).exists() and not json.loads((out / "prepared.json").read_text())["finished"]
    assert run(*arguments).returncode == 0
    assert contents(out) == contents(whole)


# Stops

SLOW = """
import sys, time, types
sys.modules["model.clip.weights"] = types.SimpleNamespace(URL="", SHA256="")  # spares the test torch
from data.prepare import pascal, __main__ as prepare
from util.runtime.errors import run_main
quick = pascal.draw

def slow(path):
    time.sleep(0.05)
    return quick(path)

pascal.draw = slow
if __name__ == "__main__":  # workers may import this file
    run_main(prepare.main)
"""


@pytest.mark.parametrize("stop, number, status", [
    (os.kill, signal.SIGKILL, -signal.SIGKILL), (os.killpg, signal.SIGINT, 130)], ids=["main process killed", "ctrl-c"])
def test_a_stop_among_the_masks_leaves_no_process_and_the_command_goes_on(sets, run, tmp_path, out,
                                                                           stop, number, status):
    arguments = sets["pascal"].arguments(sets["pascal"].unpacked, out)
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen([sys.executable, tmp_path / "slow.py", *arguments], text=True, start_new_session=True,
                               env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    try:
        while len(list((out / pascal.MASKS).glob("*.png"))) < 3 and process.poll() is None:
            time.sleep(0.01)
        stop(process.pid, number)
        _, errors = process.communicate(timeout=60)  # ends with the last worker, which has the same pipes
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status and errors == ("stopped\n" if status > 0 else "")
    assert not (out / "lists").exists() and not json.loads((out / "prepared.json").read_text())["finished"]
    assert run(*arguments).returncode == 0
    assert contents(out) == contents(sets["pascal"].made)


def test_a_half_made_set_with_leftovers_is_finished(each, run, out):
    """As a process leaves it that was killed amidst everything, or a machine that went down."""
    shutil.copytree(each.made, out)
    names = [name for name in contents(out) if name.endswith((".png", ".jpg"))]
    for name in names[::2]:
        (out / name).unlink()
        (out / name).with_name(f".{Path(name).name}.1.part").write_bytes(b"half of")
    for name in names[1::4]:
        (out / name).unlink()  # which may be a link to the source
        (out / name).write_bytes(b"")
    shutil.rmtree(out / "lists")
    (out / "prepared.json").write_text((out / "prepared.json").read_text().replace("true", "false"))
    assert run(*each.arguments(each.unpacked, out)).returncode == 0
    assert contents(out) == contents(each.made)


# Repeats

def test_a_second_run_changes_no_file(each, run, out):
    """But for prepared.json, which says meanwhile that the set is not finished."""
    def but_for_the_stamp():
        return {name: when for name, when in times(out).items() if name != STAMP}

    done = run(*each.arguments(each.packed, out))
    assert done.returncode == 0 and done.stderr == "" and contents(out) == contents(each.made)
    before = but_for_the_stamp()
    for source in ([], ["--source", each.packed], ["--source", each.unpacked]):
        assert run(each.name, *source, "--out", out, "--any-archive").returncode == 0
        assert but_for_the_stamp() == before, source
    assert contents(out) == contents(each.made)


def test_a_finished_set_needs_no_source(each, run):
    done = run(each.name, "--out", each.made)
    assert done.returncode == 0 and "finished already" in done.stdout


@pytest.mark.parametrize("name, asked", [
    ("pascal", ["coco"]), ("coco", ["pascal"]), ("coco", ["coco", "--crowd", "class"]),
    ("coco", ["coco", "--masks", "pycocotools"])])
def test_a_run_with_other_options_is_refused_and_touches_nothing(sets, run, name, asked):
    made = sets[name].made
    before = contents(made), times(made)
    done = run(*asked, "--source", sets[asked[0]].unpacked, "--out", made, "--any-archive")
    complains(done, made, f"dataset={name}", "--out")
    assert (contents(made), times(made)) == before


def test_a_stamp_that_cannot_be_read_is_one_line(each, run, out):
    shutil.copytree(each.made, out)
    for text in ('{"made_with": ', "[" * 100_000):
        (out / "prepared.json").write_text(text)
        complains(run(*each.arguments(each.unpacked, out)), "prepared.json", "--out")


@pytest.mark.parametrize("file", ["lists/train.txt", "made_with.json"])
def test_the_lists_of_another_data_set_are_not_overwritten(each, run, out, file):
    (out / file).parent.mkdir(parents=True)
    (out / file).write_text("my own")
    before = contents(out)
    complains(run(*each.arguments(each.unpacked, out)), out, "another data set")
    assert contents(out) == before


def test_an_empty_name_for_the_result_is_refused(run):
    for name in ("pascal", "clip"):
        complains(run(name, "--out", ""), "--out is empty")


def test_a_set_made_before_there_was_a_choice_of_masks_has_pycocotools(sets, run, out):
    """And is not mixed with others: --masks pycocotools goes on with it."""
    shutil.copytree(sets["coco"].made, out)
    (out / STAMP).write_text(json.dumps({"made_with": {"dataset": "coco", "overlap": "larger_first", "crowd": "ignore"},
                                         "finished": True}))
    complains(run("coco", "--out", out), "masks=pycocotools overlap=larger_first", "masks=published", "--out")
    assert run("coco", "--masks", "pycocotools", "--out", out).returncode == 0


@pytest.mark.parametrize("option", [["--overlap", "larger_first"], ["--crowd", "ignore"]])
def test_a_question_of_coco_alone_is_refused_for_pascal(run, tmp_path, out, option):
    complains(run("pascal", "--source", tmp_path, "--out", out, *option), option[0], "COCO")
    assert not out.exists()


def test_verify_and_lists_are_subcommands_too(run, tmp_path):
    complains(run("lists", tmp_path), tmp_path / "images", "--images")
    complains(run("verify", "pascal", f"data.root={tmp_path / 'nosuch'}"), "nosuch", "python -m data.prepare pascal")


@pytest.mark.parametrize("option", ["--out", "--source"])
def test_a_folder_whose_name_cannot_be_printed_is_one_line(run, option):
    complains(run("pascal", option, os.fsdecode(b"caf\xe9")), "caf\\udce9", "rename")


# Training and testing

def fold_0(name: str, root: Path) -> tuple[list[str], list[str], list[str]]:
    """The images fold 0 trains on, those it is tested on, and the names of its unseen classes."""
    classes = Classes.read(ROOT / "lists" / name / "classes.yaml")
    train, val = (read_index(root, root / "lists" / f"{part}.txt", len(classes.names)) for part in ("train", "val"))
    return ([train.pairs[row][0] for row in train_images(train, classes, 0, 2048, "seen").rows],
            [val.pairs[sample.row][0] for sample in exhaustive(val, classes.unseen(0), 2048)],
            [classes.name(class_id) for class_id in classes.unseen(0)])


@pytest.mark.slow
@pytest.mark.parametrize("name, config, own", [("pascal", "esda", "model.replace_indices=[1,2,3]"),
                                               ("coco", "plus", "model.interactor_width=0")])
def test_grey_cmyk_and_turned_jpegs_are_trained_and_tested_on(name, config, own, sets, options_for, tmp_path):
    """Each training image of fold 0 once, in two steps, then the final test; all at the published threshold."""
    def kinds(names: list[str]) -> set:
        images = [Image.open(root / name) for name in names]
        return {(image.mode, image.getexif().get(0x0112)) for image in images}

    root = Path(shutil.copytree(sets[name].made, tmp_path / "set"))  # which gets an index
    train, val, unseen = fold_0(name, root)
    assert kinds(train) == kinds(val) == {("RGB", None), ("L", None), ("CMYK", None), ("RGB", miniature.TURNED)}
    options = ["--config", f"config/{name}/{config}.yaml", *options_for(root, tmp_path / "exp"),
               "data.min_pixels=2048", own, "train.epochs=1", "train.epoch_samples=0",
               "train.batch_size=4", "eval.samples=16"]
    done = in_process("train.py", *options, "run=mini")
    assert done.returncode == 0, done.stderr
    assert len(train) == 8 and "8 training images" in done.stdout and "2 iterations an epoch" in done.stdout
    folder = tmp_path / "exp" / name / config / "fold0"
    done = in_process("test.py", *options, f"weights={folder}/mini/checkpoints/best.pt", "run=final")
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "final" / "results.json").read_text())
    assert results["protocol"] == "episodic" and results["samples"] == 16
    assert (results["dataset"], results["fold"]) == (name, 0)
    assert results["per_class"] and set(results["per_class"]) <= set(unseen)

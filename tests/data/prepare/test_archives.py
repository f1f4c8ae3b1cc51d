"""The official archives, packed or not: found, checked, fetched from a server of our own, put in place."""
import functools
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import miniature
import pytest
from miniature import contents
from runs import in_process

from data.prepare import coco
from data.prepare.archives import Archive, extract
from util.runtime.errors import UserError

CONTENT = bytes(range(256)) * 400
ANY = Archive("http://nowhere/a.tar", prefix="p/", files=("x", "y/*.txt"))


def write(path: Path, members: dict[str, bytes]) -> Path:
    """A tar or a zip; an empty member of a tar is a link out of it."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, data in members.items():
                file.writestr(name, data)
        return path
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.linkname = len(data), "/etc/passwd"
            entry.type = tarfile.REGTYPE if data else tarfile.SYMTYPE
            file.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_that_lead_outside_and_other_archives_are_refused_and_links_are_no_members(tmp_path, kind):
    for name, said in (("p/../evil", "evil"), ("p/x/../../evil", "evil"), ("p//evil", "evil"), ("q/x", "below p/")):
        with pytest.raises(UserError, match=said):
            ANY.members(write(tmp_path / f"a.{kind}", {name: b"evil"}))
    assert set(ANY.members(write(tmp_path / "a.tar", {"p/link": b"", "p/good": b"x", "q/other": b"x"}))) == {"good"}


@pytest.mark.parametrize("how", ["zip", "tar", "folder"])
def test_what_masks_are_made_from_is_replaced_and_images_of_the_same_size_stay(tmp_path, how):
    path = tmp_path / f"a.{how}"
    if how == "folder":
        path.mkdir()
        (path / "x").write_bytes(b"new")
    else:
        write(path, {"p/x": b"new"})
    out = tmp_path / "out/x"
    out.parent.mkdir()
    out.write_bytes(b"old")
    extract(ANY.members(path), {"x": out}, "images")
    assert out.read_bytes() == b"old"
    extract(ANY.members(path), {"x": out}, "masks", exact=True)
    assert contents(out.parent) == {"x": b"new"}
    with pytest.raises(UserError, match="1 of 1 masks are not in the source, such as z"):
        extract(ANY.members(path), {"z": out}, "masks")


def test_an_unpacked_folder_goes_before_the_archive_and_what_is_half_made_is_none(tmp_path):
    for file in ("s/a.tar", "s/b/c/x", "s/b/c/y/1.txt", "s/a/y/1.txt", "s/d/x", "out/x", "out/y/1.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    assert ANY.find([tmp_path / "s"], tmp_path / "out") == tmp_path / "s/b/c"
    (tmp_path / "s/b/c/x").unlink()
    assert ANY.find([tmp_path], tmp_path / "out") == tmp_path / "s/a.tar"
    assert ANY.find([tmp_path / "out"], tmp_path / "out") == tmp_path / "out", "unless it is named"
    assert ANY.find([tmp_path / "nowhere"], tmp_path / "out") is None


# Downloads

@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, and the address at which a server of our own has its files."""
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def hash_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def test_clip_is_fetched_once_and_checked(served, tmp_path):
    folder, url = served
    (folder / "clip.pt").write_bytes(CONTENT)
    clips, out = {"ViT-B/16": Archive(f"{url}/clip.pt", hash=hash_of(CONTENT))}, tmp_path / "weights/clip.pt"
    assert in_process("data.prepare", "clip", "--out", out, CLIPS=clips).returncode == 0
    assert contents(out.parent) == {"clip.pt": CONTENT}
    (folder / "clip.pt").unlink()
    assert in_process("data.prepare", "clip", "--out", out, CLIPS=clips).returncode == 0, "it is there and right"


@pytest.mark.parametrize("remote", [{"hash": hash_of(b"other")}, {"hash": hash_of(b"other", "md5")}, {"size": 5}])
def test_what_comes_wrong_or_not_at_all_is_no_file_and_what_was_there_stays(served, tmp_path, remote):
    folder, url = served
    (folder / "a.tar").write_bytes(CONTENT)
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.tar").write_bytes(b"mine")
    for archive in (Archive(f"{url}/a.tar", **remote), Archive(f"{url}/none.tar"), Archive("http://127.0.0.1:9/a.tar")):
        for name in ("a.tar",) if archive.hash or archive.size else ("b.tar",):
            with pytest.raises(UserError, match="not fetched"):
                archive.download(out / name)
    assert contents(out) == {"a.tar": b"mine"}


def test_download_fetches_what_is_missing_and_makes_the_set(served, tmp_path, monkeypatch):
    folder, url = served
    miniature.write_archives(miniature.coco(), folder)
    monkeypatch.setattr(coco, "ARCHIVES", tuple(replace(
        one, url=f"{url}/{one.name}", size=(folder / one.name).stat().st_size) for one in coco.ARCHIVES))
    assert in_process("data.prepare", "coco", "--download", "--out", tmp_path / "out").returncode == 0
    made = miniature.prepared("coco", folder, tmp_path / "other")
    assert contents(made).items() <= contents(tmp_path / "out").items()

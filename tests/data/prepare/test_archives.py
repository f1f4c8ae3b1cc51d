"""What unpacks archives: nothing is written outside its folder, links and devices are passed over, nothing hangs."""
import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import miniature
import pytest
from miniature import complains, contents, prepared

from data.prepare import archives as module
from data.prepare.archives import Folder, Tar, Zip, inside, locate
from data.prepare.coco import PIECES
from data.prepare.pascal import VOC
from util.runtime.errors import UserError

NAME = "pascal"  # the set that the fixtures make
LEADING_OUT = ["../a", "a/../../b", "/a", "//a", "C:/a", "c:a", "a\\b", "..\\a", "a\0b", "a\nb", "", ".", "..", "a//b",
               "./a", "a/", "b" * 256, "a/" * 600 + "b", "\udce9"]


@pytest.mark.parametrize("name", [*LEADING_OUT, None, 5])
def test_a_name_that_may_lead_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="not a name below"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "a/b.jpg", "a b.jpg", "caf\u00e9.jpg", "a..b", "...", "-"])
def test_another_name_is_taken_as_it_is(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name


def write(path: Path, members: dict[str, bytes | tarfile.TarInfo | zipfile.ZipInfo]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, data in members.items():
                file.writestr(*((name, data) if isinstance(data, bytes) else (data, b"target")))
        return path
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            entry = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = len(data) if isinstance(data, bytes) else 0
            file.addfile(entry, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../evil", "x/../../evil", "/evil", "C:/evil", "x\\..\\..\\evil"])
def test_members_are_never_written_outside(tmp_path, kind, name):
    path = write(tmp_path / f"a.{kind}", {f"p/{name}": b"evil", "p/good": b"good"})
    archive = (Zip if kind == "zip" else Tar)(path, "p/")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="not a name below"):
        archive.extract(tmp_path / "deep/out", {member: member for member in archive.sizes}, "members")
    assert contents(tmp_path) == before
    archive.extract(tmp_path / "deep/out", {"good": "good"}, "members")
    assert contents(tmp_path / "deep") == {"out/good": b"good"}


def special(kind: bytes, name: str, target: str = "/etc/passwd") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def test_links_and_devices_are_no_members(tmp_path):
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    members = {f"p/{k.decode()}": special(k, f"p/{k.decode()}") for k in kinds}
    assert Tar(write(tmp_path / "a.tar", members | {"p/good": b"x"}), "p/").sizes == {"good": 1}
    link = zipfile.ZipInfo("p/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    assert Zip(write(tmp_path / "a.zip", {"p/link": link, "p/good": b"x"}), "p/").sizes == {"good": 1}


def test_a_link_that_takes_the_place_of_a_file_is_not_read_as_one(tmp_path):
    link = zipfile.ZipInfo("p/x")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with pytest.warns(UserWarning, match="Duplicate"):
        path = write(tmp_path / "a.zip", {"p/x": b"file", "second": link})
    assert Zip(path, "p/").sizes == {}


@pytest.mark.parametrize("at", [600, 2060])
def test_a_tar_with_a_damaged_header_or_checksum_is_no_shorter_one(tmp_path, at):
    """Of a plain tar a header in the middle; of a .tgz data that unpack nevertheless."""
    data = {f"p/{i}": bytes(600) for i in range(3)}
    tar = write(tmp_path / "a.tar", data)
    tgz = tmp_path / "a.tgz"
    tgz.write_bytes(gzip.compress(tar.read_bytes(), 0))
    for path, place in ((tar, 1536 + 10), (tgz, at)):
        damaged = bytearray(path.read_bytes())
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{path.name}: .*damaged"):
            Tar(path, "p/")


def test_a_member_of_no_sensible_size_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MEMBER", 10)
    for archive in (Zip(write(tmp_path / "a.zip", {"p/large": bytes(11)}), "p/"),
                    Tar(write(tmp_path / "a.tar", {"p/large": bytes(11)}), "p/")):
        with pytest.raises(UserError, match="large: has 11 bytes"):
            archive.extract(tmp_path / "out", {"large": "large"}, "members")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["zip", "tar", "folder"])
def test_what_masks_are_made_from_is_compared_byte_for_byte(tmp_path, how):
    """Images, of which there are gigabytes, only by size."""
    if how == "folder":
        (tmp_path / "a").mkdir()
        (tmp_path / "a/x").write_bytes(b"new")
        archive = Folder(tmp_path / "a")
    else:
        archive = (Zip if how == "zip" else Tar)(write(tmp_path / f"a.{how}", {"p/x": b"new"}), "p/")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x").write_bytes(b"old")
    archive.extract(tmp_path / "out", {"x": "x"}, "members")
    assert (tmp_path / "out/x").read_bytes() == b"old"
    archive.extract(tmp_path / "out", {"x": "x"}, "members", exact=True)
    assert (tmp_path / "out/x").read_bytes() == b"new"


def test_a_folder_that_links_to_itself_is_read_once(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x").write_bytes(b"x")
    (tmp_path / "a/b/again").symlink_to(tmp_path / "a")
    (tmp_path / "a/gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "a/pipe")
    assert Folder(tmp_path / "a").sizes == {"b/x": 1}


def test_a_pipe_under_an_archives_name_is_not_that_archive(tmp_path):
    os.mkfifo(tmp_path / PIECES[2].remote.name)
    assert locate(PIECES[2], [tmp_path], tmp_path / "out") is None


# VOC as it circulates

def test_voc_without_the_images_of_2012_is_taken(unpacked, made, tmp_path):
    """No mask is of one, and copies trimmed to the segmentation images lack them."""
    source = Path(miniature.shutil.copytree(unpacked, tmp_path / "source"))
    gone = list(source.rglob("2012_*.jpg"))
    for image in gone:
        image.unlink()
    assert gone and contents(prepared("pascal", source, tmp_path / "out")) == contents(made)


@pytest.mark.parametrize("year", ["VOC2011", "VOC2010"])
def test_an_earlier_year_is_not_taken_for_2012(unpacked, tmp_path, year):
    (tmp_path / "VOCdevkit").mkdir()
    folder = miniature.shutil.copytree(unpacked / "VOCdevkit/VOC2012", tmp_path / "VOCdevkit" / year)
    assert locate(VOC, [tmp_path], tmp_path / "out") is None
    folder.rename(tmp_path / "VOCdevkit/trimmed")
    assert locate(VOC, [tmp_path], tmp_path / "out") == tmp_path / "VOCdevkit/trimmed"


def test_names_in_the_sources_own_lists_lead_nowhere_else(spoilt, prepare, tmp_path):
    name = "../../../../evil"
    for folder, suffix, like in (("img", "jpg", miniature.SBD_ALONE), ("cls", "mat", miniature.SBD_ALONE)):
        base = spoilt / "benchmark_RELEASE/dataset" / folder
        (spoilt / f"evil.{suffix}").write_bytes((base / f"{like.name}.{suffix}").read_bytes())
    (spoilt / "benchmark_RELEASE/dataset/val.txt").write_text(f"{name}\n")
    complains(prepare(spoilt), "evil")
    assert not list(tmp_path.rglob("evil.png")) and not list(tmp_path.parent.glob("evil.png"))

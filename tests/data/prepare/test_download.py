"""data.prepare.download against a server of our own: whole, resumed, wrong, already there, out of reach."""
import hashlib
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from runs import signals_kept

from data.prepare import __main__ as prepare
from data.prepare import download as module
from data.prepare.download import Remote, by_hand, download
from model.clip.source import MODELS
from util.runtime.errors import UserError, run_main
from util.runtime.progress import _Lines

CONTENT = bytes(range(256)) * 4000
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Server(socketserver.ThreadingTCPServer):
    """Serves CONTENT. ranges: whether it honours Range; cut: bytes after which it hangs up; seen: Range headers.

    signal: sent to ourselves instead of hanging up, once ``part`` is there and more bytes are awaited.
    """
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges, self.cut, self.status, self.seen = True, None, None, []
        self.signal = self.part = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}/ViT-B-16.pt"
        self.remote = Remote(self.url, hash=f"sha256:{SHA256}")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.seen.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        body = CONTENT[start:]
        self.send_response(server.status or (416 if start and not body else 206 if start else 200))
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body if server.cut is None else body[:server.cut])
        if server.signal:
            while not server.part.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), server.signal)
            with suppress(OSError):
                self.rfile.read(1)  # until the other side has hung up

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "weights" / "clip.pt"


def part_of(path: Path) -> Path:
    return path.with_name("clip.pt.part")


def leave_part(path: Path, data: bytes) -> None:
    path.parent.mkdir()
    part_of(path).write_bytes(data)


@pytest.fixture
def fetch_clip(monkeypatch):
    """fetch_clip(path, remote) is `python -m data.prepare clip --out path` with another address; returns its status."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def fetch(path: Path, remote: Remote) -> int:
        monkeypatch.setitem(prepare.CLIPS, "ViT-B/16", remote)
        monkeypatch.setattr("sys.argv", ["prepare", "clip", "--out", str(path)])
        with pytest.raises(SystemExit) as left:
            run_main(prepare.main)
        return left.value.code or 0

    yield fetch
    for number, handler in before.items():
        signal.signal(number, handler)


def assert_one_error(captured) -> str:
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_fresh_download_leaves_only_the_file(server, path, capsys):
    download(path, server.remote)
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["clip.pt"]
    assert server.seen == [None]
    assert "SHA256 is right" in capsys.readouterr().out


@pytest.mark.parametrize("left, ranges, asked", [
    (CONTENT[:HALF], True, [f"bytes={HALF}-"]), (CONTENT, True, [f"bytes={len(CONTENT)}-"]),
    (b"x" * HALF, False, [f"bytes={HALF}-"])], ids=["half", "all had come", "no ranges"])
def test_a_part_is_gone_on_with_where_the_server_knows_ranges(server, path, left, ranges, asked):
    leave_part(path, left)
    server.ranges = ranges
    download(path, server.remote)
    assert path.read_bytes() == CONTENT and not part_of(path).exists() and server.seen[:1] == asked


def test_broken_transfer_keeps_part_and_second_call_ends_it(server, path, fetch_clip, capsys):
    server.cut = HALF
    assert fetch_clip(path, server.remote) == 2
    line = assert_one_error(capsys.readouterr())
    assert f"{HALF} of {len(CONTENT)} bytes" in line and "same command resumes" in line
    assert not path.exists() and part_of(path).read_bytes() == CONTENT[:HALF]

    server.cut = None
    assert fetch_clip(path, server.remote) == 0
    assert server.seen == [None, f"bytes={HALF}-"] and path.read_bytes() == CONTENT


def test_wrong_hash_deletes_part(server, path, fetch_clip, capsys):
    assert fetch_clip(path, Remote(server.url, hash="sha256:" + "0" * 64)) == 2
    line = assert_one_error(capsys.readouterr())
    assert SHA256 in line and "0" * 64 in line
    assert os.listdir(path.parent) == []


def test_part_of_something_else_is_deleted(server, path):
    leave_part(path, b"x" * HALF)
    with pytest.raises(UserError, match="SHA256"):
        download(path, server.remote)
    assert os.listdir(path.parent) == []


def test_file_already_there_is_left_alone(server, path, capsys):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    before = path.stat()
    download(path, server.remote)
    assert server.seen == [] and "already there" in capsys.readouterr().out
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_wrong_file_stays_until_the_right_one_is_whole(server, path):
    path.parent.mkdir()
    path.write_bytes(b"cut short")
    server.cut = HALF
    with pytest.raises(UserError):
        download(path, server.remote)
    assert path.read_bytes() == b"cut short"
    server.cut = None
    download(path, server.remote)
    assert path.read_bytes() == CONTENT


def test_connection_refused_keeps_part_and_says_how_to_go_on(path, fetch_clip, monkeypatch, capsys):
    with socket.socket() as free:  # bound but not listening: whoever connects is refused
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/ViT-B-16.pt"
        monkeypatch.setenv("no_proxy", "*")
        leave_part(path, CONTENT[:HALF])
        assert fetch_clip(path, Remote(url, hash=f"sha256:{SHA256}")) == 2
    line = assert_one_error(capsys.readouterr())
    assert "refused" in line and "same command resumes" in line and f"curl -L -C - -o {path} {url}" in line
    assert part_of(path).read_bytes() == CONTENT[:HALF]


def test_http_error_keeps_part(server, path, fetch_clip, capsys):
    leave_part(path, CONTENT[:HALF])
    server.status = 404
    assert fetch_clip(path, server.remote) == 2
    assert "404" in assert_one_error(capsys.readouterr())
    assert part_of(path).read_bytes() == CONTENT[:HALF]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full to stand for a full disk")
def test_full_disk(server, path, fetch_clip, capsys):
    path.parent.mkdir()
    part_of(path).symlink_to("/dev/full")
    assert fetch_clip(path, server.remote) == 2
    line = assert_one_error(capsys.readouterr())
    assert "No space left" in line and by_hand(path, server.remote) in line
    assert part_of(path).is_symlink() and not path.exists()


def test_folder_as_path(server, tmp_path, fetch_clip, capsys):
    assert fetch_clip(tmp_path, server.remote) == 2
    assert "is a folder" in assert_one_error(capsys.readouterr())
    assert server.seen == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_middle_is_one_word_and_the_second_call_ends_it(server, path, fetch_clip, number, capsys):
    server.cut, server.signal, server.part = HALF, number, part_of(path)
    assert fetch_clip(path, server.remote) == 128 + number
    assert capsys.readouterr().err == "stopped\n" and not path.exists() and part_of(path).exists()
    server.cut = server.signal = None
    assert fetch_clip(path, server.remote) == 0
    assert path.read_bytes() == CONTENT and not part_of(path).exists()


@pytest.mark.parametrize("right, said", [
    (dict(hash=f"md5:{MD5}"), "MD5 is right"), (dict(size=len(CONTENT)), "size is right"),
    (dict(size=len(CONTENT), hash=f"md5:{MD5}"), "MD5 is right"), ({}, "no size or hash")])
def test_what_was_checked_is_said(server, path, right, said, capsys):
    for state in ("bytes", "already there"):
        download(path, Remote(server.url, **right))
        out = capsys.readouterr().out
        assert said in out and state in out
    assert path.read_bytes() == CONTENT and len(server.seen) == 1, "fetched once"


@pytest.mark.parametrize("wrong, named", [(dict(hash="md5:" + "0" * 32), (f"MD5 {MD5}", "0" * 32)),
                                          (dict(size=HALF), (f"{len(CONTENT)} bytes", f"not {HALF}"))])
def test_another_md5_or_size_is_refused(server, path, wrong, named):
    with pytest.raises(UserError) as caught:
        download(path, Remote(server.url, **wrong))
    assert all(text in str(caught.value) for text in (server.url, *named))
    assert os.listdir(path.parent) == []


def test_a_file_of_another_size_is_fetched_again(server, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT[:HALF])
    download(path, Remote(server.url, size=len(CONTENT)))
    assert path.read_bytes() == CONTENT


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_line_for_curl_works_as_typed_and_resumes(server, tmp_path):
    path = tmp_path / "a folder" / "clip.pt"
    path.parent.mkdir()
    path.write_bytes(CONTENT[:HALF])
    subprocess.run(by_hand(path, server.remote), shell=True, check=True, capture_output=True)
    assert path.read_bytes() == CONTENT and server.seen == [f"bytes={HALF}-"]


@pytest.mark.parametrize("name, file, start", [  # the first digits, as OpenAI's clip.py has them
    ("ViT-B/16", "ViT-B-16.pt", "5806e77c"), ("ViT-B/32", "ViT-B-32.pt", "40d36571"),
    ("ViT-L/14", "ViT-L-14.pt", "b8cca3fd"), ("ViT-L/14@336px", "ViT-L-14-336px.pt", "3035c92b")])
def test_clips_are_openais_files(name, file, start, monkeypatch):
    fetched = []
    monkeypatch.setattr(prepare, "download", lambda path, remote: fetched.append((path, remote)))
    monkeypatch.setattr("sys.argv", ["prepare", "clip", "--model", name])
    with signals_kept():
        prepare.main()
    remote = Remote(MODELS[name], hash=f"sha256:{MODELS[name].split('/')[-2]}")
    assert fetched == [(Path("weights") / file, remote)] and remote.hash.startswith(f"sha256:{start}")
    assert len(remote.hash) == 7 + 64 and remote.name == file and prepare.CLIPS.keys() == MODELS.keys()


def test_a_model_is_only_of_clip(monkeypatch):
    monkeypatch.setattr("sys.argv", ["prepare", "coco", "--model", "ViT-L/14"])
    with signals_kept(), pytest.raises(UserError, match="--model ViT-L/14 is for clip"):
        prepare.main()


def test_progress_is_plain_lines_in_a_log(server, path, monkeypatch, capsys):
    monkeypatch.setattr(module, "CHUNK", len(CONTENT) // 4)
    monkeypatch.setattr(module, "progress", lambda *arguments: _Lines(*arguments, every=0.0))
    download(path, server.remote)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == [f"clip.pt, MiB: {n}/4" for n in (1, 2, 3, 4)]


def test_progress_is_a_bar_on_a_terminal(server, path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    download(path, server.remote)
    assert "%|" in capsys.readouterr().err

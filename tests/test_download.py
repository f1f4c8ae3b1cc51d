"""model.download against a server of our own on the loopback: whole, resumed, wrong, already there, out of reach."""
import functools
import hashlib
import os
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from model import download as module
from model.clip_weights import WeightsError
from model.download import download, main

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Server(socketserver.ThreadingTCPServer):
    """Serves CONTENT. ranges: whether it honours Range; cut: bytes after which it hangs up; seen: Range headers."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges, self.cut, self.status, self.seen = True, None, None, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/ViT-B-16.pt"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.seen.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        body = CONTENT[start:]
        self.send_response(server.status or (416 if start and not body else 206 if start else 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if server.cut is None else body[:server.cut])

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


def run_main(monkeypatch, path: Path, url: str, sha256: str = SHA256) -> int:
    monkeypatch.setattr(module, "download", functools.partial(download, url=url, sha256=sha256))
    return main([str(path)])


def assert_one_error(captured) -> str:
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_fresh_download_leaves_only_the_file(server, path, capsys):
    download(path, server.url, SHA256)
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["clip.pt"]
    assert server.seen == [None]
    assert "SHA-256 is right" in capsys.readouterr().out


def test_resumes_from_part(server, path):
    leave_part(path, CONTENT[:HALF])
    download(path, server.url, SHA256)
    assert server.seen == [f"bytes={HALF}-"]
    assert path.read_bytes() == CONTENT and not part_of(path).exists()


def test_starts_over_where_the_server_knows_no_ranges(server, path):
    leave_part(path, b"x" * HALF)
    server.ranges = False
    download(path, server.url, SHA256)
    assert path.read_bytes() == CONTENT


def test_part_that_had_all_come_is_taken(server, path):
    leave_part(path, CONTENT)
    download(path, server.url, SHA256)
    assert path.read_bytes() == CONTENT and not part_of(path).exists()


def test_broken_transfer_keeps_part_and_second_call_ends_it(server, path, monkeypatch, capsys):
    server.cut = HALF
    assert run_main(monkeypatch, path, server.url) == 2
    line = assert_one_error(capsys.readouterr())
    assert f"{HALF} of {len(CONTENT)} bytes" in line and "same command resumes" in line
    assert not path.exists() and part_of(path).read_bytes() == CONTENT[:HALF]

    server.cut = None
    assert run_main(monkeypatch, path, server.url) == 0
    assert server.seen == [None, f"bytes={HALF}-"] and path.read_bytes() == CONTENT


def test_wrong_hash_deletes_part(server, path, monkeypatch, capsys):
    assert run_main(monkeypatch, path, server.url, sha256="0" * 64) == 2
    line = assert_one_error(capsys.readouterr())
    assert SHA256 in line and "0" * 64 in line
    assert os.listdir(path.parent) == []


def test_part_of_something_else_is_deleted(server, path):
    leave_part(path, b"x" * HALF)
    with pytest.raises(WeightsError, match="SHA-256"):
        download(path, server.url, SHA256)
    assert os.listdir(path.parent) == []


def test_file_already_there_is_left_alone(server, path, capsys):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    before = path.stat()
    download(path, server.url, SHA256)
    assert server.seen == [] and "already there" in capsys.readouterr().out
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_wrong_file_stays_until_the_right_one_is_whole(server, path):
    path.parent.mkdir()
    path.write_bytes(b"cut short")
    server.cut = HALF
    with pytest.raises(WeightsError):
        download(path, server.url, SHA256)
    assert path.read_bytes() == b"cut short"
    server.cut = None
    download(path, server.url, SHA256)
    assert path.read_bytes() == CONTENT


def test_connection_refused_keeps_part_and_says_how_to_go_on(path, monkeypatch, capsys):
    with socket.socket() as free:  # bound but not listening: whoever connects is refused
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/ViT-B-16.pt"
        monkeypatch.setenv("no_proxy", "*")
        leave_part(path, CONTENT[:HALF])
        assert run_main(monkeypatch, path, url) == 2
    line = assert_one_error(capsys.readouterr())
    assert "refused" in line and "same command resumes" in line and f"curl -L -o {path} {url}" in line
    assert part_of(path).read_bytes() == CONTENT[:HALF]


def test_http_error_keeps_part(server, path, monkeypatch, capsys):
    leave_part(path, CONTENT[:HALF])
    server.status = 404
    assert run_main(monkeypatch, path, server.url) == 2
    assert "404" in assert_one_error(capsys.readouterr())
    assert part_of(path).read_bytes() == CONTENT[:HALF]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full to stand for a full disk")
def test_full_disk(server, path, monkeypatch, capsys):
    path.parent.mkdir()
    part_of(path).symlink_to("/dev/full")
    assert run_main(monkeypatch, path, server.url) == 2
    line = assert_one_error(capsys.readouterr())
    assert "No space left" in line and f"curl -L -o {path} {server.url}" in line
    assert part_of(path).is_symlink() and not path.exists()


def test_folder_as_path(server, tmp_path, monkeypatch, capsys):
    assert run_main(monkeypatch, tmp_path, server.url) == 2
    assert "is a folder" in assert_one_error(capsys.readouterr())
    assert server.seen == []


def test_interrupt_is_one_line(path, monkeypatch, capsys):
    def interrupted(_path):
        raise KeyboardInterrupt
    monkeypatch.setattr(module, "download", interrupted)
    assert main([str(path)]) == 130
    assert "same command" in capsys.readouterr().err


def test_progress_is_plain_lines_in_a_log(server, path, monkeypatch, capsys):
    monkeypatch.setattr(module, "EVERY", 0.0)
    download(path, server.url, SHA256)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "clip.pt: 1.0 of 1.0 MB" and not any("\r" in line for line in lines)


def test_progress_is_a_bar_on_a_terminal(server, path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    download(path, server.url, SHA256)
    assert "%|" in capsys.readouterr().err

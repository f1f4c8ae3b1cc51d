"""Fetch one file and check it. A broken transfer is kept beside it as .part, and the next call goes on with it."""
import hashlib
import http.client
import os
import shlex
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from util.runtime.errors import UserError, reason_of
from util.runtime.progress import progress

CHUNK = 1 << 20  # bytes; progress counts them as MiB
TIMEOUT = 30     # s without a single byte


@dataclass(frozen=True)
class Remote:
    """A file with an official address.

    size: in bytes, or 0 where none is known; hash: "sha256:..." or "md5:...", or "" where none is published.
    """
    url: str
    size: int = 0
    hash: str = ""

    @property
    def name(self) -> str:
        return self.url.split("/")[-1]

    def problem(self, path: Path) -> str:
        """Why the file at ``path`` is not this one, in words; "" if it may be."""
        size = path.stat().st_size
        if self.size and size != self.size:
            return f"has {size} bytes, not {self.size}"
        if self.hash:
            algorithm, wanted = self.hash.split(":")
            digest = hashlib.new(algorithm, usedforsecurity=False)
            with open(path, "rb") as file:
                for chunk in iter(lambda: file.read(CHUNK), b""):
                    digest.update(chunk)
            found = digest.hexdigest()
            if found != wanted:
                return f"has {algorithm.upper()} {found}, not {wanted}"
        return ""


def download(path: str | Path, remote: Remote) -> None:
    """Fetch ``remote`` to ``path``, which is then whole and right, or as it was before.

    Raises UserError after a broken transfer and on a full disk, which keep PATH.part, and for a wrong file, which is
    deleted.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; give the path of a file, e.g. {path / remote.name}")
        if path.is_file():
            problem = remote.problem(path)
            if not problem:
                print(f"{path} is already there, and {_said(remote)}")
                return
            print(f"{path} is there, but {problem}; fetching it again")
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(remote.url, part)
        problem = remote.problem(part)
        if problem:
            part.unlink()
            raise UserError(f"{remote.url}: what came {problem}, and was deleted; try again")
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        said = error.reason if type(error) is urllib.error.URLError else error  # without its "<urlopen error ...>"
        raise UserError(f"{path}: not fetched ({reason_of(said)}); the same command resumes where this one stopped, or "
                        f"by hand: {by_hand(path, remote)}") from None
    print(f"{path}: {path.stat().st_size} bytes, {_said(remote)}")


def by_hand(path: str | Path, remote: Remote) -> str:
    """The shell's line that fetches ``remote``, and resumes."""
    return f"curl -L -C - -o {shlex.quote(str(path))} {remote.url}"


def _said(remote: Remote) -> str:
    """What was checked, in words."""
    if remote.hash:
        return f"its {remote.hash.split(':')[0].upper()} is right"
    return "its size is right" if remote.size else "no size or hash of it is published"


def _fetch(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks, or write it anew if the server does not go on from the middle."""
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if done and error.code == 416:  # nothing is left to fetch; the file is checked next
            return
        raise
    with response:
        done = done if response.status == 206 else 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else None
        chunks = progress(iter(lambda: response.read(CHUNK), b""), f"{part.stem}, MiB", total and -(-total // CHUNK),
                          done // CHUNK)
        with open(part, "ab" if done else "wb") as file:
            for chunk in chunks:
                file.write(chunk)
                done += len(chunk)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise ConnectionError(f"the connection broke off after {done} of {total} bytes")

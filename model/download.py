"""Fetch OpenAI's CLIP ViT-B/16 and check it: python -m model.download [PATH]

A transfer that breaks off is kept in PATH.part, and the same command goes on from there.
"""
import argparse
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from model.clip_weights import SHA256, URL, WeightsError

CHUNK = 1 << 18
TIMEOUT = 30  # s without a single byte
EVERY = 15.0  # s between lines of progress where stderr is no terminal


def download(path: str | Path, url: str = URL, sha256: str = SHA256) -> None:
    """Bring the file of hash ``sha256`` to ``path``, which afterwards is whole and right, or as it was before.

    Raises WeightsError: after a broken transfer or on a full disk, keeping PATH.part; for another hash, deleting it.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        if path.is_dir():
            raise WeightsError(f"{path} is a folder; give the path of a file, e.g. {path / url.split('/')[-1]}")
        if path.is_file():
            if _sha256(path) == sha256:
                print(f"{path} is already there, and its SHA-256 is right")
                return
            print(f"{path} is there, but its SHA-256 is not the published one; fetching it again")
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part)
        found = _sha256(part)
        if found != sha256:
            part.unlink()
            raise WeightsError(f"{url}: what came has SHA-256 {found}, not {sha256}, and was deleted; try again")
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if type(error) is urllib.error.URLError else error  # without its "<urlopen error ...>"
        reason = " ".join(str(reason).split()) or type(error).__name__
        raise WeightsError(f"{path}: not fetched ({reason}); the same command resumes where this one stopped, or by "
                           f"hand: curl -L -o {path} {url}") from None
    print(f"{path}: {path.stat().st_size} bytes, SHA-256 is right")


def _fetch(url: str, part: Path) -> None:
    """Append to ``part`` what it still lacks, or write it anew where the server does not go on from the middle."""
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if done and error.code == 416:  # nothing lies beyond: all of it had come, and its hash will be judged
            return
        raise
    with response:
        done = done if response.status == 206 else 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else None
        with open(part, "ab" if done else "wb") as file:
            for chunk in _shown(iter(lambda: response.read(CHUNK), b""), part.stem, done, total):
                file.write(chunk)
                done += len(chunk)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise ConnectionError(f"the connection broke off after {done} of {total} bytes")


def _shown(chunks, label: str, done: int, total: int | None):
    """``chunks``, with their progress on stderr: a bar on a terminal, else a line now and then."""
    plain, last = not sys.stderr.isatty(), time.monotonic()
    with tqdm(desc=label, total=total, initial=done, unit="B", unit_scale=True, leave=False, disable=plain) as bar:
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            bar.update(len(chunk))
            if plain and time.monotonic() - last >= EVERY:
                last = time.monotonic()
                print(f"{label}: {done / 1e6:.1f} of {f'{total / 1e6:.1f}' if total else '?'} MB", file=sys.stderr)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.download", description="Fetch and check CLIP ViT-B/16.")
    parser.add_argument("path", nargs="?", default="weights/ViT-B-16.pt", help="default: %(default)s")
    try:
        download(parser.parse_args(arguments).path)
    except (WeightsError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        print("stopped; the same command goes on from here" if stopped else f"error: {error}", file=sys.stderr)
        return 130 if stopped else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

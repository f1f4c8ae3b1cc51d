"""Official archives: their addresses, sizes and hashes, and extraction of their files, packed or unpacked."""
import hashlib
import os
import socket
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.files import write_changed
from util.runtime.errors import UserError
from util.runtime.progress import progress

DEPTH = 4       # folders below --source in which an archive or its contents are looked for
Members = dict[str, tuple[int, Callable[[Path], None]]]     # {name: (bytes, function that puts it at a path)}


@dataclass(frozen=True)
class Archive:
    """Archive with an official address, and what is published of it."""
    url: str
    size: int = 0                   # bytes, 0 if unknown
    hash: str = ""                  # "sha256:..." or "md5:...", "" if unknown
    prefix: str = ""                # the folder inside the archive that the members' names are counted from
    files: tuple[str, ...] = ()     # globs below it; a folder where each matches something is the unpacked archive

    @property
    def name(self) -> str:
        return self.url.split("/")[-1]

    def problem(self, path: Path) -> str:
        """Explain why the file at ``path`` is not this archive; "" if it may be."""
        if self.size and path.stat().st_size != self.size:
            return f"has {path.stat().st_size} bytes, not {self.size}"
        if not self.hash:
            return ""
        algorithm, wanted = self.hash.split(":")
        digest = hashlib.new(algorithm)
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return "" if digest.hexdigest() == wanted else f"has {algorithm.upper()} {digest.hexdigest()}, not {wanted}"

    def download(self, path: Path) -> None:
        """Fetch it to ``path``, which is then whole and right, or as it was before. Raises UserError."""
        from torch.hub import download_url_to_file  # importing torch takes seconds, which only a download needs
        problem = self.problem(path) if path.is_file() else "is not there"
        print(f"{path}: {problem or 'is there'}")
        if not problem:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        socket.setdefaulttimeout(30)  # s without a single byte
        try:
            download_url_to_file(self.url, str(part), progress=sys.stderr.isatty())
            problem = self.problem(part)
        except OSError as error:
            problem = str(error)
        if problem:
            part.unlink(missing_ok=True)
            raise UserError(f"{path}: not fetched, {problem}; try again, or by hand from {self.url}")
        os.replace(part, path)

    def find(self, sources: list[Path], out: Path) -> Path | None:
        """Locate it below the sources: unpacked, else packed, else None. Skips ``out``, which may be half-made."""
        folders = [folder for source in sources for folder in _below(source, out)]
        unpacked = (folder for folder in folders if all(next(folder.glob(one), None) for one in self.files))
        packed = (folder / self.name for folder in folders if (folder / self.name).is_file())
        return next(unpacked, None) or next(packed, None)

    def members(self, path: Path) -> Members:
        """List the files of the archive at ``path``, packed or not. Raises UserError if one leads outside."""
        if path.is_dir():
            files = (file for pattern in self.files for file in sorted(path.glob(pattern)))
            return {file.relative_to(path).as_posix(): (file.stat().st_size, partial(_link, file)) for file in files}
        if path.suffix == ".zip":
            file = zipfile.ZipFile(path)
            found = {info.filename: (info.file_size, partial(_write, file.open, info)) for info in file.infolist()
                     if not info.is_dir()}
        else:
            file = tarfile.open(path)
            found = {info.name: (info.size, partial(_write, file.extractfile, info)) for info in file if info.isfile()}
        found = {name.removeprefix(self.prefix): found[name] for name in found if name.startswith(self.prefix)}
        outside = [name for name in found if name.startswith("/") or ".." in name.split("/")]
        if outside or not found:
            raise UserError(f"{path}: not the official archive: {outside or f'nothing is below {self.prefix}'}")
        return found


def extract(members: Members, wanted: dict[str, Path], label: str, exact: bool = False) -> None:
    """Put each member of ``wanted`` {name: path} in its place. Raises UserError if one is missing.

    A file of the full size stays; with ``exact`` (for what masks follow from) only one of the same bytes.
    """
    lacking = [name for name in wanted if name not in members]
    if lacking:
        raise UserError(f"{len(lacking)} of {len(wanted)} {label} are not in the source, such as {lacking[0]}")
    missing = [(put, wanted[name]) for name, (size, put) in members.items()     # in a tar's own order
               if name in wanted and (exact or not wanted[name].is_file() or wanted[name].stat().st_size != size)]
    for put, path in progress(missing, label):
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path)


def _write(open_member: Callable, info, path: Path) -> None:
    write_changed(path, open_member(info).read())


def _link(file: Path, path: Path) -> None:
    """Link ``path`` to the file: a hard link, or a symbolic one across file systems."""
    if path.exists() and path.samefile(file):
        return
    path.unlink(missing_ok=True)
    try:
        os.link(file.resolve(), path)
    except OSError:
        path.symlink_to(file.resolve())


def _below(source: Path, out: Path) -> Iterator[Path]:
    """Yield ``source`` and the folders below it, but not ``out``; later names first: VOC2012 before VOC2011."""
    yield source
    inside = source.resolve().is_relative_to(out.resolve())
    for depth in range(1, DEPTH + 1):
        for folder in sorted(source.glob("/".join("*" * depth)), reverse=True):
            if folder.is_dir() and (inside or not folder.resolve().is_relative_to(out.resolve())):
                yield folder

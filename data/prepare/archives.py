"""The official archives, packed or already unpacked, behind one interface: names of members, and where they shall lie."""
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.prepare.download import Remote, by_hand
from data.prepare.workers import REMEDY, clear_leftovers
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import UserError
from util.runtime.progress import progress
from util.runtime.workers import map_in_processes

DEPTH = 4  # folders below --source in which an archive or its contents are looked for


@dataclass(frozen=True)
class Piece:
    """An archive of a data set, and how its contents are told when they are already unpacked.

    prefix: the folder inside the archive that the members' names are counted from.
    marks: glob patterns below that folder that all match something where it has been unpacked.
    """
    remote: Remote
    prefix: str
    marks: tuple[str, ...]


class Archive:
    """Members of one piece by their names below its prefix. ``sizes``: {name: bytes}. Raises UserError if cut short."""
    sizes: dict[str, int]

    def extract(self, wanted: dict[str, Path], label: str) -> None:
        """Put each member of ``wanted`` (name -> target) in its place; what is there in its full size stays."""
        clear_leftovers(wanted.values())
        missing = {name: target for name, target in wanted.items()
                   if not target.is_file() or target.stat().st_size != self.sizes[name]}
        for folder in {target.parent for target in missing.values()}:
            _guarded(lambda: folder.mkdir(parents=True, exist_ok=True), folder)
        if missing:
            self._extract(missing, label)

    def _extract(self, wanted: dict[str, Path], label: str) -> None:
        raise NotImplementedError


class Folder(Archive):
    """An unpacked archive: members are linked, not copied."""

    def __init__(self, path: Path):
        self.path = path
        self.sizes = {str(Path(entry.path).relative_to(path)): entry.stat().st_size for entry in _files(path)}

    def _extract(self, wanted, label):
        for name, target in progress(wanted.items(), label, len(wanted)):
            _guarded(partial(link, self.path / name, target), target)


class Tar(Archive):
    """A tar, plain or gzipped. It can be read in one direction only, so one process does."""

    def __init__(self, path: Path, prefix: str):
        self.path, self.prefix = path, prefix
        with _whole(path), tarfile.open(path) as tar:
            self.sizes = {name: m.size for name, m in self._members(progress(tar, f"listing {path.name}"))}

    def _extract(self, wanted, label):
        with _whole(self.path), tarfile.open(self.path) as tar:
            chosen = ((name, member) for name, member in self._members(tar) if name in wanted)
            for name, member in progress(chosen, label, len(wanted)):
                write_bytes_atomically(wanted[name], tar.extractfile(member).read(), REMEDY, durable=False)

    def _members(self, tar: Iterable[tarfile.TarInfo]) -> Iterator[tuple[str, tarfile.TarInfo]]:
        """The files below the prefix, and their names there."""
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isfile() and name.startswith(self.prefix):
                yield name.removeprefix(self.prefix), member


class Zip(Archive):
    """A zip, read by all cores."""

    def __init__(self, path: Path, prefix: str):
        self.path, self.prefix = path, prefix
        with _whole(path), zipfile.ZipFile(path) as file:
            self.sizes = {info.filename.removeprefix(prefix): info.file_size for info in file.infolist()
                          if info.filename.startswith(prefix) and not info.is_dir()}

    def _extract(self, wanted, label):
        pairs = list(wanted.items())
        chunks = [pairs[i:i + 1000] for i in range(0, len(pairs), 1000)]
        for _ in map_in_processes(partial(_unzip, self.path, self.prefix), chunks, f"{label}, thousands", chunksize=1):
            pass


def _unzip(path: Path, prefix: str, pairs: list[tuple[str, Path]]) -> None:
    with _whole(path), zipfile.ZipFile(path) as file:
        for name, target in pairs:
            write_bytes_atomically(target, file.read(prefix + name), REMEDY, durable=False)


def locate(piece: Piece, sources: list[Path], out: Path) -> Path | None:
    """Where ``piece`` lies below the sources: its unpacked folder, else the archive itself, else None.

    out: what is being made there is no source, being perhaps half-made, unless it is named as one itself.
    """
    archive = None
    for source in sources:
        for folder, _, files in _walk(source, out):
            if all(next(folder.glob(mark), None) for mark in piece.marks):
                return folder
            if archive is None and piece.remote.name in files:
                archive = folder / piece.remote.name
    return archive


def open_piece(piece: Piece, path: Path, official: bool) -> Archive:
    """Open what :func:`locate` found.

    official: refuse an archive that has not the published size or hash. Raises UserError for that, for a broken
    archive and for one without the expected members.
    """
    if path.is_dir():
        return Folder(path)
    problem = piece.remote.problem(path) if official else ""
    if problem:
        raise UserError(f"{path}: {problem}; it is cut short or not the official archive; fetch it again: "
                        f"{by_hand(path, piece.remote)}   (or give --any-archive to take it as it is)")
    archive = (Zip if path.suffix == ".zip" else Tar)(path, piece.prefix)
    if not archive.sizes:
        raise UserError(f"{path}: holds nothing below {piece.prefix}; this is not the official archive")
    return archive


def link(source: Path, target: Path) -> None:
    """The same file under another name: a hard link, or a symbolic one across file systems, or else a copy."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    temporary.unlink(missing_ok=True)
    source = source.resolve()
    for way in (os.link, os.symlink, shutil.copyfile):
        try:
            way(source, temporary)
            break
        except OSError:
            if way is shutil.copyfile:
                temporary.unlink(missing_ok=True)
                raise
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # renaming one hard link over another of the same file leaves both


def _walk(source: Path, out: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Like os.walk, DEPTH folders deep, in the order of the names, around ``out``."""
    top, out = len(source.parts), out.resolve()
    for folder, folders, files in os.walk(source, followlinks=True):
        folders[:] = sorted(name for name in folders if (Path(folder) / name).resolve() != out)
        if len(Path(folder).parts) - top >= DEPTH:
            folders.clear()
        yield Path(folder), folders, files


def _files(folder: Path) -> Iterator[os.DirEntry]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(Path(entry.path))
            elif entry.is_file():
                yield entry


class _whole:
    """Turns what the archive readers raise for a broken file into one line."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if isinstance(error, Exception) and not isinstance(error, UserError):  # tarfile and zipfile raise many kinds
            reason = " ".join(str(error).split()) or kind.__name__
            raise UserError(f"{self.path}: the archive is cut short or damaged ({reason}); fetch it again") from None


def _guarded(do: Callable[[], None], target: Path) -> None:
    try:
        do()
    except OSError as error:
        raise UserError(f"{target}: could not be written ({error.strerror}); {REMEDY}") from None

"""The official archives, packed or already unpacked, behind one interface: names of members, and where they go."""
import filecmp
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.files import write_changed
from data.prepare.download import CHUNK, Remote, by_hand
from util.run.atomic import remove_leftovers
from util.runtime.errors import UserError, reason_of
from util.runtime.progress import progress
from util.runtime.workers import map_in_processes

DEPTH = 4  # folders below --source in which an archive or its contents are looked for
REMEDY = "free some space, then start the same command again: what is whole is kept"
MEMBER = 1 << 30  # bytes of the largest member that is unpacked; COCO's annotations have 332 MB


def inside(root: Path, name: str) -> Path:
    """Where the file that an archive, a list or an annotation calls ``name`` goes below ``root``. Only this decides it.

    Raises UserError for a name that may lead elsewhere (absolute, with a drive letter, a backslash or "..") and for one
    that is empty, unprintable or too long.
    """
    parts = name.split("/") if isinstance(name, str) else []
    if (not parts or not name.isprintable() or "\\" in name or re.match(r"[A-Za-z]:", name) or len(name) > 1000
            or any(part in ("", ".", "..") or len(part.encode(errors="replace")) > 255 for part in parts)):
        raise UserError(f"{name!a:.120}: not a name below {root}, so it is not written; the source is not the official "
                        f"one")
    return Path(root).joinpath(*parts)


def clear_leftovers(targets: Iterable[Path]) -> None:
    """Remove what a process that was killed left half-written beside ``targets``."""
    for folder in {target.parent for target in targets}:
        remove_leftovers(folder)


@dataclass(frozen=True)
class Piece:
    """An archive of a data set, and how its contents are recognised when they are already unpacked.

    prefix: the folder inside the archive that the members' names are counted from.
    marks: glob patterns below that folder that all match something where it has been unpacked.
    other: a regular expression for the names of folders that look alike but are not it.
    """
    remote: Remote
    prefix: str
    marks: tuple[str, ...]
    other: str = r"(?!)"


class Archive:
    """Members of one piece by their names below its prefix. ``sizes``: {name: bytes}. Raises UserError if cut short."""
    sizes: dict[str, int]

    def extract(self, root: Path, wanted: dict[str, str], label: str, exact: bool = False) -> None:
        """Put each member of ``wanted`` (name -> path below ``root``) in its place.

        What is there in its full size stays. exact: only what has the same bytes stays; for what masks are made from.
        Raises UserError for a path outside ``root``.
        """
        targets = {name: inside(root, path) for name, path in wanted.items()}
        clear_leftovers(targets.values())
        missing = {name: target for name, target in targets.items()
                   if exact or not target.is_file() or target.stat().st_size != self.sizes[name]}
        for name in missing:
            if self.sizes[name] > MEMBER:
                raise UserError(f"{name}: has {self.sizes[name]:,} bytes, more than any file of the official archive")
        for folder in {target.parent for target in missing.values()}:
            with _writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
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
            if not (target.is_file() and filecmp.cmp(self.path / name, target, shallow=False)):
                with _writing(target):
                    link(self.path / name, target)


class Tar(Archive):
    """A tar, plain or gzipped. It can be read in one direction only, so one process does."""

    def __init__(self, path: Path, prefix: str):
        self.path, self.prefix = path, prefix
        with _whole(path), tarfile.open(path) as tar:
            self.sizes = {name: m.size for name, m in self._members(progress(tar, f"listing {path.name}"))}
            # tarfile takes a damaged header for the end, and leaves the end of a .tgz unread, where its checksum is.
            if any(rest.strip(b"\0") for rest in iter(partial(tar.fileobj.read, CHUNK), b"")):
                raise tarfile.ReadError("a header in it is damaged")

    def _extract(self, wanted, label):
        with _whole(self.path), tarfile.open(self.path) as tar:
            chosen = ((name, member) for name, member in self._members(tar) if name in wanted)
            for name, member in progress(chosen, label, len(wanted)):
                write_changed(wanted[name], tar.extractfile(member).read(), REMEDY, durable=False)

    def _members(self, tar: Iterable[tarfile.TarInfo]) -> Iterator[tuple[str, tarfile.TarInfo]]:
        """The files below the prefix, and their names there. The official archives hold no links and no devices."""
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isfile() and name.startswith(self.prefix):
                yield name.removeprefix(self.prefix), member


class Zip(Archive):
    """A zip, read by all cores."""

    def __init__(self, path: Path, prefix: str):
        self.path, self.prefix = path, prefix
        with _whole(path), zipfile.ZipFile(path) as file:
            last = {info.filename: info for info in file.infolist()}  # of a name that occurs twice, as it is read
            self.sizes = {info.filename.removeprefix(prefix): info.file_size for info in last.values()
                          if info.filename.startswith(prefix) and not info.is_dir()
                          and stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)}

    def _extract(self, wanted, label):
        pairs = list(wanted.items())
        chunks = [pairs[i:i + 1000] for i in range(0, len(pairs), 1000)]
        for _ in map_in_processes(partial(_unzip, self.path, self.prefix), chunks, f"{label}, thousands", chunksize=1):
            pass


def _unzip(path: Path, prefix: str, pairs: list[tuple[str, Path]]) -> None:
    with _whole(path), zipfile.ZipFile(path) as file:
        for name, target in pairs:
            write_changed(target, file.read(prefix + name), REMEDY, durable=False)


def locate(piece: Piece, sources: list[Path], out: Path) -> Path | None:
    """Where ``piece`` lies below the sources: its unpacked folder, else the archive itself, else None.

    out: where the set is made. What lies there may be half-made, so it is no source unless it is itself named as one.
    """
    archive = None
    for source in sources:
        for folder, _, files in _walk(source, out):
            if (all(next(folder.glob(mark), None) for mark in piece.marks)
                    and not re.fullmatch(piece.other, folder.resolve().name)):
                return folder
            if archive is None and piece.remote.name in files and (folder / piece.remote.name).is_file():
                archive = folder / piece.remote.name
    return archive


def open_piece(piece: Piece, path: Path, official: bool) -> Archive:
    """Open what :func:`locate` found.

    official: reject an archive of another size or hash than the published one. Raises UserError for that, for a broken
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
    """Like os.walk, DEPTH folders deep, in the order of the names, but not into ``out``."""
    top, out = len(source.parts), out.resolve()
    for folder, folders, files in os.walk(source, followlinks=True):
        folders[:] = sorted(name for name in folders if (Path(folder) / name).resolve() != out)
        if len(Path(folder).parts) - top >= DEPTH:
            folders.clear()
        yield Path(folder), folders, files


def _files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[os.DirEntry]:
    """The regular files below ``folder``; a link to a folder above itself is not followed again."""
    above = (*above, folder.resolve())
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir() and Path(entry.path).resolve() not in above:
                yield from _files(Path(entry.path), above)
            elif entry.is_file():
                yield entry


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turns what the archive readers raise for a broken file into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tarfile and zipfile raise many kinds
        raise UserError(f"{path}: the archive is cut short or damaged ({reason_of(error)}); fetch it again") from None


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{target}: could not be written ({error.strerror}); {REMEDY}") from None

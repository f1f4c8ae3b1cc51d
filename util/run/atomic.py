"""Files that are either whole or absent."""
import os
from contextlib import suppress
from pathlib import Path

from util.runtime.errors import UserError

IN_A_RUN = "free some space or choose another place with exp=, then go on with resume="


def write_bytes_atomically(path: str | Path, data: bytes, remedy: str = IN_A_RUN, durable: bool = True) -> None:
    """Write beside ``path`` and rename over it, so that a reader finds the old file or the new, never half of one.

    durable: wait until the bytes are on the disk. Without it many small files are written ten times faster, and one can
    be half-written only if the machine itself goes down.
    Raises UserError, ending in ``remedy``, where the disk is full or not writable; what was at ``path`` is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"{path}: could not be written ({error.strerror}); what was there before is intact; "
                            f"{remedy}") from None
        raise


def write_where_possible(places: list[Path], data: bytes) -> Path:
    """Write ``data`` to the first of ``places`` that takes it, and return that one. Raises UserError if none does."""
    for place in places[:-1]:
        with suppress(UserError):
            write_bytes_atomically(place, data)
            return place
    write_bytes_atomically(places[-1], data)
    return places[-1]


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written in ``folder`` and below. Nobody else may be writing there."""
    for leftover in folder.rglob(".*.part"):
        with suppress(OSError):
            leftover.unlink()

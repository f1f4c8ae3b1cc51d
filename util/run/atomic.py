"""Atomic files: either whole or absent."""
import os
import threading
from contextlib import suppress
from pathlib import Path

from util.runtime.errors import UserError


def write_bytes_atomically(path: str | Path, data: bytes) -> None:
    """Write beside ``path`` and rename over it. Raises UserError on failure; what was at ``path`` is then untouched."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.part")      # shorter than most names
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); what was there before is intact") from None
    finally:
        with suppress(OSError):
            temporary.unlink()

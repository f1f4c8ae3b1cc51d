"""Mistakes that a user can mend: one clear line on stderr, exit status 2, no traceback."""
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line."""


def require_file(path: str | Path, remedy: str) -> Path:
    """``path`` if a file is there; otherwise a UserError that ends with ``remedy``."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    return path


def run_main(main: Callable[[], int | None], *also: type[Exception]) -> None:
    """Run a script's ``main`` and leave with its status; UserError, and ``also``, become a line and status 2."""
    try:
        sys.exit(main())
    except (UserError, *also) as error:
        sys.stdout.flush()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            time.sleep(10)  # where another process is lost, which is the reason, util/launch.py ends this one meanwhile
        raise
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)

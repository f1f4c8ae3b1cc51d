"""Mistakes that a user can mend: one clear line on stderr, exit status 2, no traceback."""
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
    except Exception as error:
        if _lost_another(error):
            time.sleep(60)  # which is no reason of its own: what started the processes tells that one's and ends this one
        raise
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _lost_another(error: Exception) -> bool:
    """Whether torch.distributed says that another process is gone; gloo has no exception of its own."""
    return "gloo" in str(error) or "DistError" in [kind.__name__ for kind in type(error).__mro__]

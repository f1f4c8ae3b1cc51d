"""A run's folder: resolved config, code version, log, TensorBoard events, checkpoints, results and pictures."""
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import yaml
from tensorboardX import SummaryWriter

from util.checkpoint import write_bytes_atomically
from util.config import ROOT, Config, to_dict
from util.errors import UserError


def code_version() -> str:
    """The commit, with -dirty where the code differs from it; "unknown" outside a git clone."""
    try:
        said = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True,
                              text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return said.stdout.strip() or "unknown"


class Run:
    """EXP/DATASET/ARCH/foldK/RUN/ and what is written there."""

    def __init__(self, folder: Path, fresh: bool):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=not fresh)
            self._log = open(folder / "log.txt", "a", encoding="utf-8")
        except FileExistsError:
            raise UserError(f"{folder}: a run of that name is there already; go on with it by resume={folder}, "
                            f"or choose another run=") from None
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another place with exp=") from None
        self._events: SummaryWriter | None = None

    @staticmethod
    def start(cfg: Config, suffix: str = "") -> "Run":
        """A new folder named by ``cfg.run``, or by the time with ``suffix``."""
        name = cfg.run or time.strftime("%Y%m%d-%H%M%S") + suffix
        run = Run(Path(cfg.exp) / cfg.dataset / cfg.arch / f"fold{cfg.fold}" / name, fresh=True)
        run.write_text("config.yaml", yaml.safe_dump(to_dict(cfg), sort_keys=False))
        run.write_text("code.txt", f"{code_version()}\n{shlex.join(sys.argv)}\n")
        return run

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def log(self, text: str) -> None:
        """One line on stdout and in log.txt."""
        print(text, flush=True)
        self._log.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self._log.flush()

    def open_events(self, step: int) -> None:
        """Start writing TensorBoard events; those from ``step`` on that an interrupted run left are discarded."""
        self._events = SummaryWriter(str(self.folder / "events"), purge_step=step or None)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            self._events.add_scalar(tag, value, step)

    def picture(self, tag: str, image, step: int) -> None:
        """(H, W, 3) uint8 RGB."""
        self._events.add_image(tag, image, step, dataformats="HWC")

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        write_bytes_atomically(path, data)
        return path

    def write_text(self, name: str, text: str) -> Path:
        return self.write(name, text.encode())

    def write_json(self, name: str, values: dict) -> Path:
        return self.write_text(name, json.dumps(values, indent=2) + "\n")

    def close(self) -> None:
        if self._events:
            self._events.close()
        self._log.close()

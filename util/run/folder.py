"""Run folder: resolved config, code version, log, TensorBoard events, checkpoints, results and pictures."""
import json
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import yaml
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from util.config import ROOT, Config, to_dict
from util.run import checkpoint
from util.run.atomic import write_bytes_atomically
from util.runtime import distributed
from util.runtime.errors import UserError, visible


def code_version() -> str:
    """Return the commit, with -dirty where the code differs from it; "unknown" outside a git clone."""
    try:
        said = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True,
                              text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return said.stdout.strip() or "unknown"


def folder_of(cfg: Config, name: str) -> Path:
    """Return EXP/DATASET/ARCH/foldK/NAME/, the folder of a run."""
    return Path(cfg.exp) / cfg.dataset / cfg.arch / f"fold{cfg.fold}" / name


class Run:
    """Folder of a run, written by rank 0 alone; fresh: it must be new. Raises UserError where it cannot be written."""

    def __init__(self, folder: Path, fresh: bool = False):
        self.folder, self.silent = folder, distributed.rank() > 0
        self._events: EventsWriter | None = None
        if self.silent:
            return
        try:
            folder.mkdir(parents=True, exist_ok=not fresh)
            self._log = open(folder / "log.txt", "a", encoding="utf-8", errors="backslashreplace")
        except FileExistsError:
            raise UserError(f"{folder}: a run of that name is there already; go on with it by resume={folder}, "
                            f"or choose another run=") from None
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another place with exp=") from None

    @staticmethod
    def start(cfg: Config, suffix: str = "", fresh: bool = True) -> "Run":
        """Open the folder named by ``cfg.run``, or by the time with ``suffix``."""
        name = distributed.gather(cfg.run or time.strftime("%Y%m%d-%H%M%S") + suffix)[0]  # clocks differ by a second
        run = Run(folder_of(cfg, name), fresh)
        run.write_options(cfg)
        run.write("code.txt", f"{code_version()}\n{shlex.join(sys.argv)}\n".encode(errors="backslashreplace"))
        return run

    def write_options(self, cfg: Config) -> None:
        """Write config.yaml, which the run is resumed with."""
        self.write("config.yaml", yaml.safe_dump(to_dict(replace(cfg, resume="")), sort_keys=False).encode())

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def log(self, text: str) -> None:
        """Write one line to stdout and log.txt."""
        if not self.silent:
            print(f"{time.strftime('%H:%M:%S')} {visible(text)}", file=self._log, flush=True)
            print(text, flush=True)

    def open_events(self, step: int) -> None:
        """Start writing TensorBoard events; those from ``step`` on that an interrupted run left are discarded."""
        if not self.silent:
            # Not SummaryWriter: on a full disk its thread dies, and the run waits for it for ever.
            (self.folder / "events").mkdir(exist_ok=True)
            self._events = EventsWriter(str(self.folder / "events" / "events"), f".{step}")
            self._event(step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            self._event(step, summary=summary.scalar(tag, value))

    def picture(self, tag: str, image, step: int) -> None:
        """Write a picture (H, W, 3) uint8 RGB."""
        self._event(step, summary=summary.image(tag, image, dataformats="HWC"))

    def _event(self, step: int, **content) -> None:
        if self._events:
            self._events.write_event(Event(wall_time=time.time(), step=step, **content))
            self._events.flush()

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        if not self.silent:
            write_bytes_atomically(path, data)
        return path

    def write_json(self, name: str, values: dict) -> Path:
        return self.write(name, (json.dumps(values, indent=2) + "\n").encode())

    def write_checkpoint(self, name: str, content: dict) -> None:
        """Write checkpoints/``name``, tensors and plain values."""
        if not self.silent:
            checkpoint.save(self.checkpoints / name, content)

    def close(self) -> None:
        if self._events:
            self._events.close()
        if not self.silent:
            self._log.close()

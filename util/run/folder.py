"""A run's folder: resolved config, code version, log, TensorBoard events, checkpoints, results and pictures."""
import contextlib
import json
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import yaml
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from util.config import ROOT, Config, to_dict
from util.run import checkpoint
from util.run.atomic import remove_leftovers, write_bytes_atomically
from util.runtime.errors import UserError
from util.runtime.processes import SINGLE_PROCESS, Processes


def code_version() -> str:
    """The commit, with -dirty where the code differs from it; "unknown" outside a git clone."""
    try:
        said = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True,
                              text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return said.stdout.strip() or "unknown"


def folder_of(cfg: Config, name: str) -> Path:
    """EXP/DATASET/ARCH/foldK/NAME/, the folder of a run."""
    return Path(cfg.exp) / cfg.dataset / cfg.arch / f"fold{cfg.fold}" / name


class Run:
    """EXP/DATASET/ARCH/foldK/RUN/ and what is written there.

    fresh: the folder must be new. silent: this process knows the folder, but writes nothing there and says nothing.
    """

    def __init__(self, folder: Path, fresh: bool, silent: bool = False):
        self.folder, self.silent = folder, silent
        self._log: TextIO | None = None
        self._events: EventsWriter | None = None
        if silent:
            return
        try:
            folder.mkdir(parents=True, exist_ok=not fresh)
            remove_leftovers(folder)
            self._log = open(folder / "log.txt", "a", encoding="utf-8", errors="surrogateescape")
        except FileExistsError:
            raise UserError(f"{folder}: a run of that name is there already; go on with it by resume={folder}, "
                            f"or choose another run=") from None
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another place with exp=") from None

    @staticmethod
    def start(cfg: Config, suffix: str = "", processes: Processes = SINGLE_PROCESS, fresh: bool = True) -> "Run":
        """The folder named by ``cfg.run``, or by the time with ``suffix``."""
        name = processes.gather(cfg.run or time.strftime("%Y%m%d-%H%M%S") + suffix)[0]  # clocks differ by a second
        run = Run.open(folder_of(cfg, name), fresh, processes)
        run.write_options(cfg)
        run.write_text("code.txt", f"{code_version()}\n{shlex.join(sys.argv)}\n")
        return run

    def write_options(self, cfg: Config) -> None:
        """config.yaml: what the run is resumed with."""
        self.write_text("config.yaml", yaml.safe_dump(to_dict(replace(cfg, resume="")), sort_keys=False))

    @staticmethod
    def open(folder: Path, fresh: bool, processes: Processes) -> "Run":
        """The run in ``folder``; rank 0 writes it, the others are silent."""
        return Run(folder, fresh, silent=processes.rank > 0)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def log(self, text: str) -> None:
        """One line on stdout and in log.txt."""
        if self.silent:
            return
        with self._writing("log.txt"):
            self._log.write(f"{time.strftime('%H:%M:%S')} {text}\n")
            self._log.flush()
        try:
            print(text, flush=True)
        except OSError as error:  # its reader has gone, as after `| head`, or the disk is full
            raise UserError(f"stdout could not be written ({error.strerror}), log.txt could; go on with "
                            f"resume={self.folder}") from None

    def open_events(self, step: int) -> None:
        """Start writing TensorBoard events; those from ``step`` on that an interrupted run left are discarded."""
        if self.silent:
            return
        with self._writing("events.out.tfevents"):
            # Not SummaryWriter: on a full disk its thread dies, and the run waits for it for ever.
            self._events = EventsWriter(str(self.folder / "events"))
        if step:
            self._event(step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.summaries(*(summary.scalar(tag, value) for tag, value in values.items()), step=step)

    def summaries(self, *protos, step: int) -> None:
        """tensorboardX's summaries, of whatever plugin."""
        for proto in protos:
            self._event(step, summary=proto)
        if not self.silent:
            with self._writing("events.out.tfevents"):
                self._events.flush()

    def picture(self, tag: str, image, step: int) -> None:
        """(H, W, 3) uint8 RGB."""
        self._event(step, summary=summary.image(tag, image, dataformats="HWC"))

    def _event(self, step: int, **content) -> None:
        if not self.silent:
            with self._writing("events.out.tfevents"):
                self._events.write_event(Event(wall_time=time.time(), step=step, **content))

    @contextlib.contextmanager
    def _writing(self, name: str):
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.folder / name}: could not be written ({error.strerror}); free some space, then go "
                            f"on with resume={self.folder}") from None

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        if not self.silent:
            write_bytes_atomically(path, data)
        return path

    def write_text(self, name: str, text: str) -> Path:
        return self.write(name, text.encode(errors="surrogateescape"))

    def write_json(self, name: str, values: dict) -> Path:
        return self.write_text(name, json.dumps(values, indent=2) + "\n")

    def write_checkpoint(self, name: str, content: dict) -> None:
        """checkpoints/``name`` of tensors and plain values."""
        if not self.silent:
            checkpoint.write_atomically(self.checkpoints / name, content)

    def close(self) -> None:
        """Close the files. Errors of writing have been raised by then."""
        for file in (self._events, self._log):
            with contextlib.suppress(OSError):
                if file:
                    file.close()

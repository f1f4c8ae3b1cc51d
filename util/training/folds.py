"""The folds of a data set side by side, one on each GPU, and their table in the end.

    python -m util.training.folds --gpus 0,1 --folds "0 1 2 3" train.py --config FILE run=NAME [key=value ...]

GPUs are named as in CUDA_VISIBLE_DEVICES; ``auto`` means all that are there, ``cpu`` a place without one. A fold waits
until a GPU is free. What its process prints goes to EXP/DATASET/ARCH/foldK/NAME.txt. A fold that fails stops no other.
"""
import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from data.folds import classes_of
from data.index import read_index
from util.config import Config, from_command_line
from util.results.table import folds_table, read_folds
from util.run.folder import folder_of
from util.runtime.errors import Parser, UserError, run_main, tell
from util.runtime.stop import Stopped, StopRequest
from util.runtime.workers import cause_of_end, cores

POLL = 0.2  # s between two looks at the processes


@dataclass
class Fold:
    """One fold's process. ``read``: the bytes of the run's log that have been shown."""
    number: int
    gpu: str
    folder: Path
    process: subprocess.Popen
    since: float = field(default_factory=time.monotonic)
    read: int = 0

    def say(self, text: str) -> None:
        print(f"fold {self.number} on {'a CPU' if self.gpu == 'cpu' else f'GPU {self.gpu}'}: {text}", flush=True)

    def show_epochs(self) -> None:
        """Print the lines of epochs that are new in the run's log."""
        log = self.folder / "log.txt"
        if log.is_file():
            with open(log, "rb") as file:
                file.seek(self.read)
                lines = file.read().rpartition(b"\n")[0]
            self.read += len(lines)
            for line in lines.decode(errors="replace").splitlines():
                if re.match(r"\d\d:\d\d:\d\d epoch ", line):
                    self.say(line.partition(" ")[2])

    def end(self) -> bool:
        """Say how it ended. Returns whether it succeeded."""
        self.show_epochs()
        status, minutes = self.process.returncode, (time.monotonic() - self.since) / 60
        said = output_of(self.folder).read_text(errors="replace").splitlines()
        if status:
            self.say(f"{cause_of_end(status)} after {minutes:.1f} min: {said[-1] if said else 'nothing was said'} "
                     f"({output_of(self.folder)})")
        else:
            self.say(f"done in {minutes:.1f} min, {self.folder}")
        return not status


class ForAll(StopRequest):
    """A StopRequest that is passed on to every running fold."""

    def __init__(self):
        self.running: dict[str, Fold] = {}
        super().__init__()

    def _handle(self, number, frame) -> None:
        for fold in self.running.values():  # a terminal has sent it to all already; twice at once is the same to them
            fold.process.send_signal(number)
        super()._handle(number, frame)


def output_of(folder: Path) -> Path:
    """Where the output of the run in ``folder`` goes: beside it, since a run wants its folder new."""
    return folder.with_name(f"{folder.name}.txt")


def gpus_of(text: str) -> list[str]:
    """The places that GPUS names. Raises UserError for one that cannot be, and for auto without a GPU."""
    if text == "auto":
        text = os.environ.get("CUDA_VISIBLE_DEVICES")
        if text is None:
            import torch  # takes seconds
            text = ",".join(map(str, range(torch.cuda.device_count())))
        if not text:
            raise UserError("GPUS=auto: there is no GPU here; GPUS=cpu,cpu would train two folds at once without one")
    gpus = text.split(",")
    if not all(re.fullmatch(r"\d+|cpu|(GPU|MIG)-[\w/-]+", gpu) for gpu in gpus):
        raise UserError(f"GPUS={text}: should be numbers of GPUs with commas between them (0,1), or auto, or cpu")
    return gpus


def start(number: int, gpu: str, cfg: Config, command: list[str], places: int) -> Fold:
    folder = folder_of(cfg, cfg.run).parent.with_name(f"fold{number}") / cfg.run
    environment = {"OMP_NUM_THREADS": str(max(1, cores() // places)), **os.environ,
                   "CUDA_VISIBLE_DEVICES": "" if gpu == "cpu" else gpu}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(output_of(folder), "ab") as output:
            process = subprocess.Popen([sys.executable, *command, f"fold={number}"], env=environment, stdout=output,
                                       stderr=output, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise UserError(f"{output_of(folder)}: cannot be written ({error.strerror}); choose another exp=") from None
    fold = Fold(number, gpu, folder, process)
    fold.read = (folder / "log.txt").stat().st_size if (folder / "log.txt").is_file() else 0
    fold.say(f"started, prints to {output_of(folder)}")
    return fold


def run_all(numbers: list[int], gpus: list[str], cfg: Config, command: list[str]) -> dict[int, bool]:
    """Run every fold as soon as a GPU is free. Returns {fold: whether it succeeded}. Raises Stopped."""
    waiting, free, ended, stop = list(numbers), list(gpus), {}, ForAll()
    running: dict[str, Fold] = stop.running
    try:
        with stop:
            while running or waiting and not stop.number:
                while waiting and free and not stop.number:
                    number, gpu = waiting.pop(0), free.pop(0)
                    try:
                        running[str(number)] = start(number, gpu, cfg, command, len(gpus))
                    except UserError as error:
                        tell(f"fold {number}: {error}")
                        ended[number] = False
                        free.append(gpu)
                for key, fold in list(running.items()):
                    if fold.process.poll() is None:
                        fold.show_epochs()
                        continue
                    del running[key]
                    free.append(fold.gpu)
                    ended[fold.number] = fold.end()
                time.sleep(POLL)
    finally:  # after a second signal
        for fold in running.values():
            fold.process.terminate()
        for fold in running.values():
            fold.process.wait()
    return ended


def main() -> None:
    parser = Parser(prog="python -m util.training.folds", description=__doc__)
    parser.add_argument("--gpus", required=True)
    parser.add_argument("--folds", required=True, help="their numbers, with blanks between them")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="train.py or test.py with its arguments")
    given = parser.parse_args()
    cfg, numbers, gpus = from_command_line(given.command[1:]), list(map(int, given.folds.split())), gpus_of(given.gpus)
    if not cfg.run:
        raise UserError("run= is missing: the folds of one table have one name")
    again = f"the same line with run={cfg.run} resume=auto goes on" if given.command[0] == "train.py" else "start again"
    lists = [cfg.data.train_list] * (given.command[0] == "train.py") + [cfg.data.val_list]
    for file in lists:  # the folds would all count the same masks, and miss the same files
        read_index(cfg.data.root, file, len(classes_of(cfg.data).names), cfg.dataset)
    try:
        ended = run_all(numbers, gpus, cfg, given.command)
    except Stopped as stopped:
        stopped.where = f"; {again}"
        raise
    done = [number for number in numbers if ended[number]]
    if done:
        print(folds_table(read_folds(cfg, done, partial=True)))
    failed = [str(number) for number in numbers if not ended[number]]
    if failed:
        raise UserError(f"fold {', '.join(failed)} failed, see above; when that is mended, {again}")


if __name__ == "__main__":
    run_main(main)

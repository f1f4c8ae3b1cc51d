"""All folds of a data set and then their table: one after another, or with GPUS side by side, one on each GPU.

    [GPUS=0,1] python -m util.training.folds [-m torch.distributed.run ...] train.py --config FILE run=NAME [k=v ...]

GPUS names GPUs as CUDA_VISIBLE_DEVICES does; ``auto`` means all that are there, ``cpu`` a place without one. A fold
then waits until a GPU is free, prints to EXP/DATASET/ARCH/foldK/NAME.txt, and stops no other when it fails.
"""
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from statistics import fmean

import torch

from data.folds import classes_of
from util.compare.runs import Group, gather, read
from util.config import Config, from_command_line
from util.run.folder import folder_of
from util.runtime.errors import UserError, run_main
from util.runtime.markdown import markdown_table
from util.runtime.progress import asked, leave, listen
from util.runtime.workers import cores

COLUMNS = {"miou": ("mIoU", ".1f"), "fb_iou": ("FB-IoU", ".1f"), "name_auc": ("name AUC", ".3f"),
           "absent_name_miou": ("absent-name mIoU", ".1f"), "presence_auroc": ("presence AUROC", ".3f"),
           "absent_empty": ("absent: empty %", ".1f"), "seen_miou": ("seen mIoU", ".1f"), "hiou": ("hIoU", ".1f"),
           "pixel_accuracy": ("pixel accuracy", ".1f")}


def gpus_of(text: str) -> list[str]:
    """Parse GPUS. Raises UserError for a wrong one: CUDA would hide all GPUs and train on the CPU."""
    if text == "auto":
        text = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    gpus = text.split(",")
    if not all(re.fullmatch(r"\d+|cpu|(GPU|MIG)-[\w/-]+", gpu) for gpu in gpus):
        raise UserError(f"GPUS={text}: should be numbers of GPUs as in 0,1, or auto where there are some, or cpu")
    return gpus


def on_gpu(gpu: str, places: int, cfg: Config) -> dict:
    """Build Popen's arguments for a process on a GPU that prints beside the folder of its run."""
    output = folder_of(cfg, cfg.run).with_name(f"{cfg.run}.txt")
    output.parent.mkdir(parents=True, exist_ok=True)
    print(f"fold {cfg.fold} on {gpu} prints to {output}", flush=True)
    environment = {"OMP_NUM_THREADS": str(max(1, cores() // places)), **os.environ,
                   "CUDA_VISIBLE_DEVICES": gpu.removeprefix("cpu")}
    return {"stdout": open(output, "ab"), "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "env": environment}


def run_folds(command: list[str], cfg: Config, folds: range, gpus: list[str]) -> list[int]:
    """Run ``command`` for each fold, one at a time without GPUs; returns the folds that failed."""
    waiting, running, free, failed, told = list(folds), {}, list(gpus) or [None], [], False
    while running or waiting:
        if asked() or failed and not gpus:
            waiting = []
        if asked() and not told:
            told = True
            for process, _ in running.values():
                process.terminate()
        while waiting and free:
            fold, gpu = waiting.pop(0), free.pop(0)
            more = on_gpu(gpu, len(gpus), replace(cfg, fold=fold)) if gpus else {}
            running[fold] = subprocess.Popen([sys.executable, *command, f"fold={fold}"], **more), gpu
        time.sleep(0.05)
        for fold, (process, gpu) in list(running.items()):
            if process.poll() is not None:
                del running[fold]
                free.append(gpu)
                failed += [fold] * bool(process.returncode)
    return failed


def folds_table(group: Group) -> str:
    """Format folds and their mean in Markdown, below the protocol and why scores are not zero-shot, if so."""
    raw, reasons = [r.raw for r in group.results], group.not_zero_shot
    columns = {"fold": [*(r["fold"] for r in raw), "mean"]}
    for key, (head, form) in COLUMNS.items():
        values = [r[key] for r in raw if r.get(key) is not None]
        if len(values) == len(raw):
            columns[head] = [format(value, form) for value in (*values, fmean(values))]
    return (f"{raw[0]['dataset']}, {raw[0]['arch']}: unseen classes, {raw[0]['protocol']} protocol, "
            f"{' + '.join(str(r['samples']) for r in raw)} samples{reasons and f', NOT ZERO-SHOT: {reasons}'}\n\n"
            f"{markdown_table(list(columns), list(zip(*columns.values())))}")


def main() -> None:
    command = sys.argv[1:]
    cfg = from_command_line(command[command.index("--config"):])
    gpus = gpus_of(os.environ["GPUS"]) if os.environ.get("GPUS") and not cfg.dry_run else []
    folds = range(len(classes_of(cfg.data).folds))
    listen()
    failed = run_folds(command, cfg, folds, gpus)
    leave()
    if failed:
        raise UserError(f"fold {', '.join(map(str, sorted(failed)))} failed, as it printed; train.sh goes on with "
                        f"run={cfg.run} resume=auto")
    if not cfg.dry_run:
        done = [folder_of(replace(cfg, fold=k), cfg.run) / "results.json" for k in folds]
        print(folds_table(*gather(map(read, done))))


if __name__ == "__main__":
    run_main(main)

"""A whole run of the benchmark: everything that was asked for, as plain values."""
import sys
import time
from typing import NamedTuple

import cv2
import torch

from util.benchmark import cards, fed, measure
from util.benchmark import loader as speed
from util.benchmark.ceiling import ceiling
from util.benchmark.subject import Subject
from util.benchmark.switches import EVAL, GENERALISED, TRAIN, ladder, modes
from util.config import Config
from util.run.folder import code_version
from util.runtime.device import describe


class Plan(NamedTuple):
    """configs: one a size. what: of __main__'s WHAT. memory_batches: images in the steps that the model of memory is
    fitted to. compiled: option compile, too, in training and evaluation. quick: only whether it all runs.
    """
    configs: list[Config]
    device: torch.device
    what: tuple[str, ...]
    precisions: list[str]
    batches: list[int]
    eval_batches: list[int]
    memory_batches: tuple[int, int]
    names: int
    compiled: bool
    rounds: int
    quick: bool


def collect(plan: Plan) -> dict:
    """All rows, and under what circumstances they were measured."""
    start, device = time.monotonic(), plan.device
    kinds = [(TRAIN, plan.batches, "train"), (EVAL, plan.eval_batches, "eval"), (GENERALISED, [1], "generalised")]
    rates = [_ceilings(plan)]
    rows, memory, beside = [], [], []
    for cfg in plan.configs:
        first = cfg is plan.configs[0]
        subject = Subject.make(cfg, device, plan.names)
        for kind, batches, name in kinds:
            for images in batches if name in plan.what else []:
                rungs = ladder(kind, plan.precisions[-1], ("recomputed",) * (kind == TRAIN)) \
                    if "ladder" in plan.what and first and images == batches[0] and kind != GENERALISED else {}
                main = modes(kind, plan.precisions, plan.compiled and kind != GENERALISED)
                rows += measure.rows(kind, subject, images, main, rungs, plan.rounds, say)
        if "memory" in plan.what and first:
            for precision in dict.fromkeys((plan.precisions[0], plan.precisions[-1])):
                for recomputed in (False, True):
                    say(f"memory: {precision}, checkpoint_blocks {str(recomputed).lower()}")
                    memory.append(cards.measure(subject, precision, recomputed, plan.memory_batches))
        if "fed" in plan.what and first:
            steps = 2 if plan.quick else fed.counted(plan.batches[-1], device)
            for workers in fed.workers(cfg.data.workers, device):
                say(f"training as the loader feeds it: {workers} workers")
                beside.append(fed.measure(subject, plan.precisions[-1], plan.batches[-1], workers, steps))
    loader = [_loader(kind) for kind in speed.KINDS[:1 if plan.quick else None]] if "loader" in plan.what else []
    rates.append(_ceilings(plan))
    ceilings = {precision: max(rate[precision] for rate in rates) for precision in rates[0]}
    for row in rows:
        if "gflop_per_image" in row:
            row["mfu"] = 1e9 * row["gflop_per_image"] * row["images_per_s"] / ceilings[row["precision"]]
    return {"device": describe(device, "fp32").replace(", fp32", ""), "code": code_version(), "model": subject.weights,
            "names": len(subject.words.cls), "rounds": plan.rounds, "seconds": time.monotonic() - start,
            "ceilings": ceilings, "ladder_precision": plan.precisions[-1], "rows": rows,
            "memory": memory, "memory_size": plan.configs[0].model.size, "loader": loader, "fed": beside}


def say(text: str) -> None:
    """One line on stderr, with the time: the whole takes minutes."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _ceilings(plan: Plan) -> dict[str, float]:
    seconds = 0.1 if plan.quick else 1.0
    return {p: ceiling(plan.device, p, seconds) for p in dict.fromkeys(["fp32", *plan.precisions])}


def _loader(kind: tuple[str, int, int]) -> dict:
    say(f"loader: {kind[0]}")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # one core is what is measured
    try:
        return speed.measure(*kind)
    finally:
        cv2.setNumThreads(threads)

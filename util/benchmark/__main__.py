"""What training, evaluation, generalised inference and loading cost here, beside the same work done the released way.

    python -m util.benchmark [--what train,eval] [--out DIR] [--quick] [--config FILE] [key=value ...]

Needs no data, and no weights: without those of model.clip it takes random ones of ViT-B/16. Writes benchmark.json and
benchmark.md. docs/speed.md says what is measured, and has results.
"""
import argparse
import json
import shlex
import sys
from pathlib import Path

import torch

from model.clip.weights import WeightsError
from util.benchmark.collect import Plan, collect
from util.benchmark.tables import markdown
from util.config import ROOT, Config, load
from util.run.atomic import write_bytes_atomically
from util.runtime.device import computes_in_bf16, make_deterministic, pick_device, require_compiler
from util.runtime.errors import UserError, run_main

WHAT = ("train", "eval", "generalised", "ladder", "memory", "loader", "fed")
PRECISIONS = ("fp32", "tf32", "bf16")
IMAGES = {"cpu": (2, 4), "cuda": (32, 32)}     # at once: training, evaluation
MEMORY = {"cpu": (1, 2), "cuda": (2, 8)}       # images in the steps that the model of memory is fitted to
ROUNDS = {"cpu": 2, "cuda": 20}


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m util.benchmark", description=__doc__.partition("\n")[0])
    parser.add_argument("--what", type=_some_of(WHAT), default=WHAT, metavar="A,B", help=f"default: {','.join(WHAT)}. "
                        "ladder: each fast path of training and evaluation by itself; memory: the largest batches; "
                        "fed: a training step while the loader makes its images, on CUDA an epoch of PASCAL's")
    parser.add_argument("--sizes", type=_counts, metavar="PX,PX", help="default: the config's")
    parser.add_argument("--precisions", type=_some_of(PRECISIONS), metavar="A,B", help="of the fast mode (fp32, tf32, "
                        "bf16), the last for ladder, compile and fed; default: fp32 and what the device is fast in")
    parser.add_argument("--batches", type=_counts, metavar="N,N",
                        help="images in a training step, default: 2 on a CPU, 32 on CUDA")
    parser.add_argument("--eval-batches", type=_counts, metavar="N,N",
                        help="images at once in evaluation, default: 4 on a CPU, 32 on CUDA")
    parser.add_argument("--names", type=_count, default=4, metavar="N", help="class names, default: 4")
    parser.add_argument("--compile", action="store_true", help="one more row for training and evaluation: option "
                        "compile at the last precision, and what its first run takes")
    parser.add_argument("--rounds", type=_count, metavar="N", help="default: 2 on a CPU, 20 on CUDA")
    parser.add_argument("--quick", action="store_true", help="the miniature CLIP, one round: whether it all runs")
    parser.add_argument("--out", default="exp/benchmark", metavar="DIR", help="default: exp/benchmark")
    parser.add_argument("--config", metavar="FILE", help="default: config/pascal/esda.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of the config, e.g. device=cuda")
    return parser.parse_intermixed_args(given)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number, 1 or more")
    return int(text)


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _some_of(known: tuple[str, ...]):
    def chosen(text: str) -> list[str]:
        for part in text.split(","):
            if part not in known:
                raise argparse.ArgumentTypeError(f"{part!r} is none of {', '.join(known)}")
        return text.split(",")
    return chosen


def plan(options: argparse.Namespace) -> Plan:
    """What is to be measured, with the defaults of the device."""
    file = options.config or ROOT / f"config/{'shapes' if options.quick else 'pascal'}/esda.yaml"
    cfg = load(Config, file, options.overrides)
    configs = [load(Config, file, [*options.overrides, f"model.size={size}"])
               for size in options.sizes or [cfg.model.size]]
    device = pick_device(cfg.device)
    if options.compile:
        require_compiler()
    precisions = options.precisions or ["fp32"] + ["tf32"] * (device.type == "cuda") + [
        "bf16"] * computes_in_bf16(device, "auto")
    if "tf32" in precisions and device.type != "cuda":
        raise UserError("--precisions tf32: only CUDA has it; choose fp32 and bf16")
    train, test = (1, 2) if options.quick else IMAGES[device.type]
    return Plan(configs, device, options.what, precisions, options.batches or [train], options.eval_batches or [test],
                (8, 16) if options.quick else MEMORY[device.type], options.names, options.compile,
                options.rounds or (1 if options.quick else ROUNDS[device.type]), options.quick)


def main() -> None:
    options = arguments(sys.argv[1:])
    planned = plan(options)
    make_deterministic(planned.configs[0].seed)
    found = {"command": f"python -m util.benchmark {shlex.join(sys.argv[1:])}".rstrip(), **collect(planned)}
    text = markdown(found)
    print(text, end="")
    for name, data in (("benchmark.json", json.dumps(found, indent=2) + "\n"), ("benchmark.md", text)):
        write_bytes_atomically(Path(options.out) / name, data.encode(), "choose another place with --out")
        print(f"written: {Path(options.out) / name}", file=sys.stderr)


if __name__ == "__main__":
    run_main(main, WeightsError, torch.OutOfMemoryError)

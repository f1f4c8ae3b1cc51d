"""What training, evaluation, generalised inference and loading cost here, beside the same work done the released way.

    python -m util.benchmark [--what train,eval] [--config FILE] [key=value ...] [--against FILE [key=value ...]]

Needs no data and no weights. docs/speed.md says what is measured, and has results.
"""
import argparse
import json
import resource
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from model.clip.weights import WeightsError
from util.benchmark.measure import ceiling, peak_bytes, seconds_of
from util.benchmark.work import Variant, draw, read_or_make
from util.config import ROOT, Config, load
from util.results.cost import count_flops
from util.run.atomic import write_bytes_atomically
from util.run.folder import code_version
from util.runtime.device import computes_in_bf16, describe, make_deterministic, pick_device
from util.runtime.errors import Parser, run_main
from util.runtime.markdown import markdown_table

WHAT, PRECISIONS = ("train", "eval", "generalised", "loader"), ("fp32", "tf32", "bf16")
TITLES = {"train": "training step, images: {}", "eval": "evaluation, images: {}", "generalised": "one image, names: {}"}
GIB = 2 ** 30


def arguments(given: list[str]) -> argparse.Namespace:
    def listed(known: tuple[str, ...] = ()):
        """Some of ``known``, or whole numbers from 1 on, with commas between them."""
        def parse(text: str) -> list:
            parts = text.split(",")
            if not all(part in known if known else part.isdecimal() and int(part) for part in parts):
                wanted = f"some of {','.join(known)}" if known else "whole numbers from 1 on, with commas between them"
                raise argparse.ArgumentTypeError(f"{text!r} should be {wanted}")
            return parts if known else list(map(int, parts))
        return parse

    parser = Parser(prog="python -m util.benchmark", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--what", type=listed(WHAT), default=WHAT, metavar="A,B", help=f"default: {','.join(WHAT)}")
    add("--config", metavar="FILE", help="default: config/pascal/esda.yaml; with --quick config/shapes/esda.yaml")
    add("--against", nargs="+", default=[], metavar=("FILE", "key=value"),
        help="a second config, measured in the same rounds; the options that follow it are its own")
    add("--precisions", type=listed(PRECISIONS), metavar="A,B", help="default: fp32 and what the device is fast in")
    add("--images", type=listed(), metavar="N,M", help="N in a training step, M in evaluation (in batches of "
        "eval.batch_size); default: 2,4 on a CPU, 32,32 on CUDA")
    add("--names", type=listed(), metavar="N,N", help="sought in one image; default: 1,10,20")
    add("--rounds", type=listed(), metavar="N", help="default: 3 on a CPU, 20 on CUDA")
    add("--quick", action="store_true", help="the miniature CLIP, one round: whether it all runs")
    add("--out", default="exp/benchmark", metavar="DIR", help="default: exp/benchmark")
    add("overrides", nargs="*", metavar="key=value", help="options of both configs, e.g. device=cuda")
    return parser.parse_intermixed_args(given)


def benchmark(options: argparse.Namespace) -> dict:
    """All rows, and under what circumstances they were measured. ``ratio`` is to the first row of the same work.

    A round runs every variant once, so that what else the machine does disturbs all alike.
    """
    start, quick = time.monotonic(), options.quick
    files = [(options.config or ROOT / f"config/{'shapes' if quick else 'pascal'}/esda.yaml", [])]
    files += [(options.against[0], options.against[1:])] if options.against else []
    configs = [load(Config, file, [*options.overrides, *own]) for file, own in files]
    device = pick_device(configs[0].device)
    gpu = device.type == "cuda"
    make_deterministic(configs[0].seed)
    precisions = options.precisions or ["fp32", *["tf32"] * gpu, *["bf16"] * computes_in_bf16(device, "auto")]
    images = options.images or ([32, 32] if gpu else [2, 4])
    (rounds, *_) = options.rounds or [1 if quick else 20 if gpu else 3]
    counts = {"train": images[:1], "eval": images[-1:], "loader": [],
              "generalised": options.names or ([1, 2] if quick else [1, 10, 20])}
    def ceilings() -> dict[str, float]:
        return {p: ceiling(device, p, 0.1 if quick else 1.0) for p in dict.fromkeys(["fp32", *precisions])}

    before = ceilings()
    rows, variants, loader, weights = [], [], {}, []
    with tempfile.TemporaryDirectory() as folder:
        for i, ((file, own), cfg) in enumerate(zip(files, configs)):
            cfg = draw(replace(cfg, device=str(device)), Path(folder) / str(i))
            clip = read_or_make(cfg.model.clip)
            weights.append(cfg.model.clip if Path(cfg.model.clip).is_file() else "ViT-B/16 at random weights")
            name = " ".join([f"{Path(file).parent.name}/{Path(file).stem}", *own])
            for mode in [*["plain"] * (i == 0), *precisions]:
                variants.append(Variant(cfg, clip, mode, name))
            for what in options.what:
                variants[-1].require(what)
        for what, count in [(kind, count) for kind in options.what for count in counts[kind]]:
            print(f"{what} {count}: {len(variants)} variants, {rounds} rounds", file=sys.stderr, flush=True)
            calls = [variant.work(what, count) for variant in variants]
            seen = 1 if what == "generalised" else count
            flops = [count_flops(call) for call in calls]  # this run warms up, too
            peaks = [peak_bytes(call, variant.state(), device) for call, variant in zip(calls, variants)]
            taken = list(zip(*([seconds_of(call, device) for call in calls] for _ in range(rounds))))
            for variant, flop, peak, seconds in zip(variants, flops, peaks, taken):
                rows.append({
                    "work": what, "count": count, "config": variant.name, "mode": variant.mode,
                    "precision": variant.cfg.precision, "size": variant.cfg.model.size, "seconds": seconds,
                    "ms": 1000 * median(seconds), "images_per_s": seen / median(seconds), "peak_bytes": peak,
                    "ratio": median(first / own for first, own in zip(taken[0], seconds)),
                    "gflop_per_image": flop / seen / 1e9})
        if "loader" in options.what:  # by the first config's last variant
            loader = variants[len(precisions)].load(images[0], 2 if quick else 100 if gpu else 4)
    best = {p: max(rate, before[p]) for p, rate in ceilings().items()}  # whenever the machine was quieter
    for row in rows:
        row["mfu"] = 1e9 * row["gflop_per_image"] * row["images_per_s"] / best[row["precision"]]
    return {"device": describe(device, "fp32").replace(", fp32", ""), "code": code_version(), "weights": weights,
            "rounds": rounds, "seconds": time.monotonic() - start, "ceilings": best, "rows": rows, "loader": loader,
            "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


def markdown(found: dict) -> str:
    """The report; found: what ``benchmark`` returns and the command."""
    rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {mode}" for mode, rate in found["ceilings"].items())
    text = [f"`{found['command']}`, {found['rounds']} rounds, {found['seconds'] / 60:.1f} minutes, code "
            f"{found['code']}.\n{found['device']}. {' and '.join(found['weights'])}. Ceiling (a square matrix "
            f"product): {rates}. The whole process had at most {found['peak_rss'] / GIB:.1f} GiB in memory."]
    rows = [[TITLES[r["work"]].format(r["count"]), r["config"], r["mode"], r["size"], f"{r['ms']:,.0f}",
             f"{r['images_per_s']:.3g}", f"{r['ratio']:.2f}", f"{r['peak_bytes'] / GIB:.2f}",
             f"{r['gflop_per_image']:,.4g}", f"{100 * r['mfu']:.0f} %"] for r in found["rows"]]
    if rows:
        text.append(markdown_table(["work", "config", "mode", "px", "ms", "images/s", "times the first", "peak, GiB",
                                    "GFLOP an image", "MFU"], rows))
    if found["loader"]:
        text.append("One loader process makes {training:.0f} images/s for training, {evaluation:.0f} for evaluation. "
                    "With {workers} a training step of {images} images in {precision} takes {ms:,.0f} ms, "
                    "{waiting:.1%} of it waiting for images ({steps} steps).".format(**found["loader"]))
    return "\n\n".join(text) + "\n"


def main() -> None:
    options = arguments(sys.argv[1:])
    found = {"command": f"python -m util.benchmark {shlex.join(sys.argv[1:])}".strip(), **benchmark(options)}
    text = markdown(found)
    print(text, end="")
    for name, content in (("benchmark.json", json.dumps(found, indent=2) + "\n"), ("benchmark.md", text)):
        write_bytes_atomically(Path(options.out) / name, content.encode(), "choose another place with --out")
        print(f"written: {Path(options.out) / name}", file=sys.stderr)


if __name__ == "__main__":
    run_main(main, WeightsError)

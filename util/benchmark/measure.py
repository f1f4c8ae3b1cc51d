"""Rows of measured work: plain, fast at each precision, and the ladder between them."""
import contextlib
import gc
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from util.benchmark.ceiling import count_flops, multiplying_in
from util.benchmark.peak import peak_bytes
from util.benchmark.subject import Subject, Variant
from util.benchmark.switches import TRAIN, Switches
from util.benchmark.timing import alternate
from util.benchmark.works import Work


def rows(kind: str, subject: Subject, images: int, modes: dict[str, Switches], rungs: dict[str, Switches], rounds: int,
         say: Callable[[str], None]) -> list[dict]:
    """One row a variant: ``modes`` (as switches.modes makes them), then ``rungs`` that are none of these.

    Each row: work, size, images (at once), mode, precision, ms (of all the images, the median of the rounds), seconds
    (of each round), images_per_s, ratio (how many times as fast as plain, the median of the rounds' own ratios); of
    modes also gflop_per_image and peak_bytes, and of a compiled one first_seconds, of its first run.
    """
    wanted = modes | {name: switches for name, switches in rungs.items() if switches not in modes.values()}
    work, one = Work(kind, subject, images), Work(kind, subject, 1)
    makes, extra = {}, {}
    for name, switches in wanted.items():
        say(f"{kind}, {subject.cfg.model.size} px, {images} at once: {name}")
        if name not in modes:
            makes[name] = partial(_ready, subject, switches, work)  # made when its turn comes: memory has room for few
            continue
        variant = Variant(subject, switches)
        call = _at(switches, work.call(variant))
        makes[name] = partial(_same, call)
        if switches.compiled:
            torch._dynamo.reset()  # to begin with nothing compiled, as a run does
            told = {"first_seconds": alternate({name: makes[name]}, 1, subject.device, warm=False)[name][0],
                    # FlopCounterMode sees no compiled code: under it torch runs none. Both multiply the same matrices.
                    "gflop_per_image": extra[f"fast {switches.precision}"]["gflop_per_image"]}
        else:
            told = {"gflop_per_image": count_flops(_at(switches, one.call(variant))) / 1e9}  # which warms up, too
        extra[name] = {**told, "peak_bytes": peak_bytes(call, variant, subject.device)}
    say(f"{kind}, {subject.cfg.model.size} px, {images} at once: {rounds} rounds of {len(makes)}")
    seconds = alternate(makes, rounds, subject.device)
    makes.clear()
    gc.collect()
    return [_row(kind, subject, images, name, switches, seconds, extra.get(name, {}))
            for name, switches in wanted.items()]


def _same(call: Callable) -> Callable:
    return call


def _ready(subject: Subject, switches: Switches, work: Work) -> Callable:
    """A variant made and warmed up, as far as that is needed: on a CPU the first run is like any other."""
    variant = Variant(subject, switches)
    if work.kind == TRAIN:
        variant.start_optimizer()
    call = _at(switches, work.call(variant))
    if subject.device.type == "cuda":
        call()
    return call


def _at(switches: Switches, call: Callable) -> Callable:
    """``call`` under torch's global settings as ``switches`` want them."""
    def under_its_settings():
        with multiplying_in(switches.precision), _deterministic(switches.deterministic):
            return call()
    return under_its_settings


@contextlib.contextmanager
def _deterministic(on: bool):
    """Torch's deterministic mode, set by the same call as in util.runtime.device.make_deterministic."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn" if on else "default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def _row(kind, subject, images, name, switches, seconds, extra) -> dict:
    middle = median(seconds[name])
    return {"work": kind, "size": subject.cfg.model.size, "images": images, "mode": "fast"
            if name.startswith("fast ") else name, "precision": switches.precision, "ms": 1000 * middle,
            "images_per_s": images / middle, "seconds": seconds[name],
            "ratio": median(p / s for p, s in zip(seconds["plain"], seconds[name])),
            "switches": switches._asdict(), **extra}

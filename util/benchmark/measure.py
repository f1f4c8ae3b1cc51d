"""Rows of measured work: plain, fast at each precision, and the ladder between them."""
import gc
from collections.abc import Callable
from functools import partial
from statistics import median

from util.benchmark.ceiling import count_flops, multiplying_in
from util.benchmark.peak import peak_bytes
from util.benchmark.subject import Subject, Variant
from util.benchmark.switches import PLAIN, TRAIN, Switches, fast
from util.benchmark.timing import alternate
from util.benchmark.works import Work


def rows(kind: str, subject: Subject, images: int, precisions: list[str], rungs: dict[str, Switches], rounds: int,
         say: Callable[[str], None]) -> list[dict]:
    """One row a variant, plain first, then fast at each precision, then ``rungs`` that are none of these.

    Each row: work, size, images (at once), mode, precision, ms (of all the images, the median of the rounds), seconds
    (of each round), images_per_s, ratio (how many times as fast as plain, the median of the rounds' own ratios); of
    plain and fast also gflop_per_image and peak_bytes.
    """
    wanted = {"plain": PLAIN, **{f"fast {p}": fast(kind, p) for p in precisions}}
    measured = list(wanted)
    wanted |= {name: switches for name, switches in rungs.items() if switches not in wanted.values()}
    work, one = Work(kind, subject, images), Work(kind, subject, 1)
    makes, extra = {}, {}
    for name, switches in wanted.items():
        say(f"{kind}, {subject.cfg.model.size} px, {images} at once: {name}")
        if name not in measured and not switches.compiled:
            makes[name] = partial(_ready, subject, switches, work)  # made when its turn comes: memory has room for few
            continue
        variant = Variant(subject, switches)
        call = _at(switches, work.call(variant))
        makes[name] = partial(_same, call)
        if name in measured:  # which warms up, too
            extra[name] = {"gflop_per_image": count_flops(_at(switches, one.call(variant))) / 1e9,
                           "peak_bytes": peak_bytes(call, variant, subject.device)}
        else:
            extra[name] = {"first_seconds": alternate({name: makes[name]}, 1, subject.device, warm=False)[name][0]}
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
    def at_its_precision():
        with multiplying_in(switches.precision):
            return call()
    return at_its_precision


def _row(kind, subject, images, name, switches, seconds, extra) -> dict:
    middle = median(seconds[name])
    return {"work": kind, "size": subject.cfg.model.size, "images": images, "mode": name.partition(" ")[0]
            if name.startswith("fast") else name, "precision": switches.precision, "ms": 1000 * middle,
            "images_per_s": images / middle, "seconds": seconds[name],
            "ratio": median(p / s for p, s in zip(seconds["plain"], seconds[name])),
            "switches": switches._asdict(), **extra}

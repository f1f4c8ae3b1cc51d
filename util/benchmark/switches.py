"""The fast paths, each of which can be taken alone."""
from typing import NamedTuple

TRAIN, EVAL, GENERALISED = "training step", "evaluation", "generalised"


class Switches(NamedTuple):
    """Which fast paths are on; all of them off is the plain mode.

    precision: fp32, tf32 (CUDA only) or bf16. attention: model.clip.layers.attend, else nn.MultiheadAttention.
    text: names embedded once and only as long as the longest, else at every step with all positions.
    losses: all maps at once, upsampled by products, else F.interpolate and F.cross_entropy a map.
    optimiser: fused. held: frozen matrices kept in bf16, where that is the precision.
    maps: none made in evaluation. scoring: on the device, else in numpy. batched: several images at once in evaluation.
    shared: in generalised inference, the blocks before the text run once for all names.
    compiled, recomputed, cut: options compile, train.checkpoint_blocks and eval.fit=cut.
    deterministic: torch's mode while it runs. No fast path: runs are in it, and the released code is not; on CUDA
        F.interpolate becomes some forty small operations in it, which would be held against plain.
    """
    precision: str = "fp32"
    attention: bool = False
    text: bool = False
    losses: bool = False
    optimiser: bool = False
    held: bool = False
    maps: bool = False
    scoring: bool = False
    batched: bool = False
    shared: bool = False
    compiled: bool = False
    recomputed: bool = False
    cut: bool = False
    deterministic: bool = False


PLAIN = Switches()
OPTIONS = {"compiled": "option compile", "recomputed": "option train.checkpoint_blocks"}  # on top of all the others
WORDS = {
    "precision": "bf16 instead of fp32",
    "attention": "attention by model.clip.layers.attend instead of nn.MultiheadAttention",
    "text": "names embedded once, padding dropped",
    "losses": "losses of all maps at once, upsampled by products",
    "optimiser": "fused optimiser",
    "held": "frozen matrices kept in bf16",
    "maps": "no block maps in evaluation",
    "scoring": "pixels counted on the device, as evidence",
    "batched": "several images at once",
    "shared": "blocks before the text once for all names, names in chunks",
}
LEVERS = {
    TRAIN: ("precision", "attention", "text", "losses", "optimiser", "held"),
    EVAL: ("precision", "attention", "text", "maps", "scoring", "batched", "held"),
    GENERALISED: ("precision", "attention", "text", "maps", "scoring", "shared", "held"),
}


def fast(work: str, precision: str) -> Switches:
    """All fast paths of ``work`` at one precision."""
    levers = dict.fromkeys(LEVERS[work], True)
    return Switches(**{**levers, "precision": precision, "held": precision == "bf16", "deterministic": True})


def modes(work: str, precisions: list[str], compiled: bool) -> dict[str, Switches]:
    """{name: switches}: plain, all fast paths at each precision, and with the last outside training eval.fit=cut, which
    computes something else, and if ``compiled`` option compile.
    """
    found = {"plain": PLAIN, **{f"fast {precision}": fast(work, precision) for precision in precisions}}
    if work != TRAIN:
        found["fast, cut"] = fast(work, precisions[-1])._replace(cut=True)
    if compiled:
        found["fast, compiled"] = fast(work, precisions[-1])._replace(compiled=True)
    return found


def ladder(work: str, precision: str, options: tuple[str, ...] = ()) -> dict[str, Switches]:
    """{what: switches}: each fast path alone on top of plain, each one missing from all, and options on top of all."""
    whole, rungs = fast(work, precision), {}
    levers = [name for name in LEVERS[work] if getattr(whole, name) != getattr(PLAIN, name)]
    for name in levers:
        if name != "held":  # means nothing without bf16
            rungs[f"only {name}"] = PLAIN._replace(**{name: getattr(whole, name)})
    for name in levers:
        less = {name: getattr(PLAIN, name)}
        rungs[f"without {name}"] = whole._replace(**less, **({"held": False} if name == "precision" else {}))
    for name in options:
        rungs[f"with {name}"] = whole._replace(**{name: True})
    return rungs

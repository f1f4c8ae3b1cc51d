"""What was measured, as Markdown."""
from util.benchmark.cards import CARDS, RESERVED
from util.benchmark.switches import EVAL, GENERALISED, LEVERS, OPTIONS, TRAIN, WORDS

GIB = 2 ** 30


def markdown(found: dict) -> str:
    """The whole report; found: as written to benchmark.json."""
    parts = [_head(found), *(_work(found, kind) for kind in (TRAIN, EVAL, GENERALISED)),
             *(_ladder(found, kind) for kind in (TRAIN, EVAL, GENERALISED)), _memory(found), _loader(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * len(heads), *rows]])


def _head(found: dict) -> str:
    rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {precision}" for precision, rate in found["ceilings"].items())
    return (f"`{found['command']}`, {found['rounds']} rounds, {found['seconds'] / 60:.1f} minutes, code {found['code']}.\n"
            f"{found['device']}. {found['model']}, {found['names']} names. Ceiling (a square matmul): {rates}.")


def _work(found: dict, kind: str) -> str:
    rows = [r for r in found["rows"] if r["work"] == kind and "peak_bytes" in r]
    if not rows:
        return ""
    cells = [[r["mode"], r["precision"], str(r["size"]), str(r["images"]), f"{r['ms']:,.0f}", f"{r['images_per_s']:.3g}",
              f"{r['ratio']:.2f}", f"{r['peak_bytes'] / GIB:.2f}", f"{r['gflop_per_image']:,.3g}", f"{100 * r['mfu']:.0f} %"]
             for r in rows]
    return f"**{kind.capitalize()}**\n\n" + table(
        ["mode", "precision", "px", "images", "ms", "images/s", "times plain", "peak memory, GiB", "GFLOP an image", "MFU"],
        cells)


def _ladder(found: dict, kind: str) -> str:
    """Of the first size and batch: each fast path alone, and all without it."""
    rungs = [r for r in found["rows"] if r["work"] == kind and r["mode"].startswith(("only", "without", "with "))]
    if not rungs:
        return ""
    size, images = rungs[0]["size"], rungs[0]["images"]
    rows = [r for r in found["rows"] if r["work"] == kind and (r["size"], r["images"]) == (size, images)]
    plain = next(r for r in rows if r["mode"] == "plain")
    whole = next(r for r in rows if r["mode"] == "fast" and r["precision"] == found["ladder_precision"])

    def of(changes: dict, base: dict) -> dict | None:
        return next((r for r in rows if r["switches"] == {**base["switches"], **changes}), None)

    def cells(r: dict | None) -> list[str]:
        return ["-", "-"] if r is None else [f"{r['ms']:,.0f}", f"{r['ratio']:.2f}"]

    lines = [["nothing: plain", *cells(plain), *cells(whole)]]
    for name in LEVERS[kind]:
        on, off = whole["switches"][name], plain["switches"][name]
        if on != off:
            without = {name: off, **({"held": False} if name == "precision" else {})}
            lines.append([WORDS[name], *cells(of({name: on}, plain) if name != "held" else None),
                          *cells(of(without, whole))])
    lines += [[f"all, and {words}", "-", "-", *cells(of({name: True}, whole))] for name, words in OPTIONS.items()
              if of({name: True}, whole)]
    starts = [f"{OPTIONS[name]} takes {r['first_seconds']:.0f} s the first time" for name in ("compiled",)
              if (r := of({name: True}, whole)) and "first_seconds" in r]
    note = "".join(f"\n\n{line}." for line in starts)
    return (f"**{kind.capitalize()}, each fast path by itself** ({size} px, {images} images, {whole['precision']})\n\n"
            + table(["what", "alone: ms", "times plain", "all but it: ms", "times plain"], lines) + note)


def _memory(found: dict) -> str:
    rows = [[r["precision"], "yes" if r["checkpoint_blocks"] else "no", f"{r['fixed'] / GIB:.2f}",
             f"{1000 * r['image'] / GIB:,.0f}", *(str(r["largest"][str(gb)]) for gb in CARDS)] for r in found["memory"]]
    if not rows:
        return ""
    return (f"**Largest batch at {found['memory_size']} px**\n\n"
            + table(["precision", "checkpoint_blocks", "fixed, GiB", "an image, GiB / 1000",
                     *(f"{gb} GB card" for gb in CARDS)], rows)
            + f"\n\nA line through the measured peaks of training steps of {' and '.join(map(str, found['memory'][0]['measured']))} images "
              f"(weights, gradients, optimiser state and all that a step holds at once, with attention by torch's fused "
              f"kernel), solved for a card's memory less {RESERVED / GIB:.0f} GiB that is assumed for CUDA itself. "
            + ("Measured with torch.cuda.max_memory_allocated." if "cuda" in found["memory"][0]["device"] else
               "Measured by torch's allocator on this CPU; no card was asked."))


def _loader(found: dict) -> str:
    rows = [[f"{r['width']}x{r['height']} JPEG, {r['kilobytes']:.0f} kB, to {r['size']} px", what, f"{ms:.2f}",
             f"{1000 / ms:.0f}"] for r in found["loader"] for what, ms in r["whole"].items()]
    return "**Loader, on one core**\n\n" + table(["images", "samples for", "ms", "images/s"], rows) if rows else ""

"""What was measured, as Markdown."""
from util.benchmark.cards import CARDS, RESERVED
from util.benchmark.switches import EVAL, GENERALISED, LEVERS, OPTIONS, TRAIN, WORDS
from util.runtime.markdown import markdown_table

GIB = 2 ** 30


def markdown(found: dict) -> str:
    """The whole report; found: as written to benchmark.json."""
    parts = [_head(found), *(_work(found, kind) for kind in (TRAIN, EVAL, GENERALISED)),
             *(_ladder(found, kind) for kind in (TRAIN, EVAL, GENERALISED)), _memory(found), _loader(found),
             _fed(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(found: dict) -> str:
    rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {precision}" for precision, rate in found["ceilings"].items())
    return (f"`{found['command']}`, {found['rounds']} rounds, {found['seconds'] / 60:.1f} minutes, code "
            f"{found['code']}.\n"
            f"{found['device']}. {found['model']}, {found['names']} names. Ceiling (a square matmul): {rates}.")


def _work(found: dict, kind: str) -> str:
    rows = [r for r in found["rows"] if r["work"] == kind and "peak_bytes" in r]
    if not rows:
        return ""
    cells = [[r["mode"], r["precision"], str(r["size"]), str(r["images"]), f"{r['ms']:,.0f}",
              f"{r['images_per_s']:.3g}", f"{r['ratio']:.2f}", f"{r['peak_bytes'] / GIB:.2f}",
              f"{r['gflop_per_image']:,.4g}", f"{100 * r['mfu']:.0f} %"] for r in rows]
    heads = ["mode", "precision", "px", "images", "ms", "images/s", "times plain", "peak, GiB", "GFLOP an image", "MFU"]
    starts = [f"\n\nCompiled, {r['size']} px, {r['images']} images: {r['first_seconds']:.0f} s the first time."
              for r in rows if "first_seconds" in r]
    return f"**{kind.capitalize()}**\n\n{markdown_table(heads, cells)}{''.join(starts)}"


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
    return (f"**{kind.capitalize()}, each fast path by itself** ({size} px, {images} images, {whole['precision']})\n\n"
            + markdown_table(["what", "alone: ms", "times plain", "all but it: ms", "times plain"], lines))


def _memory(found: dict) -> str:
    if not found["memory"]:
        return ""
    rows = [[r["precision"], "yes" if r["checkpoint_blocks"] else "no", f"{r['fixed'] / GIB:.2f}",
             f"{r['image'] / GIB:.3f}", *(str(r["largest"][str(gb)]) for gb in CARDS)] for r in found["memory"]]
    first = found["memory"][0]
    how = "torch.cuda.max_memory_allocated" if first["device"].startswith("cuda") else (
        "what torch's allocator gives out on this CPU, with attention as CUDA's kernel keeps it; no card was asked")
    heads = ["precision", "checkpoint_blocks", "fixed, GiB", "an image, GiB", *(f"{gb} GB card" for gb in CARDS)]
    return (f"**Largest training batch at {found['memory_size']} px**\n\n{markdown_table(heads, rows)}\n\n"
            f"A model: the line through the peaks of steps of {' and '.join(map(str, first['measured']))} images "
            f"(weights, gradients, optimiser state, activations and passing tensors), solved for a card's memory less "
            f"{RESERVED / GIB:.0f} GiB, assumed for CUDA and fragmentation. Peaks: {how}.")


def _loader(found: dict) -> str:
    rows = [[f"{r['width']}x{r['height']} JPEG, {r['kilobytes']:.0f} kB, to {r['size']} px", what, f"{ms:.2f}",
             f"{1000 / ms:.0f}"] for r in found["loader"] for what, ms in r["whole"].items()]
    heads = ["images", "samples for", "ms", "images/s"]
    return "**Loader, on one core**\n\n" + markdown_table(heads, rows) if rows else ""


def _fed(found: dict) -> str:
    rows = [[r["precision"], str(r["size"]), str(r["images"]), str(r["workers"]), str(r["steps"]), f"{r['ms']:,.0f}",
             f"{100 * r['waiting']:.1f} %"] for r in found["fed"]]
    heads = ["precision", "px", "images", "loader workers", "steps", "ms a step", "of it waiting for images"]
    return "**Training as the loader feeds it**\n\n" + markdown_table(heads, rows) if rows else ""

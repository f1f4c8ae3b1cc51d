"""The samples of a test as a small text file, so that two codebases, or two machines, can score the same ones.

    python -m data.manifest --config config/pascal/esda.yaml fold=0 > lists/pascal/episodic_fold0.txt

A line is a mask, a class id and the class's name; lines that begin with # are remarks. ``eval.manifest=FILE`` scores
these samples instead of drawing them.
"""
import sys
from pathlib import Path

from data.folds import Classes
from data.index import Index
from data.samples import Sample
from util.config import from_command_line
from util.runtime.errors import UserError, require_file, run_main


def write_manifest(samples: list[Sample], index: Index, classes: Classes, remark: str) -> str:
    """The text of a manifest."""
    lines = [f"{index.pairs[s.row][1]} {s.class_id} {classes.name(s.class_id)}" for s in samples]
    return "\n".join([f"# {remark}", "# mask, class id, class name", *lines]) + "\n"


def read_manifest(path: str | Path, index: Index, classes: Classes, allowed: tuple[int, ...]) -> list[Sample]:
    """The samples of a manifest, in its order and as often as they stand there.

    Raises UserError, naming the line, for a mask that the index's list does not name, and for a class that is not among
    the ``allowed`` ids or has another name here.
    """
    require_file(path, "eval.manifest names a file of python -m data.manifest")
    rows = {mask: row for row, (_, mask) in enumerate(index.pairs)}
    samples = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        parts = line.split(maxsplit=2)
        if not parts or parts[0].startswith("#"):
            continue
        where = f"{path}:{number}"
        if len(parts) != 3 or not parts[1].isdecimal():
            raise UserError(f"{where}: {line!r} should be a mask, a class id and the class's name")
        mask, class_id, name = parts[0], int(parts[1]), parts[2].strip()
        if mask not in rows:
            raise UserError(f"{where}: {mask} is not in {index.list_file}; the manifest is of another list")
        if class_id not in allowed or classes.name(class_id) != name:
            names = ", ".join(f"{c} {classes.name(c)}" for c in allowed)
            raise UserError(f"{where}: {class_id} {name} is none of this fold's unseen classes ({names}); check fold and "
                            f"data.classes")
        samples.append(Sample(rows[mask], class_id))
    if not samples:
        raise UserError(f"{path}: holds no samples; make it again")
    return samples


def main() -> None:
    from data.fold import FoldData  # which reads manifests
    cfg = from_command_line(sys.argv[1:])
    data = FoldData(cfg)
    samples = data.draws()[0]
    print(write_manifest(samples, data.index, data.classes,
                         f"{cfg.dataset} fold {cfg.fold}, {cfg.eval.protocol}, {len(samples)} samples of "
                         f"{cfg.data.val_list}, classes from {cfg.data.min_pixels} px on, seed {cfg.eval.seed}"), end="")


if __name__ == "__main__":
    run_main(main)

"""The files of results: their names, whether they are there already, and writing them whole or not at all."""
import io
import itertools
import json
import os
from pathlib import Path

import numpy as np

from util.predict.result import Result
from util.run.atomic import write_bytes_atomically
from util.runtime.errors import UserError

REMEDY = "free some space or choose another folder with --out, then start the same command again"
MOST_PROBABILITIES = 1 << 30    # values in one file, 2 GB in fp16
LONGEST = 200                   # bytes of NAME; most systems allow 255 with what stands before and behind it
SUFFIXES = (".overlay.png", ".mask.png", ".mask-1.png", ".probabilities.npz", ".json")


class Outputs:
    """A folder of results, OUT/NAME.overlay.png, .mask.png, .json and, if asked for, .probabilities.npz.

    NAME is the image's without its suffix, cut where it is very long. Where it belongs to results of another image, or
    nobody can tell whose, it is NAME-2, NAME-3 and so on. The JSON is written last: it says that the rest is whole.

    options: what decides the results besides the image, plain values; results made with others are made again.
    """

    def __init__(self, folder: Path, options: dict, probabilities: bool):
        self.folder, self.options, self.probabilities = folder, options, probabilities
        self._given: dict[Path, Path] = {}      # {image: OUT/NAME}

    def place(self, image: Path) -> tuple[Path, str]:
        """OUT/NAME of an image, and what is there: "new", "done", or "other" for results made with other options."""
        taken, name = set(self._given.values()), image.stem
        if len(os.fsencode(name)) > LONGEST:
            name = os.fsencode(name)[:LONGEST].decode(errors="ignore")
        for number in itertools.count(1):
            stem = self.folder / (name if number == 1 else f"{name}-{number}")
            if stem in taken:
                continue
            about = _read_json(_with(stem, ".json"))
            if about is not None and about["image"].get("file") == str(image.resolve()):
                whole = all((self.folder / file).is_file() for file in about.get("files", ()))
                state = "done" if whole and about.get("made_from") == self._made_from(image) else "other"
                break
            if not any(os.path.lexists(_with(stem, suffix)) for suffix in SUFFIXES):
                state = "new"
                break
        self._given[image] = stem
        return stem, state

    def write(self, image: Path, result: Result) -> Path:
        """Write the files of one image and return the overlay's path. Raises UserError where that is not possible."""
        stem = self._given[image]
        files = {".overlay.png": result.overlay_png(), ".mask.png": result.mask_png()}
        if result.separate:
            files |= {f".mask-{k + 1}.png": result.mask_png(k) for k in range(len(result.names))}
        if self.probabilities:
            files[".probabilities.npz"] = _npz(result)
        about = {"image": {"file": str(image.resolve()), "width": result.image.shape[1],
                           "height": result.image.shape[0]},
                 **result.json(), "files": [_with(stem, suffix).name for suffix in files],
                 "made_from": self._made_from(image)}
        # A path that is not UTF-8 holds lone surrogates, which JSON writes as \\udcff.
        files[".json"] = (json.dumps(about, ensure_ascii=False, indent=1) + "\n").encode(errors="backslashreplace")
        for suffix, data in files.items():
            write_bytes_atomically(_with(stem, suffix), data, REMEDY, durable=False)
        return _with(stem, ".overlay.png")

    def _made_from(self, image: Path) -> dict:
        status = image.stat()
        return {"bytes": status.st_size, "modified": status.st_mtime_ns, **self.options}


def require_probabilities_fit(image: Path, pixels: np.ndarray, names: int) -> None:
    """Raises UserError where the probabilities of so many names in ``pixels`` (H, W, 3) are too much for one file."""
    height, width = pixels.shape[:2]
    if names * height * width > MOST_PROBABILITIES:
        raise UserError(f"{image}: the probabilities of {names} names at {width} x {height} px are more than "
                        f"{MOST_PROBABILITIES:,} values; leave --prob away or ask for fewer names")


def require_writable(folder: Path) -> None:
    """Make the folder and try to write into it, before anything long begins. Raises UserError."""
    remedy = "choose another folder with --out"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the folder for results cannot be made ({error.strerror}); {remedy}") from None
    attempt = folder / ".predict.part"
    write_bytes_atomically(attempt, b"", remedy, durable=False)
    attempt.unlink()


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _read_json(path: Path) -> dict | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("image"), dict) else None


def _npz(result: Result) -> bytes:
    out, maps = io.BytesIO(), [result.probability(k).astype(np.float16) for k in range(len(result.names))]
    np.savez_compressed(out, names=np.array(result.names), probabilities=np.stack(maps))
    return out.getvalue()

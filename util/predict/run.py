"""Files in, files out: what predict.py does from the request to the last result."""
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from util.predict.command import Request
from util.predict.images import read
from util.predict.names import listed, unfamiliar
from util.predict.outputs import Outputs, require_probabilities_fit, require_writable
from util.predict.result import Result
from util.predict.segmenter import Segmenter, require_room_to_zoom
from util.predict.shipped import SHIPPED, is_scene, notes_on
from util.runtime.errors import UserError, tell
from util.runtime.progress import progress
from util.runtime.stop import Stopped, StopRequest

PIXELS_AT_ONCE = 1 << 26    # of the images that wait for the network together


def predict_files(request: Request, stop: StopRequest) -> int:
    """Predict the images of a request and write the results; the exit status, 1 where an image was skipped.

    A signal waits until the images under way are written. Raises Stopped then, and UserError, after the others have
    been tried, where not one image could be read.
    """
    require_writable(request.out)
    segmenter = Segmenter.load(**request.load)
    outputs = Outputs(request.out, _options(request, segmenter), request.probabilities)
    places = {file: outputs.place(file) for file in request.images}
    todo = [file for file, (_, state) in places.items() if request.redo or state != "done"]
    for line in _notes(request, segmenter):
        tell(f"note: {line}")
    skipped: list[UserError] = []
    written, scenes = 0, not _shipped(request)
    with stop:
        for file, result in progress(_results(segmenter, todo, request), "predicting", len(todo)):
            if isinstance(result, UserError):
                skipped.append(result)
                if len(request.images) > 1:
                    _say(f"skipped: {result}", sys.stderr)
            else:
                if not scenes and not is_scene(result.image.shape):
                    scenes = True  # said once is enough
                    _say(f"note: {file} is no 128 x 128 px scene of Shapes-5i, the only ones that this model has met; "
                         f"what it finds there means nothing. For photographs: --model naclip", sys.stderr)
                overlay = outputs.write(file, result)
                written += 1
                _say(f"{file}: {result.summary()} -> {overlay}")
            if stop.number is not None:
                raise Stopped(stop.number, f" after {written} of {len(todo)} images, which are whole; the same command "
                                           f"goes on with the others")
    if skipped and len(skipped) == len(request.images):
        raise UserError(str(skipped[0]) if len(skipped) == 1 else f"none of the {len(skipped)} images could be "
                        f"predicted; the lines above say why")
    there = len(request.images) - len(todo)
    other = sum(state == "other" for _, state in places.values())
    parts = [f"{written} written", f"{other} of them in place of results made with other words, options or images" * (
        other > 0), f"{there} there already (--redo makes them again)" * (there > 0),
        f"{len(skipped)} skipped" * bool(skipped)]
    print(f"{request.out}: {', '.join(filter(None, parts))}")
    return int(bool(skipped))


def _results(segmenter: Segmenter, files: list[Path], request: Request) -> Iterator[tuple[Path, Result | UserError]]:
    """Each file in order, with its result or with why it could not be read."""
    group: list[tuple[Path, np.ndarray | UserError]] = []
    for file in files:
        try:
            image = read(file)
            if request.probabilities:
                require_probabilities_fit(file, image, len(request.names))
            if request.zoom:
                require_room_to_zoom(image, len(request.names + request.others), str(file))
            group.append((file, image))
        except UserError as error:
            group.append((file, error))
        images = [image for _, image in group if isinstance(image, np.ndarray)]
        if len(group) >= segmenter.at_once or sum(image[..., 0].size for image in images) > PIXELS_AT_ONCE:
            yield from _of_group(segmenter, group, request)
            group = []
    yield from _of_group(segmenter, group, request)


def _of_group(segmenter: Segmenter, group, request: Request) -> Iterator[tuple[Path, Result | UserError]]:
    images = [image for _, image in group if isinstance(image, np.ndarray)]
    results = iter(segmenter.batch(images, request.names, others=request.others, threshold=request.threshold,
                                   separate=request.separate, zoom=request.zoom) if images else [])
    for file, image in group:
        yield file, image if isinstance(image, UserError) else next(results)


def _options(request: Request, segmenter: Segmenter) -> dict:
    threshold = segmenter.threshold if request.threshold is None else request.threshold
    about = {**segmenter.about, "checkpoint": (segmenter.about["checkpoint"] or {}).get("fingerprint")}
    return {"names": request.names, "others": request.others, "threshold": threshold, "separate": request.separate,
            "zoom": request.zoom, "probabilities": request.probabilities, "model": about}


def _notes(request: Request, segmenter: Segmenter) -> Iterator[str]:
    """What a user must know to read the results."""
    asked = request.names + request.others
    if _shipped(request):
        yield f"without --weights this is the shipped Shapes-5i model ({SHIPPED.name}), which knows no photographs"
        yield from notes_on(asked)
    if request.threshold is None and not segmenter.calibrated:
        yield (f"scores below {segmenter.threshold:g} count as not found, and this threshold is not calibrated: the "
               f"checkpoint holds none; set one with --threshold")
    if request.load["model"]:
        yield (f"{request.load['model']} finds each name somewhere, for its map is stretched to 0..1 in every image; "
               f"several names, or --others, keep it to the better places")
    strange_letters = unfamiliar(asked)
    if strange_letters:
        yield f"{listed(strange_letters)}: CLIP has learned from English captions; an English word may find more"


def _shipped(request: Request) -> bool:
    return not request.load["weights"] and not request.load["model"]


def _say(line: str, stream=None) -> None:
    """Print a line above the progress bar."""
    tqdm.write(line.encode(errors="backslashreplace").decode(), file=stream or sys.stdout)

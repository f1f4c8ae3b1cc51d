"""Trained weights from a checkpoint of any format, with the CLIP that they stand on."""
from typing import NamedTuple

from model.checkpoints import FullCheckpoint, full_checkpoint
from model.clip.weights import ClipWeights
from util.run import checkpoint
from util.run.trained import require_threshold, trained_checkpoint
from util.runtime.errors import UserError


class TrainedWeights(NamedTuple):
    """What a checkpoint gives to a model.

    saved: as train.py saves it (checkpoint.WEIGHTS, and presence_threshold in some); its ``config`` is None in a
        released checkpoint, which has none.
    clip: CLIP's weights, where the file carries them or its training started from a file that does; None: those of
        model.clip.
    """
    file: str
    saved: dict
    clip: ClipWeights | None
    full: FullCheckpoint | None


def read_weights(file: str, remedy: str, later: tuple[str, ...] = ()) -> TrainedWeights:
    """Read best.pt or last.pt of a run, a .safetensors of convert.py of either kind, or a released checkpoint.

    later: as in carried_clip. Raises UserError or WeightsError for a file that is none of these, and for one with a
    missing or odd entry.
    """
    content = checkpoint.read(file, remedy)
    saved = trained_checkpoint(content, file)
    if saved is None:
        full = full_checkpoint(content, file)
        if full is not None:
            return TrainedWeights(file, full.saved, full.clip, full)
        saved = content
    checkpoint.require_entries(saved, checkpoint.WEIGHTS, file, f"{remedy}: checkpoints/best.pt of a run, a "
                               f".safetensors of convert.py or a released checkpoint")
    require_threshold(saved, file)
    return TrainedWeights(file, saved, carried_clip(saved, file, later), None)


def carried_clip(saved: dict, file: str, later: tuple[str, ...] = ()) -> ClipWeights | None:
    """CLIP from the file that this run of training started from, where that file carries its own; else None.

    later: the files whose training led here. Raises UserError where one of them is the start again.
    """
    try:
        start = saved["trained_on"]["start"]
        file_of_start = start["carries_clip"] and start["file"]
    except (KeyError, TypeError):
        file_of_start = None
    if not file_of_start:
        return None
    later = (*later, file)
    if str(file_of_start) in later:
        raise UserError(f"{file}: says that it was trained from {file_of_start}, which was trained from it; so neither "
                        f"carries the CLIP that it stands on")
    return read_weights(str(file_of_start), f"{file} was trained from it and stands on the CLIP in it", later).clip

"""Which epoch of a run is tested in the end (``train.select``): the rules, and where each keeps its weights."""
from typing import NamedTuple


class Selection(NamedTuple):
    words: str          # as results and logs say it
    file: str           # the epoch's weights, in the run's checkpoints/
    score: str | None   # of an epoch's scores, the one that is to be highest


SELECTIONS = {
    "unseen": Selection("best epoch by unseen-class mIoU", "best.pt", "miou"),
    "seen": Selection("best epoch by mIoU on held-out images of seen classes", "best_seen.pt", "seen_miou"),
    "last": Selection("last epoch", "last.pt", None),
}

"""Whether a name is there at all: one number from its map of evidence."""
from torch import Tensor

SHARE = 1 / 256     # of a map's pixels: an object of a sixteenth of each side


def presence(evidence: Tensor) -> Tensor:
    """The mean of the highest 1/256 of a map's evidences (foreground minus background logit): (..., H, W) to (...)."""
    flat = evidence.flatten(-2)
    return flat.topk(max(1, round(SHARE * flat.shape[-1])), dim=-1).values.mean(dim=-1)

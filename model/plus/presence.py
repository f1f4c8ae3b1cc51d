"""Whether the named thing is in the image at all: a question of its own, so that the mask need not answer it."""
import math

from torch import Tensor, nn


class PresenceHead(nn.Module):
    """Each patch says how surely it shows the thing, and the surest ones decide.

    A mask that is trained on absent names learns to stay empty where it is unsure, and unseen things are what it is
    least sure of: on Shapes-5i that took 3 mIoU (docs/plus.md). Here absent names train this head and, through it, the
    interactor; the mask's loss leaves them out.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.read = nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """patches (B, n, width) of the interactor to logits (B,) fp32: a soft maximum over the patches."""
        each = self.read(self.norm(patches))[..., 0].float()                 # (B, n)
        return each.logsumexp(dim=1) - math.log(each.shape[1])

"""Base of models that compare a name with others, which have to be *seen* ones."""
import torch.nn.functional as F
from torch import Tensor

from model.esda import NamedSegmenter

SAME_NAME = 0.9999      # cosine from which on a rival is the name asked for; other words stay below it


class Comparing(NamedSegmenter):
    """Segmenter with rivals (R, D): unit vectors, saved in the state_dict; None before they are set or loaded."""

    def __init__(self, *clip):
        super().__init__(*clip)
        self.register_buffer("rivals", None)

    def set_rivals(self, names: Tensor) -> None:
        """Set the rivals (R, D), *seen* classes alone: with unseen ones the model would know the test's names."""
        self.rivals = F.normalize(names.detach().float(), dim=-1)

    def others(self, name: Tensor) -> Tensor:
        """Tell which rivals differ from each of the unit vectors ``name`` (B, D): (B, R) bool."""
        return name @ self.rivals.T < SAME_NAME

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest) -> None:
        if f"{prefix}rivals" in state_dict:     # as many as the checkpoint has, in place of any that were set
            self.rivals = self.pixel_mean.new_empty(state_dict[f"{prefix}rivals"].shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)

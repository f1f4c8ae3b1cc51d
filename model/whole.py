"""A checkpoint that carries CLIP along: the authors' released format, and ours in safetensors, as one thing."""
import json
from typing import NamedTuple

from torch import Tensor

from model.clip.weights import ClipWeights, WeightsError, fingerprint_of
from model.released import check, from_released, to_released

ADDED = ("image_encoder.text_proj.", "image_encoder.branches.", "interactor.", "decoder.")  # to CLIP, by ESDA


class Whole(NamedTuple):
    """All of an ESDA's state dict.

    state: under our names, values and types as in the file. The image position embedding is at the training grid.
    epoch: in which it was saved, as its file counts. config: the options of its run as plain values; None: not known.
    trained_on: what it was trained on, as checkpoints of train.py have it; None: not known.
    """
    state: dict[str, Tensor]
    epoch: int
    config: dict | None
    trained_on: dict | None = None

    @property
    def trained(self) -> dict[str, Tensor]:
        """What training changed, as ESDA.trainable_state."""
        return {name: tensor for name, tensor in self.state.items() if name.startswith(ADDED)}

    @property
    def saved(self) -> dict:
        """As train.py's checkpoints are: what was trained, and on which CLIP."""
        return {"model": self.trained, "clip": self.clip.fingerprint, "epoch": self.epoch, "config": self.config,
                **({"trained_on": self.trained_on} if self.trained_on else {})}

    @property
    def clip(self) -> ClipWeights:
        """What it stands on. The fingerprint is of the tensors carried, and so not that of CLIP's own file."""
        frozen = {name: tensor for name, tensor in self.state.items() if not name.startswith(ADDED)}
        visual, text = ({name.removeprefix(prefix): tensor.float() for name, tensor in frozen.items()
                         if name.startswith(prefix)} for prefix in ("image_encoder.", "text_encoder."))
        return ClipWeights(visual, text, None, fingerprint_of(frozen))

    def summary(self, size: int | None = None) -> str:
        """One line on what there is, and on what an input of ``size`` px makes of the position embedding."""
        patch = self.state["image_encoder.conv1.weight"].shape[-1]
        grid = round((len(self.state["image_encoder.positional_embedding"]) - 1) ** 0.5)
        line = (f"{len(self.state)} tensors, {len(self.trained)} trained and {len(self.state) - len(self.trained)} of "
                f"CLIP, all placed; image position embedding at {grid} x {grid} patches")
        return line if size in (None, grid * patch) else f"{line}, resized to {size // patch} x {size // patch}"


def whole_of(content: dict, path) -> Whole | None:
    """What util/run/checkpoint.py read from ``path`` as one thing; None where it is of neither format.

    Raises WeightsError that names every tensor which is missing, superfluous or of another shape.
    """
    if content.keys() == {"tensors", "metadata"}:
        return _from_safetensors(content["tensors"], content["metadata"], path)
    if "state_dict" not in content:
        return None
    state = content["state_dict"]
    if not isinstance(content.get("epoch"), int) or not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()):
        raise WeightsError(f"{path}: not a released checkpoint, which holds an epoch and a state_dict of tensors")
    return Whole(from_released(state, path), content["epoch"], None)


def _from_safetensors(state: dict[str, Tensor], metadata: dict[str, str], path) -> Whole:
    check(state, path)
    try:
        whole = Whole(state, int(metadata["epoch"]), json.loads(metadata["config"]),
                      json.loads(metadata.get("trained_on", "null")))
        known = metadata["fingerprint"]
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: not written by convert.py: its metadata lacks {error}") from None
    if whole.clip.fingerprint != known:
        raise WeightsError(f"{path}: CLIP's tensors are not those that the file's fingerprint tells of; convert again")
    return whole


def safetensors_content(whole: Whole) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of our format."""
    return whole.state, {"epoch": str(whole.epoch), "config": json.dumps(whole.config),
                         "trained_on": json.dumps(whole.trained_on), "fingerprint": whole.clip.fingerprint}


def released_content(whole: Whole, path) -> dict:
    """What torch.save makes a released checkpoint of. The optimiser's state has not been kept."""
    return {"epoch": whole.epoch, "state_dict": to_released(whole.state, path), "optimizer": {}}

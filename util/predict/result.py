"""What was found in one image: masks at its own size, scores, and the forms in which they are shown and stored."""
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image
from torch import Tensor

from util.predict.overlay import overlay, palette
from util.runtime import rle

TOLD = 8    # names of which a line tells that they were not found


@dataclass(frozen=True, eq=False)
class Result:
    """K names in an image of (H, W) pixels. What is large is computed when it is first asked for.

    A name takes part if its score reaches the threshold. A pixel goes to the name with the highest evidence of those
    that take part, rival words among them, where that is above 0; so masks do not overlap. With ``separate`` each name
    that takes part has all pixels where its own evidence is above 0. A name is *found* if its mask is not empty.
    """
    image: np.ndarray           # (H, W, 3) uint8 RGB, upright
    names: list[str]
    others: list[str]           # rival words, R of them
    threshold: float            # 0..1
    separate: bool
    about: dict                 # of the model
    _scores: np.ndarray = field(repr=False)     # (K + R,)
    _evidence: Sequence[Tensor] = field(repr=False)     # K + R times (h, w) fp32, at the network's size
    _to_original: Callable[[Tensor], Tensor] = field(repr=False)    # (h, w) to (H, W)

    @property
    def scores(self) -> np.ndarray:
        """(K,) float32 in 0..1: how surely a name is there (util/predict/segmenter.py)."""
        return self._scores[:len(self.names)]

    @property
    def found(self) -> np.ndarray:
        """(K,) bool."""
        return self.areas > 0

    def evidence(self, k: int) -> np.ndarray:
        """(H, W) float32 of name ``k``, from 0: foreground minus background logit, whatever else was asked for."""
        return self._to_original(self._evidence[k]).numpy()

    @cached_property
    def labels(self) -> np.ndarray:
        """(H, W) uint8: 0 none, k + 1 where name k has the strongest evidence of all that take part."""
        labels = np.zeros(self.image.shape[:2], np.uint8)
        strongest = np.zeros(labels.shape, np.float32)  # that a name must exceed
        for k in np.flatnonzero(self._scores >= self.threshold):
            evidence = self.evidence(k)
            labels[evidence > strongest] = k + 1
            np.maximum(strongest, evidence, out=strongest)
        labels[labels > len(self.names)] = 0
        return labels

    @cached_property
    def masks(self) -> np.ndarray:
        """(K, H, W) bool."""
        return np.stack([self.mask(k) for k in range(len(self.names))])

    def mask(self, k: int) -> np.ndarray:
        """(H, W) bool of name ``k``, from 0."""
        if self.separate:
            return self.evidence(k) > 0 if self.scores[k] >= self.threshold else np.zeros(self.image.shape[:2], bool)
        return self.labels == k + 1

    @property
    def probabilities(self) -> np.ndarray:
        """(K, H, W) float32 in 0..1, the sigmoid of each name's own evidence: neither threshold nor rivals count."""
        return np.stack([self.probability(k) for k in range(len(self.names))])

    def probability(self, k: int) -> np.ndarray:
        """(H, W) float32 in 0..1 of name ``k``, from 0."""
        return 1 / (1 + np.exp(-self.evidence(k)))

    @cached_property
    def areas(self) -> np.ndarray:
        """(K,) int64, pixels of each mask."""
        if self.separate:
            return np.array([np.count_nonzero(self.mask(k)) for k in range(len(self.names))])
        return np.bincount(self.labels.ravel(), minlength=len(self.names) + 1)[1:]

    @property
    def shares(self) -> np.ndarray:
        """(K,) float64 in 0..1 of the image's pixels."""
        return self.areas / self.image[..., 0].size

    def box(self, k: int) -> list[int] | None:
        """[x, y, width, height] in px round the mask of name ``k``, as COCO has it; None where it is empty."""
        rows, columns = (np.flatnonzero(self.mask(k).any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return None
        x, y = int(columns[0]), int(rows[0])
        return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]

    def rle(self) -> list[dict]:
        """Each mask as {"size": [H, W], "counts": text}, which pycocotools.mask.decode reads."""
        return [rle.encode(self.mask(k)) for k in range(len(self.names))]

    def overlay(self) -> np.ndarray:
        """(H', W', 3) uint8 RGB: the image with outlines, and below it a legend with name, score and share."""
        return overlay(self)

    def mask_png(self, k: int | None = None) -> bytes:
        """An indexed PNG with a palette, of the size (H, W): 0 none, then the names in their order.

        k: of the mask of one name alone, under the same index. Without it, overlaps go to the strongest evidence.
        """
        indices = self.labels if k is None else self.mask(k) * np.uint8(k + 1)
        image, out = Image.fromarray(indices), io.BytesIO()
        image.putpalette([0, 0, 0, *palette(len(self.names)).ravel().tolist()])
        image.save(out, "PNG")
        return out.getvalue()

    def overlay_png(self) -> bytes:
        """``overlay`` as a PNG file."""
        out = io.BytesIO()
        Image.fromarray(self.overlay()).save(out, "PNG")
        return out.getvalue()

    def json(self) -> dict:
        """All but the pixels as plain values, ready for json.dumps."""
        height, width = self.image.shape[:2]
        found = [{"name": name, "found": bool(self.found[k]), "score": round(float(self.scores[k]), 4),
                  "area": int(self.areas[k]), "share": round(float(self.shares[k]), 6), "box": self.box(k),
                  "rle": rle.encode(self.mask(k))} for k, name in enumerate(self.names)]
        return {"width": width, "height": height, "names": found, "threshold": round(self.threshold, 4),
                "others": list(self.others), "separate": self.separate, "model": self.about}

    def summary(self) -> str:
        """One line: each name with its score and share, or that it was not found; of many names only the found ones."""
        told = [k for k in range(len(self.names)) if self.found[k] or len(self.names) <= TOLD]
        rest = len(self.names) - len(told)
        return ", ".join([f"{self.names[k]} {self.fact(k)}" for k in told] + [f"{rest} names not found"] * (rest > 0))

    def fact(self, k: int) -> str:
        """What there is to say of name ``k`` in a legend."""
        if self.found[k]:
            return f"{self.scores[k]:.2f} ({100 * self.shares[k]:.1f} %)"
        why = ", its places went to others" if self.scores[k] >= self.threshold and self.scores[k] > 0.5 else ""
        return f"not found ({self.scores[k]:.2f}{why})"

"""Result of one image: masks at its own size, scores, and the forms in which they are shown and stored."""
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from PIL import Image
from torch import Tensor

from util.predict.overlay import overlay, palette
from util.runtime import rle

SURE = 1e-6     # a score nearer to 0 or 1 counts as this far


@dataclass(frozen=True, eq=False)
class Result:
    """K names in an image of (H, W) pixels; what is large is computed when it is first asked for.

    A name takes part if its score reaches the threshold. Where several of those, rival words among them, have a
    positive logit margin, a pixel goes to the highest sum of margin and score (as a logit), so masks do not overlap;
    with ``separate`` each gets all pixels of positive margin of its own. A name is *found* if its mask is not empty.
    """
    image: np.ndarray           # (H, W, 3) uint8 RGB, upright
    names: list[str]
    others: list[str]           # rival words, R of them
    threshold: float            # 0..1
    separate: bool
    about: dict                 # of the model
    _scores: np.ndarray = field(repr=False)     # (K + R,)
    _margins: Tensor = field(repr=False)        # (K + R, h, w) fp32, at the network's size
    _to_original: Callable[[Tensor], Tensor] = field(repr=False)    # (h, w) to (H, W)

    @property
    def scores(self) -> np.ndarray:
        """Scores (K,) float32 in 0..1, see util/predict/segmenter.py."""
        return self._scores[:len(self.names)]

    def margin(self, k: int) -> np.ndarray:
        """Compute the logit margin (H, W) float32 of name ``k``, from 0, whatever else was asked for."""
        return self._to_original(self._margins[k]).numpy()

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels (H, W) uint8: 0 none, k + 1 where name k has the highest claim of all that take part."""
        labels = np.zeros(self.image.shape[:2], np.uint8)
        highest = np.full(labels.shape, -np.inf, np.float32)
        sure = self._scores.clip(SURE, 1 - SURE)
        for k in np.flatnonzero(self._scores >= self.threshold):
            margin = self.margin(k)
            claim = margin + np.log(sure[k] / (1 - sure[k]))
            wins = (margin > 0) & (claim > highest)
            labels[wins], highest[wins] = k + 1, claim[wins]
        labels[labels > len(self.names)] = 0
        return labels

    @cached_property
    def masks(self) -> np.ndarray:
        """Masks (K, H, W) bool."""
        return np.stack([self.mask(k) for k in range(len(self.names))])

    def mask(self, k: int) -> np.ndarray:
        """Return the mask (H, W) bool of name ``k``, from 0."""
        if self.separate:
            return (self.margin(k) > 0) & (self.scores[k] >= self.threshold)
        return self.labels == k + 1

    @cached_property
    def areas(self) -> np.ndarray:
        """Areas (K,) int64 of the masks, in pixels."""
        return np.array([np.count_nonzero(self.mask(k)) for k in range(len(self.names))])

    @property
    def found(self) -> np.ndarray:
        """Flags (K,) bool: the mask is not empty."""
        return self.areas > 0

    @property
    def shares(self) -> np.ndarray:
        """Shares (K,) float64 in 0..1 of the image's pixels."""
        return self.areas / self.image[..., 0].size

    def rle(self) -> list[dict]:
        """Encode each mask as {"size": [H, W], "counts": text}, which pycocotools.mask.decode reads."""
        return [rle.encode(self.mask(k)) for k in range(len(self.names))]

    overlay = overlay   # (H', W', 3) uint8 RGB: outlines, and below a legend with names, scores and shares

    def overlay_png(self) -> bytes:
        return _png(Image.fromarray(self.overlay()))

    def mask_png(self, k: int | None = None) -> bytes:
        """Encode an indexed PNG (H, W): 0 none, k + 1 name k; k: this mask alone, else overlaps go by margin."""
        image = Image.fromarray(self.labels if k is None else self.mask(k) * np.uint8(k + 1))
        image.putpalette([0, 0, 0, *palette(len(self.names)).ravel().tolist()])
        return _png(image)

    def json(self) -> dict:
        """Convert all but the pixels to plain values for json.dumps; box: COCO's [x, y, width, height] in px."""
        (height, width), areas = self.image.shape[:2], self.areas.tolist()
        found = [{"name": name, "found": area > 0, "score": round(float(self.scores[k]), 4), "area": area,
                  "share": round(float(self.shares[k]), 6),
                  "box": list(cv2.boundingRect(self.mask(k).astype(np.uint8))) if area else None,
                  "rle": code} for k, (name, area, code) in enumerate(zip(self.names, areas, self.rle()))]
        return {"width": width, "height": height, "names": found, "threshold": round(self.threshold, 4),
                "others": list(self.others), "separate": self.separate, "model": self.about}

    def summary(self) -> str:
        """Summarise in one line each name's score and share, or that it was not found."""
        return ", ".join(f"{name} {self.fact(k)}" for k, name in enumerate(self.names))

    def fact(self, k: int) -> str:
        if self.found[k]:
            return f"{self.scores[k]:.2f} ({100 * self.shares[k]:.1f} %)"
        why = ""
        if self.scores[k] >= max(self.threshold, 0.5):
            why = ", its places went to others" if (self.margin(k) > 0).any() else ", but at no place"
        return f"not found ({self.scores[k]:.2f}{why})"


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()

"""A model of a training step's memory, fitted to measured steps, and the largest batch it gives each card."""
import contextlib
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F

from model.clip import layers
from util.benchmark.peak import peak_bytes
from util.benchmark.subject import Subject, Variant
from util.benchmark.switches import TRAIN, fast
from util.benchmark.works import Work

CARDS = (12, 24, 80)          # GB, as cards are sold; taken for GiB, which is what they have
GIB = 2 ** 30
RESERVED = 1 * GIB            # for CUDA's context, cuBLAS' and cuDNN's workspaces and what fragmentation loses: assumed


class Line(NamedTuple):
    """Peak bytes of a step: ``fixed`` whatever the batch, and ``image`` for each image at once."""
    fixed: float
    image: float

    @staticmethod
    def through(measured: dict[int, int]) -> "Line":
        """The line of least squares; measured: {images: bytes}."""
        image, fixed = np.polyfit(list(measured), list(measured.values()), 1)
        return Line(float(fixed), float(image))

    def at(self, images: int) -> float:
        return self.fixed + images * self.image

    def largest(self, memory: float) -> int:
        """The most images whose step fits into ``memory`` bytes; 0 where none does."""
        return max(0, int((memory - self.fixed) // max(self.image, 1)))


def measure(subject: Subject, precision: str, recomputed: bool, batches: tuple[int, ...]) -> dict:
    """One row: the line through steps of ``batches`` images, its points, and the largest batch of each card."""
    points = {}
    variant = Variant(subject, fast(TRAIN, precision)._replace(recomputed=recomputed))
    variant.start_optimizer()
    with _attention_as_on_cuda():
        for images in batches:
            points[images] = peak_bytes(Work(TRAIN, subject, images).call(variant), variant, subject.device)
    line = Line.through(points)
    return {"device": str(subject.device), "precision": precision, "checkpoint_blocks": recomputed,
            "measured": points, "fixed": line.fixed, "image": line.image,
            "largest": {str(gb): line.largest(gb * GIB - RESERVED) for gb in CARDS}}


@contextlib.contextmanager
def _attention_as_on_cuda():
    """torch's fused kernel, which keeps no scores, also where a CPU would rather multiply plainly."""
    ours = layers.attend
    layers.attend = lambda q, k, v, mask=None: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    try:
        yield
    finally:
        layers.attend = ours

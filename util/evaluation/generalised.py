"""Generalised zero-shot segmentation (GZS3): every pixel gets one label out of background and all classes."""
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.dataset import EvalBatch
from data.folds import Classes
from data.transform import Fit
from util.evaluation.evaluate import by_name
from util.evaluation.metric import Confusion, harmonic, mean_iou, percent
from util.evaluation.predict import at_once, evaluation_mode, require_finite, windows
from util.runtime.processes import SINGLE_PROCESS, Processes
from util.runtime.progress import progress

NAMES_AT_ONCE_IN_BF16 = 8  # on a CPU: more keep it no busier
BYTES_A_TOKEN = 4 * 24     # fp32 values alive at once a token and channel in evaluation, generously


@dataclass(frozen=True)
class Labeller:
    """Labels every pixel of a batch: ``labeller(batch)`` returns labels (H, W) of 0..K for each image at its own size.

    The evidence of a name is its foreground minus background logit plus ``presence`` times CLIP's log-probability that
    the predicted region shows that class (ESDA.presence). The model was trained to find names that are there; without
    this term an absent one lights up somewhere. A pixel gets the name with the strongest evidence, or background where
    none is positive.

    model: an ESDA; text: the embeddings of all K names, row = class id - 1, on ``device``; fit: how the images were
    fitted; names_at_once: 0 for as many as memory allows. It changes no number.
    """
    model: torch.nn.Module
    text: object
    fit: Fit
    device: torch.device
    autocast: contextlib.AbstractContextManager
    presence: float
    names_at_once: int = 0

    @torch.inference_mode()
    def __call__(self, batch: EvalBatch) -> list[np.ndarray]:
        model, text, names = self.model, self.text, len(self.text.cls)
        strongest = _Strongest(batch, self.fit, self.device)
        with evaluation_mode(model):
            for places, images in windows(batch, self.fit, model, self.device, self.autocast):
                with self.autocast:
                    shared, first = model.before_names(images), 0
                    patches = model.clip_patches(images, shared)
                    for evidence in model.all_names(images, text, self._names_at_once(images, names), shared):
                        likely = model.presence(patches, evidence, text, first)  # (b, k), at most 0
                        strongest.add(places, first, evidence + self.presence * likely[..., None, None])
                        first += evidence.shape[1]
        return [labels.cpu().numpy() for labels in strongest.labels]

    def _names_at_once(self, images: Tensor, names: int) -> int:
        if self.names_at_once:
            return self.names_at_once
        if images.device.type == "cuda":
            return names_in_memory(self.model, images, names)
        inputs = at_once(*images.shape[2:], images.device, self.autocast)
        return min(names, max(1, inputs // len(images)) if inputs else NAMES_AT_ONCE_IN_BF16)


class _Strongest:
    """The strongest name so far of each pixel at the original size; memory does not grow with the number of names."""

    def __init__(self, batch: EvalBatch, fit: Fit, device: torch.device):
        self.batch, self.fit = batch, fit
        self.labels = [torch.zeros(mask.shape, dtype=torch.long, device=device) for mask in batch.masks]
        self.evidence = [torch.zeros(mask.shape, device=device) for mask in batch.masks]  # that a name must exceed

    def add(self, places: list[int], first: int, evidence: Tensor) -> None:
        """evidence (b, k, height, width): class ids first + 1 to first + k of the images at ``places``."""
        require_finite(evidence)
        for place, names in zip(places, evidence):
            valid, shape = self.batch.valid_sizes[place], self.batch.masks[place].shape
            for class_id, e in enumerate(names, start=first + 1):
                found = self.fit.to_original(e, valid, shape).float()
                self.labels[place].masked_fill_(found > self.evidence[place], class_id)
                self.evidence[place] = torch.maximum(found, self.evidence[place])


def names_in_memory(model, images: Tensor, names: int) -> int:
    """How many of the names fit into half of a GPU's free memory at once."""
    encoder = model.image_encoder
    tokens = images[:, 0].numel() // encoder.patch ** 2
    free, _ = torch.cuda.mem_get_info(images.device)
    free += torch.cuda.memory_reserved(images.device) - torch.cuda.memory_allocated(images.device)  # torch's own stock
    return max(1, min(names, int(free / 2 / (tokens * encoder.proj.shape[0] * BYTES_A_TOKEN))))


def evaluate_generalised(label_images: Callable[[EvalBatch], list[np.ndarray]], batches: Iterable[EvalBatch],
                         seen: tuple[int, ...], unseen: tuple[int, ...], classes: Classes, *,
                         label: str = "generalised evaluation", processes: Processes = SINGLE_PROCESS) -> dict:
    """Label every batch and score one label a pixel, over the images of all processes.

    label_images: a Labeller; label: what the progress bar says.
    Returns, all in percent: miou, the mean over the unseen classes (U), seen_miou (S), hiou, their harmonic mean,
    pixel_accuracy, background IoU, fb_iou (background against all classes), and per_class {name: IoU} of all classes;
    also protocol and samples, the number of images, and marked {unseen name: {what its pixels show: pixels}}.
    """
    confusion, images = Confusion(len(classes.names)), 0
    for batch in progress(batches, label):
        for labels, mask in zip(label_images(batch), batch.masks, strict=True):
            confusion.add(labels, mask)
            images += 1
    confusion.counts = processes.sum(torch.from_numpy(confusion.counts)).numpy()
    images = sum(processes.gather(images))
    iou = confusion.iou()
    seen_miou, unseen_miou = mean_iou(iou, seen), mean_iou(iou, unseen)
    return {"protocol": "generalised", "samples": images, "miou": percent(unseen_miou), "seen_miou": percent(seen_miou),
            "hiou": percent(harmonic(seen_miou, unseen_miou)), "pixel_accuracy": percent(confusion.pixel_accuracy),
            "background_iou": percent(iou.get(0, 0.0)), "fb_iou": percent(confusion.fb_iou),
            "per_class": {classes.name(c): percent(value) for c, value in iou.items() if c},
            "marked": by_name({c: confusion.counts[:, c] for c in unseen}, classes)}

"""Generalised zero-shot segmentation (GZS3): every pixel gets one label out of background and all classes."""
from collections.abc import Iterator

import numpy as np
import torch

from data.dataset import EvalBatch
from data.folds import Classes
from data.loader import Loader
from util.evaluation.metric import Confusion, harmonic
from util.runtime.processes import SINGLE_PROCESS, Processes
from util.runtime.progress import progress

CHUNK_ON_CPU = 8          # names at once: more keep a CPU no busier
BYTES_A_TOKEN = 4 * 24    # fp32 values alive at once a token and channel in evaluation, generously


@torch.inference_mode()
def label_images(model, text, loader: Loader, device, autocast, presence: float, chunk: int,
                 label: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(labels (H, W) of 0..K, mask (H, W)) of each image at its original size.

    The evidence of a name is its foreground minus background logit plus ``presence`` times the log-probability, by CLIP
    alone, that the region found under it is of that name (ESDA.presence): the model was trained to find a name that is
    there, and without this an absent one lights up somewhere. A pixel gets the name with the strongest evidence, or
    background where none is positive.

    Args:
        model: an ESDA; text: the embeddings of all K names, row = class id - 1, on ``device``.
        chunk: names at once; 0: as many as memory allows.
    """
    was_training = model.training
    model.eval()
    count = len(text.cls)
    try:
        for batch in progress(loader, label):
            best = _Strongest(batch, device)
            for at, images in batch.windows(model, batch.images.to(device, non_blocking=True)):
                with autocast:
                    patches = model.clip_patches(images)
                    for first, evidence in _chunks(model, images, text, chunk or chunk_of(model, images, count)):
                        likely = model.presence(patches, evidence, text, first)  # (b, k), at most 0
                        best.add(at, first, evidence + presence * likely[..., None, None])
            yield from zip((labels.cpu().numpy() for labels in best.labels), batch.masks)
    finally:
        model.train(was_training)


def _chunks(model, images, text, chunk):
    first = 0
    for evidence in model.all_names(images, text, chunk):                    # (b, k, height, width)
        yield first, evidence
        first += evidence.shape[1]


class _Strongest:
    """The strongest name so far of each pixel at the original size; memory does not grow with the number of names."""

    def __init__(self, batch: EvalBatch, device: torch.device):
        self.batch = batch
        self.labels = [torch.zeros(mask.shape, dtype=torch.long, device=device) for mask in batch.masks]
        self.evidence = [torch.zeros(mask.shape, device=device) for mask in batch.masks]  # background's: names must be above

    def add(self, at: list[int], first: int, evidence: torch.Tensor) -> None:
        """evidence (b, k, height, width) of the samples ``at`` these places, class ids first + 1 and on."""
        for b, names in zip(at, evidence):
            for j, e in enumerate(names):
                found = self.batch.back(e, self.batch.inner[b], self.batch.masks[b].shape).float()
                self.labels[b].masked_fill_(found > self.evidence[b], first + j + 1)
                self.evidence[b] = torch.maximum(found, self.evidence[b])


def chunk_of(model, images: torch.Tensor, names: int) -> int:
    """How many names fit into half of the free memory at once."""
    if images.device.type != "cuda":
        return min(CHUNK_ON_CPU, names)
    encoder = model.image_encoder
    tokens = images[:, 0].numel() // encoder.patch ** 2
    free, _ = torch.cuda.mem_get_info(images.device)
    free += torch.cuda.memory_reserved(images.device) - torch.cuda.memory_allocated(images.device)  # torch's own stock
    return max(1, min(names, int(free / 2 / (tokens * encoder.proj.shape[0] * BYTES_A_TOKEN))))


def evaluate_generalised(labelled: Iterator[tuple[np.ndarray, np.ndarray]], seen: tuple[int, ...],
                         unseen: tuple[int, ...], classes: Classes, processes: Processes = SINGLE_PROCESS) -> dict:
    """Score one label a pixel, of the images of all processes.

    Returns, all in percent: miou, the mean over the unseen classes (U), seen_miou (S), hiou, their harmonic mean,
    pixel_accuracy, background IoU, fb_iou (background against all classes), and per_class {name: IoU} of all classes;
    besides protocol and samples, the number of images.
    """
    confusion, images = Confusion(len(classes.names)), 0
    for labels, mask in labelled:
        confusion.add(labels, mask)
        images += 1
    confusion.counts = processes.sum(torch.from_numpy(confusion.counts)).numpy()
    images = sum(processes.gather(images))
    iou = confusion.iou()
    seen_miou, unseen_miou = confusion.mean(seen), confusion.mean(unseen)
    return {"protocol": "generalised", "samples": images, "miou": 100 * unseen_miou, "seen_miou": 100 * seen_miou,
            "hiou": 100 * harmonic(seen_miou, unseen_miou), "pixel_accuracy": 100 * confusion.pixel_accuracy,
            "background_iou": 100 * iou.get(0, 0.0), "fb_iou": 100 * confusion.fb_iou,
            "per_class": {classes.name(c): 100 * value for c, value in iou.items() if c}}

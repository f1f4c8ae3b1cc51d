"""The plain mode: the same numbers as model/ and util/, computed the way the released code does.

fp32 throughout, ``nn.MultiheadAttention``, names through the text encoder at every step with all their positions,
similarity maps of all blocks also in evaluation, one map after another in the losses, in evaluation one image at a time
and scores in numpy.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.dataset import EvalBatch
from data.transform import Fit
from model.clip.layers import Attention
from model.esda import ESDA, Segmentation
from model.losses import IGNORE, EsdaLosses, Losses, cover_of, prototype
from model.similarity import similarity_map


class PlainAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` on the parameters of an Attention, called as in CLIP: sequence first, no weights."""

    def __init__(self, ours: Attention):
        width = len(ours.out_proj.bias)
        super().__init__(width, ours.heads, device="meta")
        self.in_proj_weight, self.in_proj_bias, self.out_proj = ours.in_proj_weight, ours.in_proj_bias, ours.out_proj

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As Attention.forward; mask is (N, N) or (B, 1, 1, N). What is True in it is False to torch's module."""
        # In memory, too, as CLIP's residual stream is: of a view, torch's linear without gradients may copy the weights
        # for every position.
        x = x.transpose(0, 1).contiguous()                                   # (N, B, C)
        hidden = {}
        if mask is not None:
            hidden = {"attn_mask": ~mask} if mask.ndim == 2 else {"key_padding_mask": ~mask[:, 0, 0]}
        return super().forward(x, x, x, need_weights=False, **hidden)[0].transpose(0, 1)


def with_plain_attention(model: ESDA) -> None:
    """Exchange every attention of ``model``, text encoder included, for torch's own on the same parameters."""
    for module in list(model.modules()):
        if isinstance(getattr(module, "attn", None), Attention):
            module.attn = PlainAttention(module.attn)


class Tokens:
    """Stands where the kept embeddings of all names do: what a step takes from it are token ids (B, L)."""

    def __init__(self, ids: Tensor):
        self.ids = ids

    def __getitem__(self, rows) -> Tensor:
        return self.ids[rows]


class Released(nn.Module):
    """ESDA with its work as the released code has it. each_step: ``text`` is token ids, to be encoded here.

    maps: in evaluation too, prototypes and similarity maps of all blocks are made (of a mask given to ``target``).
    """

    def __init__(self, model: ESDA, each_step: bool, maps: bool):
        super().__init__()
        self.model, self.each_step, self.maps = model, each_step, maps

    @property
    def decoder(self):
        return self.model.decoder

    def forward(self, images: Tensor, text, keep: Tensor | None = None, heard=None) -> Segmentation:
        if self.each_step:
            with torch.no_grad():
                text, heard = self.model.text_encoder(text), None            # no noise here: both are the same ids
        if self.training or not self.maps:
            return self.model(images, text, keep, heard)
        self.model.image_encoder.train()  # so that it hands the blocks over; nothing in it is random
        output = self.model(images, text, keep, heard)
        side = images.shape[-1]
        target = torch.zeros(len(images), side, side, dtype=torch.uint8, device=images.device)
        target[:, side // 4:side // 2, side // 4:side // 2] = 1              # whose cost is that of any other mask
        for patches in output.blocks.values():
            similarity_map(patches, prototype(patches, cover_of(target, patches.shape[1])))
        return output


class PlainLosses(EsdaLosses):
    """The terms of ``ours``, one map after another and as torch's own interpolation and cross-entropy of two logits."""

    def __init__(self, ours: EsdaLosses):
        vars(self).update(vars(ours))

    def __call__(self, output: Segmentation, target: Tensor, pixels: Tensor | None = None) -> Losses:
        if self.ignored == "background":
            target = target.masked_fill(target == IGNORE, 0)
        pixels = self.pixels(target) if pixels is None else pixels
        main = self._entropy(output.logits, target, pixels)
        last = self._of_map(output.prior, target, pixels) if self.last_weight else main.new_zeros(())
        others = [self._of_map(self._map(patches, target), target, pixels)
                  for patches in output.blocks.values()] if self.others_weight else []
        others = torch.stack(others).mean() if others else main.new_zeros(())
        return Losses(main + self.last_weight * last + self.others_weight * others, main, last, others)

    def _map(self, patches: Tensor, target: Tensor) -> Tensor:
        return similarity_map(patches, prototype(patches, cover_of(target, patches.shape[1], self.align_corners)))

    def _of_map(self, s: Tensor, target: Tensor, pixels: Tensor) -> Tensor:
        s = F.interpolate(s, size=target.shape[1:], mode="bilinear", align_corners=self.align_corners)
        return self._entropy(torch.cat([s, 1 - s] if self.sign == "released" else [1 - s, s], dim=1), target, pixels)

    def _entropy(self, logits: Tensor, target: Tensor, pixels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), target.long(), ignore_index=IGNORE, reduction="sum") / pixels


@torch.inference_mode()
def evaluate_in_numpy(model, text, fit: Fit, device, autocast, batches: list[EvalBatch], class_ids: tuple[int, ...]) -> dict:
    """miou and fb_iou in percent, as util.evaluation.evaluate has them: both logits to the original size, argmax, histograms."""
    model.eval()
    areas, both = {c: np.zeros((2, 2)) for c in class_ids}, np.zeros((2, 2))  # rows intersection, union
    for batch in batches:
        rows = torch.tensor([sample.class_id for sample in batch.samples], device=device) - 1
        with autocast:
            logits = model(batch.images.to(device), text[rows]).logits
        for pair, inner, mask, sample in zip(logits, batch.valid_sizes, batch.masks, batch.samples):
            pair = torch.stack([fit.to_original(part, inner, mask.shape) for part in pair])
            found = pair.argmax(0).cpu().numpy()
            truth = np.where(mask == IGNORE, IGNORE, mask == sample.class_id)
            found[truth == IGNORE] = IGNORE
            hit, guessed, true = (np.histogram(x, bins=(0, 1, 2))[0] for x in (found[found == truth], found, truth))
            area = np.stack([hit, guessed + true - hit])
            areas[sample.class_id] += area
            both += area
    met = [area[0, 1] / area[1, 1] for area in areas.values() if area[1, 1]]
    return {"miou": 100 * float(np.mean(met)), "fb_iou": 100 * float(np.mean(both[0] / np.maximum(both[1], 1)))}


@torch.inference_mode()
def label_by_name(model, text, esda: ESDA, words, fit: Fit, batches: list[EvalBatch], device, autocast,
                  presence: float, names: int) -> list[np.ndarray]:
    """Labels (H, W) of every image, as util.evaluation.generalised has them: a forward pass a name, the strongest in numpy."""
    model.eval()
    labels = []
    for batch in batches:
        for image, inner, mask in zip(batch.images, batch.valid_sizes, batch.masks):
            image = image[None].to(device)
            with autocast:
                patches = esda.clip_patches(image)
            evidence = [np.zeros(mask.shape, np.float32)]                    # background's
            for k in range(names):
                with autocast:
                    logits = model(image, text[torch.tensor([k], device=device)]).logits
                    found = logits[:, 1] - logits[:, 0]                      # (1, S, S)
                    found = found + presence * esda.presence(patches, found[:, None], words, k)
                evidence.append(fit.to_original(found[0], inner, mask.shape).float().cpu().numpy())
            labels.append(np.stack(evidence).argmax(0))
    return labels

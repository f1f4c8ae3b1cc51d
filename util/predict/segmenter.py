"""From an image and words to masks: the model behind predict.py and app.py, and the class to use from Python.

    from util.predict.segmenter import Segmenter

    segmenter = Segmenter.load("exp/.../checkpoints/best.pt")
    result = segmenter("photo.jpg", ["star", "key"])
    result.masks            # (2, H, W) bool
"""
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.dataset import EvalBatch, mean_colour
from data.folds import classes_of
from data.transform import FITS
from model.build import build_model, embed_classes, embed_names, tokenizer
from model.clip.text_encoder import TextEmbedding
from model.clip.weights import fingerprint_of, read_clip
from util.config import Config
from util.evaluation.generalised import NAMES_AT_ONCE_IN_BF16
from util.evaluation.predict import at_once, presence, require_finite, windows
from util.evaluation.views import zoomed
from util.predict.images import as_image
from util.predict.names import checked_names
from util.predict.options import options_of
from util.predict.result import Result
from util.predict.shipped import SHIPPED
from util.run import checkpoint
from util.run.trained import threshold_in
from util.run.weights import read_weights
from util.runtime.device import autocast, pick_device, place, set_tf32
from util.runtime.errors import UserError

INPUTS_ON_A_GPU = 8         # images, or images times names, that go through the network together
MOST_ZOOMED = 1 << 29       # values of names at an image's own size, 2 GB


class Encoded(NamedTuple):
    """B images of one window, as the network has seen them before it is given names."""
    places: list[int]               # among the images that were given
    images: list[np.ndarray]        # each (H, W, 3) uint8 RGB, as it was given
    valid: list[tuple[int, int]]    # the (height, width) of the input that each fills
    inputs: Tensor                  # (B, 3, height, width) uint8, on the device
    shared: object                  # of the model's before_names


class Segmenter:
    """Finds named things in images.

    ``segmenter(image, names)`` is the whole way. ``set_image`` and then ``predict(names)`` keeps what is the same for
    every name, so that further names cost a fraction. ``batch(images, names)`` takes several images through the network
    together. An image is a path, an array (H, W, 3) uint8 RGB or a Pillow image (util/predict/images.py: as_image).

    A score, 0..1, is the sigmoid of presence less the checkpoint's threshold of it, or of presence where it holds none;
    calibrated: whether it holds one. threshold: the score below which a name counts as not found, 0.5.
    about: what the results' JSON says of the model. cfg: its options, util.options.Config.
    All methods raise UserError for what a user can get wrong; WeightsError for weights that do not fit.
    """

    threshold = 0.5

    def __init__(self, model: torch.nn.Module, cfg: Config, device: torch.device, zero: float | None = None,
                 about: dict | None = None):
        """model: of build_model, with its weights and on ``device``; ESDA+ has been told its rivals.

        zero: presence, a logit, from which on a name counts as there; None: not known. ESDA+ then leaves CLIP's own
        verdict out of it, which has no zero of its own.
        """
        self.model, self.cfg, self.device = model.eval(), cfg, device
        self.model.text_encoder.cpu()   # names are embedded there, as in evaluation
        self.calibrated, self.zero = zero is not None, zero or 0.0
        self.model.asks_clip = self.calibrated
        self.about = about or {}
        self.fit, self.autocast = FITS[cfg.eval.fit], autocast(device, cfg.precision)
        self._text: tuple[tuple[str, ...], TextEmbedding | None] = ((), None)
        self._image: list[Encoded] = []     # that of set_image

    @classmethod
    def load(cls, weights: str | Path | None = None, *, model: str | None = None, clip: str | Path | None = None,
             size: int | None = None, device: str = "auto", precision: str | None = None) -> "Segmenter":
        """Load a checkpoint, or a model without training.

        Args:
            weights: best.pt or last.pt of train.py, a .safetensors of convert.py or a released checkpoint; None: the
                shipped one, which knows the twenty shapes of Shapes-5i and nothing else. Its own options hold.
            model: naclip, maskclip, clearclip or clip_prior instead, which need CLIP's weights only.
            clip: CLIP's weights; None: those that the options name, weights/ViT-B-16.pt where there is no checkpoint.
            size: px, side of the network's square input, a multiple of the patch; None: that of the options.
            device: as option ``device``; precision: as option ``precision``, None: that of the options.
        TF32 is allowed or forbidden for the whole process, as the precision says.
        """
        if model and weights:
            raise UserError(f"weights {weights} and the model {model}, which has none of its own; give one of the two")
        read = None if model else read_weights(str(weights or SHIPPED), "give a checkpoint with --weights")
        cfg = options_of(read, model, clip, size, device, precision)
        on = pick_device(cfg.device)
        set_tf32(on, cfg.precision)
        known = read and read.clip or read_clip(cfg.model.clip)
        net, known = build_model(cfg.model, known.with_activation(cfg.model.activation, cfg.model.clip))
        about = {"kind": cfg.model.kind, "clip": known.fingerprint, "size": cfg.model.size, "precision": cfg.precision,
                 "checkpoint": None}
        if read:
            checkpoint.restore(net, read.saved, read.file, known.fingerprint)
            about["checkpoint"] = {"file": read.file, "epoch": read.saved["epoch"] + 1,
                                   "fingerprint": fingerprint_of(read.saved["model"])}
        if cfg.model.kind == "plus":  # the seen names of its fold are its rivals, whatever the user asks for
            classes = classes_of(cfg.data)
            embed_classes(net, classes.names, classes.seen(cfg.fold), cfg.model)
        return cls(place(net, cfg, on), cfg, on, read and threshold_in(read.saved), about)

    def __call__(self, image, names: str | Iterable[str], *, others: str | Iterable[str] = (),
                 threshold: float | None = None, separate: bool = False, zoom: bool = False) -> Result:
        """Find ``names`` in one image.

        names: 1 to 254 words or phrases; a single text is one name.
        others: rival words, which take pixels and are not reported.
        threshold: 0..1, see the class; None: 0.5.
        separate: whether each name gets all of its own mask. Else a pixel goes to the name with the strongest evidence.
        zoom: whether small regions are looked at again, enlarged from the image's own pixels, for each name whose score
            reaches the threshold (util/evaluation/views.py, zoomed). It takes another look for each.
        """
        return self.batch([image], names, others=others, threshold=threshold, separate=separate, zoom=zoom)[0]

    def set_image(self, image) -> None:
        """Take an image through the part of the network that no name enters, for ``predict``."""
        self._image = self._encode([as_image(image)])

    def predict(self, names: str | Iterable[str], *, others: str | Iterable[str] = (), threshold: float | None = None,
                separate: bool = False, zoom: bool = False) -> Result:
        """Find ``names`` in the image that was set; arguments as of a call."""
        if not self._image:
            raise UserError("there is no image yet; call set_image(image) before predict(names)")
        return self._answer(self._image, self._asked(names, others, threshold, separate, zoom))[0]

    def batch(self, images: Iterable, names: str | Iterable[str], *, others: str | Iterable[str] = (),
              threshold: float | None = None, separate: bool = False, zoom: bool = False) -> list[Result]:
        """Find ``names`` in each of several images; other arguments as of a call. The names are embedded once."""
        asked = self._asked(names, others, threshold, separate, zoom)
        return self._answer(self._encode([as_image(image) for image in images]), asked)

    @property
    def at_once(self) -> int:
        """How many images are worth handing to ``batch`` together."""
        return at_once(self.cfg.model.size, self.cfg.model.size, self.device, self.autocast) or INPUTS_ON_A_GPU

    # From words and pixels to evidence

    def _asked(self, names, others, threshold: float | None, separate: bool, zoom: bool) -> "_Asked":
        names, others = checked_names(names, others)
        threshold = self.threshold if threshold is None else threshold
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold {threshold} should be 0 to 1, as the scores are")
        return _Asked(names, others, float(threshold), separate, zoom, self._embed(names + others))

    def _embed(self, words: list[str]) -> TextEmbedding:
        """The embeddings of ``words``. Those of the last list are kept."""
        key = tuple(words)
        if self._text[0] != key:
            longest = self.model.text_encoder.context_length
            for word in words:
                length = len(tokenizer().encode(self.cfg.model.prompt.format(word))) + 2  # start and end
                if length > longest:
                    raise UserError(f"the name {word[:60]!r}{'...' * (len(word) > 60)} is too long: with the prompt it "
                                    f"has {length} tokens, and this CLIP reads at most {longest}; shorten it")
            self._text = key, embed_names(self.model.text_encoder, words, self.cfg.model).to(self.device)
        return self._text[1]

    @torch.inference_mode()
    def _encode(self, images: list[np.ndarray]) -> list[Encoded]:
        """Images that fill the same patches go through the network together."""
        fill = mean_colour(self.cfg.model.pixel_mean)
        fitted = [self.fit.to_input(image, self.cfg.model.size, fill) for image in images]
        pixels = torch.from_numpy(np.stack([canvas for canvas, _ in fitted])).permute(0, 3, 1, 2).contiguous()
        valid, groups = [size for _, size in fitted], []
        for places, window in windows(EvalBatch(pixels, valid, [], []), self.fit, self.model, self.device,
                                      self.autocast):
            with self.autocast:
                groups.append(Encoded(places, [images[place] for place in places], [valid[place] for place in places],
                                      window, self.model.before_names(window)))
        return groups

    @torch.inference_mode()
    def _evidence(self, encoded: Encoded, text: TextEmbedding) -> tuple[Tensor, Tensor]:
        """Of each name in each image: foreground minus background logit (B, K, height, width), and score (B, K), 0..1.

        Both fp32 on the CPU.
        """
        inputs = at_once(*encoded.inputs.shape[2:], self.device, self.autocast) or NAMES_AT_ONCE_IN_BF16
        chunk = max(1, inputs // len(encoded.images))
        with self.autocast:
            parts, own = zip(*self.model.names_and_presence(encoded.inputs, text, chunk, encoded.shared))
        evidence = torch.cat(parts, dim=1).float()
        require_finite(evidence)
        own = [None] * len(encoded.images) if own[0] is None else torch.cat(own, dim=1)
        present = torch.stack([presence(one[:, :height, :width], logits)
                               for one, (height, width), logits in zip(evidence, encoded.valid, own)])
        return evidence.cpu(), (present - self.zero).sigmoid().cpu()

    def _answer(self, groups: list[Encoded], asked: "_Asked") -> list[Result]:
        """The result of each image, in the order in which they were given."""
        for image in (image for encoded in groups if asked.zoom for image in encoded.images):
            require_room_to_zoom(image, len(asked.names + asked.others))
        results = {}
        for encoded in groups:
            of_each = zip(encoded.places, encoded.images, encoded.valid, *self._evidence(encoded, asked.text))
            results |= {place: self._result(*parts, asked) for place, *parts in of_each}
        return [results[place] for place in range(len(results))]

    def _result(self, image: np.ndarray, valid: tuple[int, int], evidence: Tensor, scores: Tensor,
                asked: "_Asked") -> Result:
        to_original = partial(self.fit.to_original, valid=valid, shape=image.shape[:2])
        about, maps = self.about, evidence
        if asked.zoom:
            maps, about = [to_original(one) for one in evidence], {**self.about, "zoom": True}
            for k in (scores >= asked.threshold).nonzero()[:, 0].tolist():
                [maps[k]] = zoomed([image], [k], [maps[k]], partial(self._look, asked.text))
            to_original = _as_it_is
        return Result(image, asked.names, asked.others, asked.threshold, asked.separate, about, scores.numpy(), maps,
                      to_original)

    def _look(self, text: TextEmbedding, images: list[np.ndarray], names: list[int]) -> list[Tensor]:
        """The evidence (H, W) of one row of ``text`` in each image (H, W, 3)."""
        found = []
        for image, name in zip(images, names):
            [encoded] = self._encode([image])
            evidence, _ = self._evidence(encoded, text[torch.tensor([name])])
            found.append(self.fit.to_original(evidence[0, 0], encoded.valid[0], image.shape[:2]))
        return found


def require_room_to_zoom(image: np.ndarray, names: int, what: str = "the image") -> None:
    """Raises UserError where the evidence of so many names at the size of ``image`` (H, W, 3) would take too much."""
    height, width = image.shape[:2]
    if names * height * width > MOST_ZOOMED:
        raise UserError(f"{what}: zoom keeps {names} names at {width} x {height} px, more than the {MOST_ZOOMED:,} "
                        f"values that are kept; ask for fewer names, or without zoom")


def _as_it_is(evidence: Tensor) -> Tensor:
    return evidence


class _Asked(NamedTuple):
    names: list[str]
    others: list[str]
    threshold: float
    separate: bool
    zoom: bool
    text: TextEmbedding

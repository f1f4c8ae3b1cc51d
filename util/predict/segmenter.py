"""Segmenter: an image and words to masks, for predict.py, app.py and Python."""
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from data.dataset import mean_colour
from data.transform import FITS
from model.build import build_model, embed_names
from model.clip.text_encoder import TextEmbedding
from model.clip.weights import fingerprint_of, read_clip
from util.config import ROOT, Config, from_dict, load, to_dict
from util.evaluation.predictor import presence_of, require_finite
from util.predict.inputs import TRAINING_FREE, as_image, checked_names
from util.predict.result import Result
from util.run import checkpoint
from util.run.origin import RELEASED
from util.runtime.device import autocast, pick_device, place, set_tf32
from util.runtime.errors import UserError

SHIPPED = ROOT / "data/emoji/plus_all.safetensors"
NAMES_AT_ONCE = 8   # that go through the network together


class Segmenter:
    """Text-prompted segmenter: ``segmenter(image, names)``; further names in that image cost a fraction: ``predict``.

    image: see util/predict/inputs.py, as_image. A score, 0..1, is the sigmoid of presence less the checkpoint's
    threshold, if it holds one (calibrated). about: what the results' JSON says of the model; cfg: its options. Raises
    UserError for mistakes of a user's, and WeightsError for weights and texts that do not fit.
    """

    def __init__(self, model: torch.nn.Module, cfg: Config, device: torch.device, zero: float | None, about: dict):
        """Wrap a model of build_model, with its weights and on ``device``; ESDA+ has been told its rivals.

        zero: presence threshold, a logit; None: unknown. ESDA+ then omits CLIP's verdict, which has no zero of its own.
        """
        self.model, self.cfg, self.device, self.about = model.eval(), cfg, device, about
        self.model.text_encoder.cpu()   # names are embedded there, as in evaluation
        self.model.asks_clip = self.calibrated = zero is not None
        self.zero = zero or 0.0
        self.fit, self.autocast = FITS[cfg.eval.fit], autocast(device, cfg.precision)
        self._embed = lru_cache(maxsize=1)(self._embed)

    @classmethod
    def load(cls, weights: str | Path | None = None, *, model: str | None = None, clip: str | Path | None = None,
             size: int | None = None, device: str = "auto", precision: str | None = None) -> "Segmenter":
        """Load a checkpoint, or a model without training. Sets TF32 for the whole process, as the precision says.

        weights: best.pt or last.pt of train.py, a .safetensors of convert.py or a released checkpoint; None: the
            shipped one, which knows artists' drawings of some 500 things. Its own options hold.
        model: one of TRAINING_FREE instead, which need CLIP's weights only; clip: CLIP's weights.
        size: px, side of the network's square input, a multiple of the patch.
        device, precision: as the options of these names; None: what the checkpoint's options say.
        """
        if model and (weights or model not in TRAINING_FREE):
            raise UserError(f"model {model}: should be one of {', '.join(TRAINING_FREE)}, and without weights")
        file = str(weights or SHIPPED)
        read = None if model else checkpoint.load(file)
        if read and read["clip"] is None:  # a released checkpoint carries its CLIP
            clip = file
        if model:
            values = to_dict(Config())
            values["model"]["kind"], values["eval"]["fit"] = model, "cut"
        else:
            values = read["config"] or to_dict(load(Config, RELEASED))
        values |= {"device": device, "compile": False, "precision": precision or values["precision"]}
        # A config's paths are written as seen from the project's own folder.
        values["model"]["clip"] = str(clip or ROOT / values["model"]["clip"])
        values["model"]["size"] = values["model"]["size"] if size is None else size
        cfg = from_dict(Config, values, "what was asked for")
        on = pick_device(cfg.device)
        set_tf32(on, cfg.precision)
        known = read_clip(cfg.model.clip, cfg.model.activation)
        net = build_model(cfg, known)
        if read:
            checkpoint.restore(net, read, file, known.fingerprint)
        about = {"kind": cfg.model.kind, "clip": known.fingerprint, "size": cfg.model.size, "precision": cfg.precision,
                 "checkpoint": read and {"file": file, "epoch": read["epoch"] + 1,
                                         "fingerprint": fingerprint_of(read["model"])}}
        return cls(place(net, cfg, on), cfg, on, read and read["presence_threshold"], about)

    @property
    def notes(self) -> list[str]:
        """Notes that a user needs to read the results, one line each."""
        if self.about["checkpoint"] is None:
            return [f"{self.cfg.model.kind} stretches its map to 0..1 in every image, so it finds each name somewhere"]
        if self.about["checkpoint"]["file"] == str(SHIPPED):
            return ["the shipped model knows drawings of things, as emoji are; for photographs there is naclip"]
        return [] if self.calibrated else ["the checkpoint's scores are not calibrated; choose a threshold"]

    def __call__(self, image, names: str | Iterable[str], **options) -> Result:
        """Set the image, and find ``names`` in it; options as of ``predict``."""
        self.set_image(image)
        return self.predict(names, **options)

    @torch.inference_mode()
    def set_image(self, image) -> None:
        """Encode an image up to the first text-conditioned block, for ``predict``."""
        image = as_image(image)
        canvas, valid = self.fit.to_input(image, self.cfg.model.size, mean_colour(self.cfg.model.pixel_mean))
        if self.fit.cut:
            height, width = (-(-side // self.model.patch) * self.model.patch for side in valid)
            canvas = canvas[:height, :width]
        pixels = torch.from_numpy(np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])).to(self.device)
        with self.autocast:
            self._image = image, valid, pixels, self.model.before_names(pixels)

    @torch.inference_mode()
    def predict(self, names: str | Iterable[str], *, others: str | Iterable[str] = (), threshold: float = 0.5,
                separate: bool = False) -> Result:
        """Find ``names``, 1 to 254 words or phrases (a single text is one name), in the image that was set.

        others: rival words, which take pixels and are not reported. threshold: 0..1, score below which a name is not
        found. separate: each name gets all of its own mask; else a pixel goes to the name with the largest margin.
        """
        names, others = checked_names(names, others)
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold {threshold} should be 0 to 1, as the scores are")
        image, (height, width), pixels, shared = self._image    # of set_image
        text = self._embed(*names, *others)
        with self.autocast:
            parts, own = zip(*self.model.names_and_presence(pixels, text, NAMES_AT_ONCE, shared))
        margin = torch.cat(parts, dim=1)[0].float()       # (K + R, height, width)
        require_finite(margin)
        present = presence_of(margin[:, :height, :width], None if own[0] is None else torch.cat(own, dim=1)[0])
        scores = (present - self.zero).sigmoid().cpu().numpy()
        to_original = partial(self.fit.to_original, valid=(height, width), shape=image.shape[:2])
        return Result(image, names, others, float(threshold), separate, self.about, scores, margin.cpu(), to_original)

    def _embed(self, *words: str) -> TextEmbedding:
        return embed_names(self.model.text_encoder, list(words), self.cfg.model).to(self.device)

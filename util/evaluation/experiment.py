"""One fold of a config, ready to compute: data, and model on the device; shared by train.py and test.py."""
from data.fold import FoldData
from model.build import build_model, embed_classes
from model.clip.weights import ClipWeights, read_clip
from util.config import Config
from util.evaluation.predictor import Predictor
from util.runtime import distributed
from util.runtime.device import autocast, make_deterministic, pick_device, place, set_tf32


class Experiment:
    """Device, data, model and text embeddings of one process.

    data: a FoldData; model: on ``device``, with CLIP's weights and fresh ones; clip: fingerprint of CLIP's weights;
    text: embeddings of all names, row = class id - 1, on ``device``.
    """

    def __init__(self, cfg: Config, clip: ClipWeights | None = None):
        """Read data and weights (clip: None reads ``model.clip``). Raises UserError, WeightsError for wrong ones."""
        self.cfg, self.device = cfg, pick_device(cfg.device)
        distributed.join(self.device)
        self.autocast = autocast(self.device, cfg.precision)
        make_deterministic(cfg.seed)
        set_tf32(self.device, cfg.precision)
        # Before images are counted, which takes minutes the first time.
        clip = clip or read_clip(cfg.model.clip, cfg.model.activation)
        with distributed.one_first():  # rank 0 counts the masks' pixels, the others read what it found
            self.data = FoldData(cfg)
        self.model = build_model(cfg, clip)
        self.clip = clip.fingerprint
        self.text = embed_classes(self.model, self.data.classes.names, self.data.seen, cfg).to(self.device)
        place(self.model, cfg, self.device)

    def predictor(self, **more) -> Predictor:
        """Build the Predictor of this model and data; more: its further fields."""
        return Predictor(self.model, self.text, self.data.fit, self.device, self.autocast, **more)

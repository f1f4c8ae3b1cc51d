"""One fold of a config, ready to compute: its data, and its model on the device. What train.py and test.py share."""
from data.fold import FoldData
from model.build import build_model, embed_classes
from model.clip.weights import ClipWeights, read_clip
from util.config import Config
from util.evaluation.predict import Predictor
from util.runtime.device import autocast, make_deterministic, pick_device, place, set_tf32
from util.runtime.processes import Processes
from util.runtime.stop import StopRequest


class Experiment:
    """What one process of a run works with.

    device, processes, autocast: where and how it computes. data: the FoldData. model: on ``device``, with CLIP's
    weights and fresh ones. clip: the fingerprint of CLIP's weights. text: the embeddings of all names, row =
    class id - 1, on ``device``.
    """

    def __init__(self, cfg: Config, clip: ClipWeights | None, stop: StopRequest | None = None):
        """clip: None reads those of ``model.clip``; stop: what all processes end by, as of Processes.

        Raises UserError and WeightsError for a device, weights, lists, images or masks that are missing or wrong.
        """
        self.cfg, self.device = cfg, pick_device(cfg.device)
        self.processes = Processes.join(self.device, stop)  # usually this one alone
        self.autocast = autocast(self.device, cfg.precision)
        make_deterministic(cfg.seed)
        set_tf32(self.device, cfg.precision)
        clip = clip or read_clip(cfg.model.clip)  # before images are counted, which takes minutes the first time
        clip = clip.with_activation(cfg.model.activation, cfg.model.clip)
        with self.processes.one_first():  # rank 0 counts the masks' pixels, the others read what it found
            self.data = FoldData(cfg, self.processes)
        self.model, _ = build_model(cfg.model, clip)
        self.clip = clip.fingerprint
        self.text = embed_classes(self.model, self.data.classes.names, self.data.seen, cfg.model).to(self.device)
        place(self.model, cfg, self.device)

    def predictor(self, **more) -> Predictor:
        """The Predictor of this model and data; more: its further fields."""
        return Predictor(self.model, self.text, self.data.fit, self.device, self.autocast, **more)

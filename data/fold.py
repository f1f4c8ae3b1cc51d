"""Everything that one fold of one data set trains on and is tested on, as the config says."""
from data.dataset import EvalDataset, TrainBatches, TrainDataset, eval_loader, mean_colour, train_loader
from data.folds import classes_of
from data.index import read_index
from data.loader import Loader
from data.manifest import read_manifest
from data.samples import Sample, episodic, exhaustive, spread, train_images
from data.transform import FITS
from util.config import Config
from util.runtime.processes import SINGLE_PROCESS, Processes


class FoldData:
    """Raises UserError wherever lists, images or masks are missing or wrong. Each of several processes loads its part."""

    def __init__(self, cfg: Config, processes: Processes = SINGLE_PROCESS):
        self.cfg, self.processes = cfg, processes
        self.classes = classes_of(cfg.data)
        self.unseen = self.classes.unseen(cfg.fold)
        self.seen = self.classes.seen(cfg.fold)
        self.index = read_index(cfg.data.root, cfg.data.val_list, len(self.classes.names))  # of the validation list
        self.fill = mean_colour(cfg.model.pixel_mean)

    def training(self) -> tuple[Loader, TrainBatches, int]:
        """The loader, the sampler that says which epoch it deals, and the number of images."""
        cfg, count = self.cfg, len(self.classes.names)
        index = read_index(cfg.data.root, cfg.data.train_list, count)
        images = train_images(index, self.classes, cfg.fold, cfg.data.min_pixels, cfg.data.train_classes)
        dataset = TrainDataset(cfg.data.root, index, images, count, cfg.model.size, self.fill, cfg.augment, cfg.seed)
        batches = TrainBatches(len(dataset), cfg.train.batch_size, cfg.train.epoch_samples, cfg.seed,
                               self.processes.rank, self.processes.count)
        return train_loader(dataset, batches, cfg.data.workers), batches, len(dataset)

    def draws(self) -> list[list[Sample]]:
        """The fold's test samples: one list, or several under the episodic protocol with ``eval.draws``."""
        cfg = self.cfg.eval
        if cfg.manifest:
            return [read_manifest(cfg.manifest, self.index, self.classes, self.unseen)]
        if self.sample_protocol == "exhaustive":
            return [exhaustive(self.index, self.unseen, self.cfg.data.min_pixels)]
        return [episodic(self.index, self.unseen, self.cfg.data.min_pixels, cfg.samples, cfg.seed + k)
                for k in range(cfg.draws)]

    @property
    def sample_protocol(self) -> str:
        """How samples of one image and one class are scored; the generalised protocol has none of its own."""
        if self.cfg.eval.manifest:
            return "manifest"
        return "exhaustive" if self.cfg.eval.protocol == "generalised" else self.cfg.eval.protocol

    def every_image(self) -> list[Sample]:
        """The validation list's images for the generalised protocol, in samples without a class (0)."""
        rows = [Sample(row, 0) for row in range(len(self.index.pairs))]
        return spread(rows, self.cfg.eval.images or len(rows))

    def seen_samples(self) -> list[Sample]:
        """Held-out images of the classes that are trained on, ``eval.seen_samples`` of them."""
        return spread(exhaustive(self.index, self.seen, self.cfg.data.min_pixels), self.cfg.eval.seen_samples)

    def loader(self, samples: list[Sample]) -> Loader:
        """Batches of this process's share of the test samples."""
        dataset = EvalDataset(self.cfg.data.root, self.index, self.processes.share(samples), len(self.classes.names),
                              self.cfg.model.size, self.fill, FITS[self.cfg.eval.fit])
        return eval_loader(dataset, self.cfg.eval.batch_size, self.cfg.data.workers)

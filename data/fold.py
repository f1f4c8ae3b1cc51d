"""Training and test data of one fold, as the config says."""
from torch.utils.data import DataLoader

from data.dataset import EvalDataset, TrainBatches, TrainDataset, eval_loader, loader, mean_colour
from data.folds import classes_of
from data.index import overlap, read_index
from data.samples import Sample, eval_samples, exhaustive, some, spread, train_images
from data.transform import FITS
from util.config import Config
from util.runtime import distributed
from util.runtime.errors import UserError


class FoldData:
    """Loaders and samples of a fold; each of several processes loads its own share."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.classes = classes_of(cfg.data)
        self.unseen = self.classes.unseen(cfg.fold)
        self.seen = self.classes.seen(cfg.fold)
        self.index = read_index(cfg.data.root, cfg.data.val_list, len(self.classes.names), cfg.dataset)  # validation
        self.versions = {"val": self.index.version}  # of the lists that are used
        self.fill = mean_colour(cfg.model.pixel_mean)
        self.fit = FITS[cfg.eval.fit]

    def training(self) -> tuple[DataLoader, TrainBatches, int]:
        """Return loader, batch sampler and number of images. Raises UserError if the lists overlap."""
        cfg, count = self.cfg, len(self.classes.names)
        if not cfg.data.train_list:
            raise UserError("data.train_list is empty: this set is to test on alone; give a list to train on")
        index = read_index(cfg.data.root, cfg.data.train_list, count, cfg.dataset)
        common = overlap(index, self.index)
        if common:
            raise UserError(f"{cfg.data.train_list}: {common} ({cfg.data.val_list}), so that scores would be of images "
                            f"that were trained on; take them out of one of the two")
        self.versions["train"] = index.version
        images = train_images(index, self.classes, cfg.fold, cfg.data.min_pixels, cfg.data.train_classes)
        dataset = TrainDataset(cfg.data.root, index, images, count, cfg.model.size, self.fill, cfg.augment, cfg.seed,
                               cfg.train.absent_names)
        batches = TrainBatches(len(dataset), cfg.train.batch_size, cfg.train.epoch_samples, cfg.seed,
                               distributed.rank(), distributed.count())
        return loader(dataset, cfg.data.workers, batch_sampler=batches), batches, len(dataset)

    def draws(self) -> list[list[Sample]]:
        """Return the fold's test samples: one list, or ``eval.draws`` of them under the episodic protocol."""
        return eval_samples(self.cfg, self.index, self.classes)

    @property
    def sample_protocol(self) -> str:
        """Name of the protocol that ``draws`` follows."""
        options = self.cfg.eval
        return "manifest" if options.manifest else options.protocol.replace("generalised", "exhaustive")

    def every_image(self) -> list[Sample]:
        """List the images of the generalised protocol, as samples without a class (0).

        Raises UserError if they show no seen or no unseen class: its mIoU would always be 0.
        """
        for class_ids in (self.unseen, self.seen):
            some(exhaustive(self.index, class_ids, 1), self.index,
                 f"shows any of {', '.join(map(self.classes.name, class_ids))}")
        return [Sample(row, 0) for row in range(len(self.index.pairs))]

    def seen_samples(self) -> list[Sample]:
        """Take ``eval.seen_samples`` validation samples of the seen classes; there may be none."""
        return spread(exhaustive(self.index, self.seen, self.cfg.data.min_pixels), self.cfg.eval.seen_samples)

    def loader(self, samples: list[Sample], originals: bool = False) -> DataLoader:
        """Load this process's share of the samples, fitted by ``fit``. originals: as of EvalDataset."""
        dataset = EvalDataset(self.cfg.data.root, self.index, distributed.share(samples), len(self.classes.names),
                              self.cfg.model.size, self.fill, self.fit, originals)
        return eval_loader(dataset, self.cfg.eval.batch_size, self.cfg.data.workers)

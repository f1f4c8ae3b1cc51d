"""Everything that one fold of one data set trains on and is tested on, as the config says."""
from data.dataset import EvalDataset, TrainBatches, TrainDataset, eval_loader, mean_colour, train_loader
from data.files import overlap
from data.folds import classes_of
from data.index import read_index
from data.loader import Loader
from data.samples import Sample, draw_samples, exhaustive, spread, train_images
from data.transform import FITS
from util.config import Config
from util.runtime.errors import UserError
from util.runtime.processes import SINGLE_PROCESS, Processes


class FoldData:
    """The loaders and samples of a fold; each of several processes loads its own share.

    Raises UserError wherever lists, images or masks are missing or wrong.
    """

    def __init__(self, cfg: Config, processes: Processes = SINGLE_PROCESS):
        self.cfg, self.processes = cfg, processes
        self.classes = classes_of(cfg.data)
        self.unseen = self.classes.unseen(cfg.fold)
        self.seen = self.classes.seen(cfg.fold)
        self.index = read_index(cfg.data.root, cfg.data.val_list, len(self.classes.names), cfg.dataset)  # validation
        self.versions = {"val": self.index.version}  # of the lists that are used
        self.fill = mean_colour(cfg.model.pixel_mean)
        self.fit = FITS[cfg.eval.fit]

    def training(self) -> tuple[Loader, TrainBatches, int]:
        """The loader, the sampler that decides which epoch it yields, and the number of images."""
        cfg, count = self.cfg, len(self.classes.names)
        if not cfg.data.train_list:
            raise UserError("data.train_list is empty: this data set is for testing alone (test.py); python -m "
                            "data.lists makes a training list")
        index = read_index(cfg.data.root, cfg.data.train_list, count, cfg.dataset)
        common = overlap(index.pairs, self.index.pairs)
        if common:
            raise UserError(f"{cfg.data.train_list}: {common} ({cfg.data.val_list}), so that scores would be of images "
                            f"that were trained on; take them out of one of the two")
        self.versions["train"] = index.version
        images = train_images(index, self.classes, cfg.fold, cfg.data.min_pixels, cfg.data.train_classes)
        dataset = TrainDataset(cfg.data.root, index, images, count, cfg.model.size, self.fill, cfg.augment, cfg.seed,
                               cfg.train.absent_names)
        batches = TrainBatches(len(dataset), cfg.train.batch_size, cfg.train.epoch_samples, cfg.seed,
                               self.processes.rank, self.processes.count)
        return train_loader(dataset, batches, cfg.data.workers), batches, len(dataset)

    def draws(self) -> list[list[Sample]]:
        """The fold's test samples: one list, or several under the episodic protocol with ``eval.draws``."""
        return draw_samples(self.cfg, self.index, self.classes)

    @property
    def sample_protocol(self) -> str:
        """The name of the protocol that ``draws`` follows."""
        if self.cfg.eval.manifest:
            return "manifest"
        return "exhaustive" if self.cfg.eval.protocol == "generalised" else self.cfg.eval.protocol

    def every_image(self) -> list[Sample]:
        """The images that the generalised protocol scores, as samples without a class (0).

        Raises UserError if they show no seen or no unseen class: its mIoU would be 0 whatever the model does.
        """
        rows = spread(list(range(len(self.index.pairs))), self.cfg.eval.images or len(self.index.pairs))
        for kind, class_ids in (("unseen", self.unseen), ("seen", self.seen)):
            if not self.index.pixels[rows][:, list(class_ids)].any():
                raise UserError(f"{self.cfg.data.val_list}: the {len(rows)} images of the generalised test show no "
                                f"{kind} class, so its mIoU means nothing; raise eval.images or check data.val_list")
        return [Sample(row, 0) for row in rows]

    def seen_samples(self) -> list[Sample]:
        """Held-out images of the seen classes, ``eval.seen_samples`` of them."""
        return spread(exhaustive(self.index, self.seen, self.cfg.data.min_pixels), self.cfg.eval.seen_samples)

    def loader(self, samples: list[Sample], originals: bool = False) -> Loader:
        """Batches of this process's share of the samples, fitted to the network's input as ``fit`` does.

        originals: as of EvalDataset.
        """
        dataset = EvalDataset(self.cfg.data.root, self.index, self.processes.share(samples), len(self.classes.names),
                              self.cfg.model.size, self.fill, self.fit, originals)
        return eval_loader(dataset, self.cfg.eval.batch_size, self.cfg.data.workers)

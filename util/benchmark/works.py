"""The work that is timed: a training step, evaluation, generalised inference, each by the code that runs do it with."""
from collections.abc import Callable

from data.transform import FITS, Fit
from util.benchmark.plain import evaluate_in_numpy, label_by_name
from util.benchmark.subject import Subject, Variant
from util.benchmark.switches import EVAL, GENERALISED, TRAIN
from util.evaluation.evaluate import evaluate
from util.evaluation.generalised import Labeller
from util.evaluation.predict import Predictor
from util.runtime.processes import SINGLE_PROCESS
from util.training.loop import Progress, train_one_epoch


class Work:
    """One kind of work on ``images`` images at once; ``call(variant)`` is what does it once, and may be timed."""

    def __init__(self, kind: str, subject: Subject, images: int):
        self.kind, self.subject, self.images = kind, subject, images
        if kind == TRAIN:
            self.batch = subject.train_batch(images)
        else:
            self.batches = {batched: subject.eval_batches(images, images if batched else 1)
                            for batched in (True, False)}

    def call(self, variant: Variant) -> Callable[[], object]:
        return {TRAIN: self._train, EVAL: self._evaluate, GENERALISED: self._label}[self.kind](variant)

    def _train(self, variant: Variant):
        cfg, device = self.subject.cfg, self.subject.device

        def step():
            return list(train_one_epoch(variant.model, variant.losses_of, variant.text, [self.batch], variant.optimizer,
                                        Progress(), 1, cfg.train, device, variant.autocast, SINGLE_PROCESS))
        return step

    def _fit(self, variant: Variant) -> Fit:
        return FITS[self.subject.cfg.eval.fit]._replace(cut=variant.switches.cut)

    def _evaluate(self, variant: Variant):
        subject, batches = self.subject, self.batches[variant.switches.batched]
        ids = subject.classes.folds[0]
        args = variant.model, variant.text, self._fit(variant), subject.device, variant.autocast
        if not variant.switches.scoring:
            return lambda: evaluate_in_numpy(*args, batches, ids)
        return lambda: evaluate(Predictor(*args), batches, ids, subject.classes, "exhaustive").scores

    def _label(self, variant: Variant):
        subject, options = self.subject, self.subject.cfg.eval
        if not variant.switches.shared:
            return lambda: label_by_name(variant.model, variant.text, variant.esda, subject.words, self._fit(variant),
                                         self.batches[False], subject.device, variant.autocast, options.presence,
                                         len(subject.words.cls))
        label_images = Labeller(variant.model, subject.words, self._fit(variant), subject.device, variant.autocast,
                                options.presence, options.chunk)
        return lambda: [labels for batch in self.batches[True] for labels in label_images(batch)]

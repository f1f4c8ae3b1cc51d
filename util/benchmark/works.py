"""The work that is timed: a training step, evaluation, generalised inference, each by the code that runs do it with."""
from collections.abc import Callable

from data.dataset import EvalBatch
from util.benchmark.plain import evaluate_in_numpy, label_by_name
from util.benchmark.subject import Subject, Variant
from util.benchmark.switches import EVAL, GENERALISED, TRAIN
from util.evaluation.evaluate import evaluate, predict
from util.evaluation.generalised import label_images
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

    def _batches(self, variant: Variant, batched: bool) -> list[EvalBatch]:
        return [batch._replace(cut=variant.switches.cut) for batch in self.batches[batched]]

    def _evaluate(self, variant: Variant):
        subject, batches = self.subject, self._batches(variant, variant.switches.batched)
        args = variant.model, variant.text, batches, subject.device, variant.autocast
        ids = subject.classes.folds[0]
        if not variant.switches.scoring:
            return lambda: evaluate_in_numpy(*args, ids)
        return lambda: evaluate(predict(*args, "evaluation"), ids, subject.classes, "exhaustive")

    def _label(self, variant: Variant):
        subject, options = self.subject, self.subject.cfg.eval
        if not variant.switches.shared:
            return lambda: label_by_name(variant.model, variant.text, variant.esda, subject.words, self.batches[False],
                                         subject.device, variant.autocast, options.presence, len(subject.words.cls))
        return lambda: [labels for labels, _ in label_images(
            variant.model, subject.words, self._batches(variant, True), subject.device, variant.autocast, options.presence,
            options.chunk, "generalised")]

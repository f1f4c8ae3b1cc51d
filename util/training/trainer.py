"""A run of training: what train.py does from the options to the tested epoch."""
import math
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from data.dataset import TrainBatch
from data.samples import distinct, spread
from model.build import TRAINED, build_losses
from model.losses import TERMS
from util.config import Config, to_dict
from util.evaluation.evaluate import evaluate
from util.evaluation.experiment import Experiment
from util.evaluation.presence import calibrate
from util.results import cost
from util.results.final import final_test, table, where
from util.results.origin import changed_options, in_words, not_zero_shot, origin_of, origin_of_checkpoint
from util.results.pictures import panel
from util.run import checkpoint
from util.run.folder import Run, code_version, folder_of
from util.run.selection import SELECTIONS
from util.run.weights import TrainedWeights, carried_clip, read_weights
from util.runtime.device import describe
from util.runtime.errors import UserError
from util.runtime.progress import progress
from util.runtime.stop import Stopped, StopRequest
from util.training import curves, resume
from util.training.ema import Average
from util.training.loop import Progress, require_finite, train_one_epoch
from util.training.optim import make_optimizer, restore_optimizer


class Trainer(Experiment):
    """An experiment that trains its model, and decides what is saved, logged and best."""

    def __init__(self, cfg: Config, stop: StopRequest):
        if cfg.model.kind not in TRAINED:
            raise UserError(f"model.kind={cfg.model.kind} has nothing to train; run test.py with this config")
        saved, start, clip = None, None, None
        again, cfg = cfg.resume == "auto", resume.find_run(cfg)
        if cfg.resume:
            cfg, saved, file = resume.read_run(cfg)
            clip = carried_clip(saved, str(file))
        elif cfg.weights:
            start = read_weights(cfg.weights, "weights= names a checkpoint to start from")
            clip = start.clip
        super().__init__(cfg, clip, stop)
        self.stop = stop
        with self.processes.one_first():
            self.loader, self.batches, images = self.data.training()
        if start:
            checkpoint.restore(self.model, start.saved, start.file, self.clip)
        self.optimizer = make_optimizer(self.model, cfg.train)
        self.average = Average(self.model, cfg.train.ema)
        self.losses_of = build_losses(self.model, cfg.loss, cfg.model)
        self.draw, self.seen = self.data.draws()[0], self.data.seen_samples()  # what an epoch is scored by
        self.at, self.last_scores, self.seconds = Progress(), None, 0.0
        self.best: dict[str, dict | None] = {"unseen": None, "seen": None}  # scores of the best epochs so far
        self.history: list[dict] = []                                       # every epoch's scores, for curves
        self.trained_on = origin_of(cfg, resume.started_from(start))
        if saved:
            self._take_back(saved, file)
        self.not_zero_shot = not_zero_shot(self.trained_on, cfg)
        self.miou = "mIoU (not zero-shot)" if self.not_zero_shot else "unseen mIoU"
        if cfg.dry_run:
            self.run = Run(folder_of(cfg, cfg.run), fresh=False, silent=True)
        else:
            self.run = (Run.open(file.parent.parent, False, self.processes) if saved
                        else Run.start(cfg, processes=self.processes, fresh=not again))
        self._tell(images, start)
        if saved:
            self.run.log(resume.going_on(saved, cfg, self.at, self.batches.batches))
            self.run.write_options(replace(cfg, run=self.run.folder.name))

    def _tell(self, images: int, start: TrainedWeights | None) -> None:
        sizes = cost.parameters(self.model)
        machine = describe(self.device, self.cfg.precision, self.processes.count)
        self.run.log(f"run {self.run.folder}  code {code_version()}  {machine}")
        self.run.log(f"fold {self.cfg.fold}: unseen {', '.join(map(self.data.classes.name, self.data.unseen))}")
        if self.not_zero_shot:
            self.run.log(f"NOT ZERO-SHOT: {self.not_zero_shot}")
        if start:
            changed = changed_options(start.saved, self.cfg)
            self.run.log(f"starts from {start.file}: {len(start.saved['model'])} trained tensors of epoch "
                         f"{start.saved['epoch'] + 1}" + (", on the CLIP that the file carries" if start.full else "")
                         + "; optimiser and schedule start anew"
                         + (f"; other options than it was trained with: {in_words(changed)}" if changed else ""))
        self.run.log(f"{images} training images, {len(self.draw)} test samples ({self.data.sample_protocol}), "
                     f"{sizes['trainable']:,} of {sizes['total']:,} parameters train, {self.batches.batches} "
                     f"iterations an epoch, lr {self.cfg.train.lr:g} with {self.cfg.train.optimizer}")

    def _take_back(self, saved: dict, file: Path) -> None:
        """Go on where a run's last checkpoint was written. Raises UserError naming an entry that is not understood."""
        checkpoint.restore(self.model, saved, file, self.clip)
        with resume.understood(file, "at"):
            self.at = resume.progress_of(saved["at"], self.batches.batches, self.cfg.train.epochs,
                                         self.losses_of.weights)
        if self.cfg.train.ema:
            with resume.understood(file, "average"):
                self.average.restore(saved["average"])
        with resume.understood(file, "optimizer"):
            restore_optimizer(self.optimizer, saved["optimizer"])
        with resume.understood(file, "rng"):
            torch.set_rng_state(saved["rng"])
            if self.device.type == "cuda" and saved["cuda_rng"] is not None:
                torch.cuda.set_rng_state(saved["cuda_rng"], self.device)
        with resume.understood(file, "best and last_scores"):
            self.best, self.last_scores = {rule: saved["best"][rule] for rule in self.best}, saved["last_scores"]
            for scores in (*self.best.values(), self.last_scores):
                if self.at.epoch or scores is not None:  # an epoch that has ended has scores
                    resume.require_scores(scores, self.at.epoch)
        with resume.understood(file, "history"):  # which runs of older versions do not have
            self.history = [dict(scores) for scores in saved.get("history", [])]
            for scores in self.history:
                resume.require_numbers(scores, math.inf, -math.inf)
        with resume.understood(file, "seconds"):
            resume.require_numbers({"seconds": saved["seconds"]}, math.inf)
        self.trained_on = resume.extended(origin_of_checkpoint(saved, str(file)), saved, self.cfg)
        self.seconds = float(saved["seconds"])

    def _weights(self) -> dict:
        epoch = self.at.epoch if self.at.step else max(0, self.at.epoch - 1)  # the one the weights come from
        state = {**self.model.trainable_state(), **self.average.weights()}
        require_finite({name: tensor.abs().max().item() for name, tensor in state.items()}, epoch, self.at.step - 1,
                       self.batches.batches)
        return {"model": state, "epoch": epoch, "clip": self.clip,
                "config": to_dict(self.cfg), "trained_on": self.trained_on}

    def save(self) -> None:
        """checkpoints/last.pt: all that a resumed run needs to give the same numbers."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        self.run.write_checkpoint("last.pt", {
            **self._weights(), "at": vars(self.at).copy(), "optimizer": self.optimizer.state_dict(), "best": self.best,
            "last_scores": self.last_scores, "seconds": self.seconds, "rng": torch.get_rng_state(), "cuda_rng": cuda,
            "average": self.average.state(), "history": self.history})
        self.saved = time.monotonic()

    def steps(self, batches: Iterable[TrainBatch], at: Progress) -> Iterator[dict]:
        """``train_one_epoch`` of this model."""
        return train_one_epoch(self.model, self.losses_of, self.text, batches, self.optimizer, at, self.batches.batches,
                               self.cfg.train, self.device, self.autocast, self.processes)

    def train_epoch(self) -> None:
        """The epoch under way from the step where it stands, into log, TensorBoard and last.pt. Raises Stopped."""
        cfg = self.cfg.train
        self.batches.start(self.at.epoch, self.at.step)
        bar = progress(self.steps(self.loader, self.at), f"epoch {self.at.epoch + 1}/{cfg.epochs}",
                       total=self.batches.batches, initial=self.at.step)
        images = seconds = 0
        with self.stop:
            for step in bar:
                self.average.update()
                images, seconds = images + step["images"], seconds + step["seconds"]
                self.seconds += step["seconds"]
                bar.set_postfix(loss=f"{step['losses']['loss']:.3f}")
                if step["iteration"] % cfg.log_every == 0:
                    terms = {f"train/loss_{TERMS[name].tag}": step["losses"][name] for name in self.losses_of.weights}
                    self.run.scalars({"train/loss": step["losses"]["loss"], **terms, "train/lr": step["lr"],
                                      "train/images_per_s": images / seconds}, step["iteration"])
                    images = seconds = 0
                if step["stop"] or time.monotonic() - self.saved > 60 * cfg.checkpoint_minutes:
                    self.save()
                if step["stop"]:
                    self.processes.wait()  # for rank 0 to have saved
                    self.processes.close()
                    raise Stopped(self.stop.number or signal.SIGTERM)
            self.save()            # if evaluation is cut off, it starts again from here
            self.processes.wait()  # for rank 0 to have saved, should a signal have come after the last step

    def evaluate_epoch(self) -> dict:
        """Scores on unseen and on seen classes, into log and TensorBoard."""
        epoch, data = self.at.epoch, self.data
        predict = self.predictor()
        samples = distinct([self.draw])
        unseen, kept, _ = evaluate(predict, data.loader(samples), data.unseen, data.classes, data.sample_protocol,
                                   label="unseen classes", draws=[self.draw],
                                   keep=spread(samples, self.cfg.eval.pictures), processes=self.processes)
        seen = evaluate(predict, data.loader(self.seen), data.seen, data.classes, "exhaustive",
                        label="seen classes", processes=self.processes).scores
        means = self.at.means()
        terms = ", ".join(f"{TERMS[name].label} {means[name]:.4f}" for name in self.losses_of.weights)
        self.run.log(f"epoch {epoch + 1}/{self.cfg.train.epochs}: loss {means['loss']:.4f} ({terms})  "
                     f"{self.miou} {unseen['miou']:.2f} "
                     f"({unseen['protocol']}, {unseen['samples']} samples)  FB-IoU {unseen['fb_iou']:.2f}  "
                     f"seen mIoU {seen['miou']:.2f} ({seen['samples']} samples)")
        step = (epoch + 1) * self.batches.batches - 1  # of its last iteration: a run resumed after it keeps the scores
        self.run.scalars(curves.epoch_scores(unseen, seen), step)
        for k, p in enumerate(kept.values()):
            self.run.picture(f"unseen/{k:02d}_{data.classes.name(p.sample.class_id)}", panel(p, data.classes), step)
        return {"epoch": epoch + 1, "miou": unseen["miou"], "fb_iou": unseen["fb_iou"], "seen_miou": seen["miou"],
                **{key: unseen[key] for key in ("per_class", "protocol", "samples")}}

    def fit(self) -> None:
        """All epochs, or until one no longer gets better; the best by each score go to checkpoints/."""
        cfg = self.cfg.train
        first = self.at.epoch * self.batches.batches + self.at.step
        self.run.open_events(first)
        self.run.summaries(curves.LAYOUT, step=first)
        self.save()
        while self.at.epoch < cfg.epochs and not self._out_of_patience():
            self.train_epoch()
            with self.average.in_place():
                self.last_scores = self.evaluate_epoch()
            for rule, best in self.best.items():
                score = SELECTIONS[rule].score
                if self.last_scores[score] > (-math.inf if best is None else best[score]):  # which NaN never is
                    self.best[rule] = self.last_scores
                    self.run.write_checkpoint(SELECTIONS[rule].file, self._weights())
            self.history.append({"loss": self.at.means()["loss"], **{
                key: self.last_scores[key] for key in ("epoch", "miou", "fb_iou", "seen_miou")}})
            self.at = Progress(epoch=self.at.epoch + 1)
            self.save()
        if self.at.epoch < cfg.epochs:
            self.run.log(f"no better {cfg.select} mIoU in {cfg.patience} epochs: stopping")

    def _out_of_patience(self) -> bool:
        """By the score that selects: to stop by the unseen classes would be to look at them."""
        best = self.best.get(self.cfg.train.select)
        return best is not None and self.at.epoch - best["epoch"] >= self.cfg.train.patience

    def finish(self) -> None:
        """Test the epoch that train.select names and say where everything is."""
        selections, select = {**self.best, "last": self.last_scores}, self.cfg.train.select
        weights = self.run.checkpoints / SELECTIONS[select].file
        if selections[select] is None:
            raise UserError(f"no epoch has a score for train.select={select} that is a number; choose another with "
                            f"resume={self.run.folder}")
        self.processes.wait()  # for rank 0 to have saved
        saved = checkpoint.read(weights, "train again")
        checkpoint.restore(self.model, saved, weights, self.clip)
        threshold = calibrate(self.predictor(), self.data, self.seen)
        self.run.write_checkpoint(weights.name, {**saved, "presence_threshold": threshold})
        steps = self.at.epoch * self.batches.batches
        results = final_test(self, self.run, str(weights), threshold, {
            "trained_on": self.trained_on, **({"not_zero_shot": self.not_zero_shot} if self.not_zero_shot else {}),
            "selection": SELECTIONS[select].words, "best_epoch": selections[select]["epoch"],
            "selections": selections, "epochs": self.history, "steps": steps,
            "images": steps * self.cfg.train.batch_size, "last_epoch": self.last_scores,
            "training_seconds": round(self.seconds, 1)})
        self.run.scalars(curves.final_scores(results), steps)
        self.run.summaries(*curves.hyperparameters(self.cfg, results), step=steps)
        self.run.log(table(results))
        self.run.log("\n".join(f"  {SELECTIONS[rule].words}: {scores['epoch']}, {self.miou} {scores['miou']:.1f}"
                               + (" (tested)" if rule == select else "") for rule, scores in selections.items()))
        self.run.log(f"{where(self.run)}\nweights    {weights}\ncurves     tensorboard --logdir {self.cfg.exp}")

"""Train on the seen classes of one fold, keep the best epochs, test one of them on the unseen classes.

    python train.py --config config/shapes/esda.yaml fold=0 [key=value ...]
"""
import math
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from data.samples import distinct, spread
from model.build import build_losses
from model.losses import TERMS
from util.config import Config, from_command_line, to_dict
from util.evaluation import cost
from util.evaluation.evaluate import evaluate
from util.evaluation.experiment import Experiment
from util.evaluation.pictures import panel
from util.evaluation.presence import calibrate
from util.evaluation.report import SHOWN, table, test_fold, where, write_results
from util.options import SELECTIONS, TRAINED
from util.run import checkpoint
from util.run.folder import Run, code_version
from util.run.origin import changed_options, in_words, not_zero_shot, origin_of
from util.runtime import distributed, progress
from util.runtime.device import describe
from util.runtime.errors import UserError, run_main
from util.training import resume
from util.training.loop import Position, train_one_epoch
from util.training.optim import make_optimizer
from util.training.plan import plan

SAVE_EVERY = 600.0  # s: checkpoints/last.pt is also written this often within an epoch
LOG_EVERY = 20      # iterations between points in TensorBoard


class Trainer(Experiment):
    """Experiment that trains its model, and decides what is saved, logged and best."""

    def __init__(self, cfg: Config):
        if cfg.model.kind not in TRAINED:
            raise UserError(f"model.kind={cfg.model.kind} has nothing to train; run test.py with this config")
        again, cfg = cfg.resume == "auto", resume.find_run(cfg)
        saved, start = None, None
        if cfg.resume:
            cfg, saved, file = resume.read_run(cfg)
        elif cfg.weights:
            start = checkpoint.load(cfg.weights)
            start["model"].pop("rivals", None)  # ESDA+ keeps those of its own fold: the start's may be unseen here
            if start["clip"] is None:  # a released checkpoint carries its CLIP
                cfg = replace(cfg, model=replace(cfg.model, clip=cfg.weights))
        super().__init__(cfg)
        with distributed.one_first():
            self.loader, self.batches, images = self.data.training()
        if start:
            checkpoint.restore(self.model, start, cfg.weights, self.clip)
        self.wrapped = distributed.average_gradients(self.model)
        self.optimizer = make_optimizer(self.model, cfg.train)
        self.losses_of = build_losses(self.model, cfg)
        self.draw, self.seen = self.data.draws()[0], self.data.seen_samples()  # what an epoch is scored by
        if cfg.train.select == "seen" and not self.seen:
            raise UserError(f"train.select=seen: no image of {cfg.data.val_list} shows a seen class, or "
                            f"eval.seen_samples is 0; choose another train.select")
        if cfg.eval.protocol == "generalised":
            self.data.every_image()     # better refused before training than after
        self.at, self.last_scores, self.seconds, self.saved = Position(), None, 0.0, 0.0
        self.best: dict[str, dict | None] = dict.fromkeys(["unseen", "seen"] if self.seen else ["unseen"])  # so far
        self.history: list[dict] = []                                       # every epoch's scores, for curves
        self.trained_on = origin_of(cfg, start and {"file": cfg.weights, "epoch": start["epoch"] + 1,
                                                    "trained_on": start["trained_on"]}, self.data.versions)
        if saved:
            self._restore(saved, file)
        self.not_zero_shot = not_zero_shot(self.trained_on, cfg)
        self.miou = "mIoU (not zero-shot)" if self.not_zero_shot else "unseen mIoU"
        if not cfg.dry_run:
            self.run = Run(Path(file).parent.parent) if saved else Run.start(cfg, fresh=not again)
            self._tell(images, start)
            if saved:
                self.run.log(resume.going_on(saved, cfg, self.batches.batches))
                self.run.write_options(replace(cfg, run=self.run.folder.name))

    def _tell(self, images: int, start: dict | None) -> None:
        sizes = cost.parameters(self.model)
        machine = describe(self.device, self.cfg.precision)
        self.run.log(f"run {self.run.folder}  code {code_version()}  {machine}")
        self.run.log(f"fold {self.cfg.fold}: unseen {', '.join(map(self.data.classes.name, self.data.unseen))}")
        if self.not_zero_shot:
            self.run.log(f"NOT ZERO-SHOT: {self.not_zero_shot}")
        if "changed_data" in self.trained_on:
            self.run.log(f"CHANGED: {self.trained_on['changed_data']}")
        if not self.seen:
            self.run.log("no seen class is scored, as no image to test on shows one or eval.seen_samples is 0: no seen "
                         "score, and no threshold of presence")
        if start:
            changed = changed_options(start, self.cfg)
            self.run.log(f"starts from {self.cfg.weights}: {len(start['model'])} trained tensors of epoch "
                         f"{start['epoch'] + 1}" + ", on the CLIP that the file carries" * (start["clip"] is None)
                         + "; optimiser and schedule start anew"
                         + (f"; other options than it was trained with: {in_words(changed)}" if changed else ""))
        self.run.log(f"{images} training images, {len(self.draw)} test samples ({self.data.sample_protocol}), "
                     f"{sizes['trainable']:,} of {sizes['total']:,} parameters train, {self.batches.batches} "
                     f"iterations an epoch, lr {self.cfg.train.lr:g} with {self.cfg.train.optimizer}")

    def fit(self) -> None:
        """Train all epochs, or until patience runs out; the best by each score go to checkpoints/."""
        cfg = self.cfg.train
        self.run.open_events(self.at.epoch * self.batches.batches + self.at.step)
        self.save()
        while self.at.epoch < cfg.epochs and not self._out_of_patience():
            self.train_epoch()
            self.last_scores = self.evaluate_epoch()
            for rule, best in self.best.items():
                score = SELECTIONS[rule].score
                if self.last_scores[score] > (-math.inf if best is None else best[score]):
                    self.best[rule] = self.last_scores
                    self.run.write_checkpoint(SELECTIONS[rule].file, self._weights())
            self.history.append({"loss": self.at.means()["loss"], **{
                key: self.last_scores[key] for key in ("epoch", "miou", "fb_iou", "seen_miou")}})
            self.at = Position(epoch=self.at.epoch + 1)
            self.save()
        if self.at.epoch < cfg.epochs:
            self.run.log(f"no better {cfg.select} mIoU in {cfg.patience} epochs: stopping")

    def train_epoch(self) -> None:
        """Train the rest of the epoch under way, into log, TensorBoard and last.pt. Raises Stopped."""
        self.batches.start(self.at.epoch, self.at.step)
        bar = progress.progress(self.steps(self.loader, self.at), f"epoch {self.at.epoch + 1}/{self.cfg.train.epochs}",
                       total=self.batches.batches, initial=self.at.step, held=True)
        images = seconds = 0
        for step in bar:
            images, seconds = images + step["images"], seconds + step["seconds"]
            self.seconds += step["seconds"]
            bar.note = f"loss={step['losses']['loss']:.3f}"
            if step["iteration"] % LOG_EVERY == 0:
                terms = {f"train/loss_{TERMS[name].tag}": step["losses"][name] for name in self.losses_of.weights}
                self.run.scalars({"train/loss": step["losses"]["loss"], **terms, "train/lr": step["lr"],
                                  "train/images_per_s": images / seconds}, step["iteration"])
                images = seconds = 0
            if step["stop"] or time.monotonic() - self.saved > SAVE_EVERY:
                self.save()
            if step["stop"]:
                distributed.wait()  # for rank 0 to have saved
                progress.leave(signal.SIGTERM)
        self.save()             # if evaluation is cut off, it starts again from here
        distributed.wait()      # for rank 0 to have saved

    def steps(self, batches, at: Position):
        """Run ``train_one_epoch`` on this model."""
        return train_one_epoch(self.model, self.losses_of, self.text, batches, self.optimizer, at,
                               self.batches.batches, self.cfg.train, self.device, self.autocast, self.wrapped)

    def evaluate_epoch(self) -> dict:
        """Score unseen and seen classes, into log and TensorBoard."""
        epoch, data = self.at.epoch, self.data
        predict = self.predictor()
        samples = distinct([self.draw])
        unseen, kept, _ = evaluate(predict, data.loader(samples), data.unseen, data.classes, data.sample_protocol,
                                   label="unseen classes", draws=[self.draw], keep=spread(samples, SHOWN))
        seen = evaluate(predict, data.loader(self.seen), data.seen, data.classes, "exhaustive",
                        label="seen classes").scores if self.seen else None
        means = self.at.means()
        terms = ", ".join(f"{TERMS[name].label} {means[name]:.4f}" for name in self.losses_of.weights)
        self.run.log(f"epoch {epoch + 1}/{self.cfg.train.epochs}: loss {means['loss']:.4f} ({terms})  "
                     f"{self.miou} {unseen['miou']:.2f} "
                     f"({unseen['protocol']}, {unseen['samples']} samples)  FB-IoU {unseen['fb_iou']:.2f}  "
                     + (f"seen mIoU {seen['miou']:.2f} ({seen['samples']} samples)" if seen else "no seen samples"))
        step = (epoch + 1) * self.batches.batches - 1  # of its last iteration: a run resumed after it keeps the scores
        self.run.scalars({"mIoU_unseen": unseen["miou"], "unseen/FB-IoU": unseen["fb_iou"],
                          **({"seen/mIoU": seen["miou"]} if seen else {}),
                          **{f"unseen_IoU/{name}": iou for name, iou in unseen["per_class"].items()}}, step)
        for k, p in enumerate(kept.values()):
            self.run.picture(f"unseen/{k:02d}_{data.classes.name(p.sample.class_id)}", panel(p, data.classes), step)
        return {"epoch": epoch + 1, "seen_miou": seen and seen["miou"],
                **{key: unseen[key] for key in ("miou", "fb_iou", "per_class", "protocol", "samples")}}

    def _out_of_patience(self) -> bool:
        """Check patience by the score that selects: to stop by the unseen classes would be to look at them."""
        best = self.best.get(self.cfg.train.select)
        return best is not None and self.at.epoch - best["epoch"] >= self.cfg.train.patience

    def finish(self) -> None:
        """Test the epoch that train.select names and say where everything is."""
        selections, select = {**self.best, "last": self.last_scores}, self.cfg.train.select
        weights = self.run.checkpoints / SELECTIONS[select].file
        distributed.wait()  # for rank 0 to have saved
        saved = checkpoint.load(weights)
        checkpoint.restore(self.model, saved, weights, self.clip)
        threshold = calibrate(self.predictor(), self.data, self.seen) if self.seen else None
        self.run.write_checkpoint(weights.name, {**saved, "presence_threshold": threshold})
        steps = self.at.epoch * self.batches.batches
        results = write_results(self, self.run, test_fold(self, threshold), str(weights), {
            "trained_on": self.trained_on, **({"not_zero_shot": self.not_zero_shot} if self.not_zero_shot else {}),
            "selection": SELECTIONS[select].words, "best_epoch": selections[select]["epoch"],
            "selections": selections, "epochs": self.history, "steps": steps,
            "images": steps * self.cfg.train.batch_size, "last_epoch": self.last_scores,
            "training_seconds": round(self.seconds, 1)})
        self.run.scalars({f"test/{name}": results[key] for name, key in (
            ("mIoU", "miou"), ("FB-IoU", "fb_iou"), ("hIoU", "hiou"), ("name_AUC", "name_auc"))
            if results.get(key) is not None}, steps)
        self.run.log(table(results))
        self.run.log("\n".join(f"  {SELECTIONS[rule].words}: {scores['epoch']}, {self.miou} {scores['miou']:.1f}"
                               + (" (tested)" if rule == select else "") for rule, scores in selections.items()))
        self.run.log(f"{where(self.run)}\nweights    {weights}\ncurves     tensorboard --logdir {self.cfg.exp}")
        self.run.close()

    def _weights(self) -> dict:
        epoch = self.at.epoch if self.at.step else max(0, self.at.epoch - 1)  # the one the weights come from
        return {"model": self.model.trainable_state(), "epoch": epoch, "clip": self.clip, "config": to_dict(self.cfg),
                "trained_on": self.trained_on}

    def state(self) -> dict:
        """Return all that a resumed run needs to give the same numbers: plain values and tensors."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {**self._weights(), "at": vars(self.at).copy(), "optimizer": self.optimizer.state_dict(),
                "best": self.best, "last_scores": self.last_scores, "history": self.history, "seconds": self.seconds,
                "rng": torch.get_rng_state(), "cuda_rng": cuda}

    def save(self) -> None:
        """Write checkpoints/last.pt."""
        self.run.write_checkpoint("last.pt", self.state())
        self.saved = time.monotonic()

    def _restore(self, saved: dict, file: Path) -> None:
        """Restore the state in which a run's last checkpoint was written."""
        checkpoint.restore(self.model, saved, file, self.clip)
        self.at = Position(**saved["at"])
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        if self.device.type == "cuda" and saved["cuda_rng"] is not None:
            torch.cuda.set_rng_state(saved["cuda_rng"], self.device)
        self.best, self.last_scores, self.history = saved["best"], saved["last_scores"], saved["history"]
        self.seconds = saved["seconds"]
        self.trained_on = resume.origin_of_resumed(saved, self.cfg, self.data.versions)


def main() -> None:
    cfg = from_command_line(sys.argv[1:], __doc__)
    progress.listen()
    trainer = Trainer(cfg)
    if cfg.dry_run:
        return plan(trainer)
    progress.go_on = f"; go on with resume={trainer.run.folder}"
    trainer.fit()
    trainer.finish()
    distributed.close()


if __name__ == "__main__":
    run_main(main)

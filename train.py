"""Train on the seen classes of one fold, keep the best epoch, test it on the unseen classes.

    python train.py --config config/shapes/esda.yaml fold=0 [key=value ...]
"""
import sys
import time
from functools import partial
from pathlib import Path

import torch

from model.build import build_model, embed_names
from model.clip_weights import WeightsError
from model.losses import esda_losses
from util import checkpoint
from util.config import Config, from_command_line, to_dict
from util.device import autocast, describe, make_deterministic, pick_device
from util.engine import Progress, train_one_epoch
from util.errors import UserError, run_main
from util.evaluate import evaluate, predict
from util.fold_data import FoldData
from util.optim import make_optimizer
from util.progress import progress
from util.report import final_test, table, watch
from util.run import Run, code_version
from util.samples import spread
from util.stop import Stopped, StopRequest
from util.visualize import panel

FREE_TO_CHANGE = ("resume", "exp", "run", "device", "data.workers", "train.checkpoint_minutes", "train.log_every")


class Trainer:
    """Joins data, model and engine, and decides what is saved, logged and best."""

    def __init__(self, cfg: Config, stop: StopRequest):
        self.cfg, self.stop = cfg, stop
        self.device = pick_device(cfg.device)
        self.autocast = autocast(self.device, cfg.precision)
        make_deterministic(cfg.seed)
        self.data = FoldData(cfg)
        self.loader, self.batches, images = self.data.training()
        self.model, weights = build_model(cfg.model)
        if cfg.model.kind != "esda":
            raise UserError(f"model.kind={cfg.model.kind} has nothing to train; run test.py with this config")
        self.clip = weights.fingerprint
        self.text = embed_names(self.model.text_encoder, self.data.classes.names, cfg.model.prompt,
                                cfg.model.same_word).to(self.device)
        self.model.to(self.device)
        self.optimizer = make_optimizer(self.model, cfg.train)
        last = len(self.model.image_encoder.transformer.resblocks) - 1
        self.losses_of = partial(esda_losses, last_block=last in self.model.image_encoder.prior_indices,
                                 last_weight=cfg.loss.last, others_weight=cfg.loss.others)
        self.unseen, self.seen = self.data.unseen_samples(), self.data.seen_samples()
        self.at, self.best, self.last_scores, self.seconds = Progress(), None, None, 0.0
        self.run = self._resume(Path(cfg.resume)) if cfg.resume else Run.start(cfg)
        self._tell(images)

    def _tell(self, images: int) -> None:
        parameters = list(self.model.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        self.run.log(f"run {self.run.folder}  code {code_version()}  {describe(self.device, self.cfg.precision)}")
        self.run.log(f"fold {self.cfg.fold}: unseen {', '.join(map(self.data.classes.name, self.data.unseen))}")
        self.run.log(f"{images} training images, {len(self.unseen)} test samples ({self.cfg.eval.protocol}), "
                     f"{trained:,} of {sum(p.numel() for p in parameters):,} parameters train, "
                     f"{self.batches.batches} iterations an epoch, lr {self.cfg.train.lr:g} with {self.cfg.train.optimizer}")

    def _resume(self, path: Path) -> Run:
        """Take everything back from a run's last checkpoint."""
        file = path / "checkpoints" / "last.pt" if path.is_dir() else path
        saved = checkpoint.read(file, "give resume= the folder of a run that was stopped")
        if "optimizer" not in saved:
            raise UserError(f"{file}: holds weights but not the state of a run; resume= wants checkpoints/last.pt")
        then, now = _flat(saved["config"]), _flat(to_dict(self.cfg))
        changed = sorted(k for k in then.keys() | now.keys() if then.get(k) != now.get(k) and k not in FREE_TO_CHANGE)
        if changed:
            what = ", ".join(f"{k} (then {then.get(k)!r}, now {now.get(k)!r})" for k in changed)
            raise UserError(f"{file}: the run was started with other options: {what}; resume with the same ones, or "
                            f"start a new run")
        checkpoint.restore(self.model, saved, file, self.clip)
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        if self.device.type == "cuda" and saved["cuda_rng"] is not None:
            torch.cuda.set_rng_state(saved["cuda_rng"], self.device)
        self.at, self.best = Progress(**saved["at"]), saved["best"]
        self.last_scores, self.seconds = saved["last_scores"], saved["seconds"]
        return Run(file.parent.parent, fresh=False)

    def _weights(self) -> dict:
        return {"model": self.model.trainable_state(), "epoch": self.at.epoch, "clip": self.clip,
                "config": to_dict(self.cfg)}

    def save(self) -> None:
        """checkpoints/last.pt: all that a resumed run needs to give the same numbers."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        checkpoint.write_atomically(self.run.checkpoints / "last.pt", {
            **self._weights(), "at": vars(self.at).copy(), "optimizer": self.optimizer.state_dict(), "best": self.best,
            "last_scores": self.last_scores, "seconds": self.seconds, "rng": torch.get_rng_state(), "cuda_rng": cuda})
        self.saved = time.monotonic()

    def train_epoch(self) -> None:
        cfg, steps = self.cfg.train, self.batches.batches
        self.batches.start(self.at.epoch, self.at.step)
        stream = train_one_epoch(self.model, self.losses_of, self.text, self.loader, self.optimizer, self.at, steps,
                                 cfg, self.device, self.autocast)
        bar = progress(stream, f"epoch {self.at.epoch + 1}/{cfg.epochs}", total=steps, initial=self.at.step)
        images = seconds = 0
        with self.stop:
            for step in bar:
                images, seconds = images + step["images"], seconds + step["seconds"]
                self.seconds += step["seconds"]
                bar.set_postfix(loss=f"{step['loss']:.3f}")
                if step["iteration"] % cfg.log_every == 0:
                    self.run.scalars({"train/loss": step["loss"], "train/loss_mask": step["main"],
                                      "train/loss_last_block": step["last"], "train/loss_other_blocks": step["others"],
                                      "train/lr": step["lr"], "train/images_per_s": images / seconds},
                                     step["iteration"])
                    images = seconds = 0
                if self.stop.number or time.monotonic() - self.saved > 60 * cfg.checkpoint_minutes:
                    self.save()
                self.stop.check()

    def evaluate_epoch(self) -> dict:
        """Scores on unseen and on seen classes, into log and TensorBoard."""
        epoch, data, args = self.at.epoch, self.data, (self.device, self.autocast)
        chosen, kept = spread(self.unseen, self.cfg.eval.pictures), {}
        stream = predict(self.model, self.text, data.loader(self.unseen), *args, "unseen classes")
        unseen = evaluate(watch(stream, chosen, kept), data.unseen, data.classes, self.cfg.eval.protocol)
        stream = predict(self.model, self.text, data.loader(self.seen), *args, "seen classes")
        seen = evaluate(stream, data.seen, data.classes, "exhaustive")
        means = self.at.means()
        self.run.log(f"epoch {epoch + 1}/{self.cfg.train.epochs}: loss {means['loss']:.4f} (mask {means['main']:.4f}, "
                     f"last block {means['last']:.4f}, others {means['others']:.4f})  unseen mIoU {unseen['miou']:.2f} "
                     f"({unseen['protocol']}, {unseen['samples']} samples)  FB-IoU {unseen['fb_iou']:.2f}  "
                     f"seen mIoU {seen['miou']:.2f} ({seen['samples']} samples)")
        step = (epoch + 1) * self.batches.batches
        self.run.scalars({"unseen/mIoU": unseen["miou"], "unseen/FB-IoU": unseen["fb_iou"], "seen/mIoU": seen["miou"],
                          **{f"unseen_IoU/{name}": iou for name, iou in unseen["per_class"].items()},
                          **{f"seen_IoU/{name}": iou for name, iou in seen["per_class"].items()}}, step)
        for k, p in enumerate(kept.values()):
            self.run.picture(f"unseen/{k:02d}_{data.classes.name(p.sample.class_id)}", panel(p, data.classes), step)
        return {"epoch": epoch + 1, "miou": unseen["miou"], "fb_iou": unseen["fb_iou"], "seen_miou": seen["miou"]}

    def fit(self) -> None:
        """All epochs; the best by mIoU on the unseen classes, as the field does, goes to checkpoints/best.pt."""
        cfg = self.cfg.train
        self.run.open_events(self.at.epoch * self.batches.batches + self.at.step)
        self.save()
        while self.at.epoch < cfg.epochs:
            self.train_epoch()
            self.save()  # if evaluation is cut off, it starts again from here
            self.last_scores = self.evaluate_epoch()
            if self.best is None or self.last_scores["miou"] > self.best["miou"]:
                self.best = self.last_scores
                checkpoint.write_atomically(self.run.checkpoints / "best.pt", self._weights())
            self.at = Progress(epoch=self.at.epoch + 1)
            self.save()
            if self.at.epoch - self.best["epoch"] >= cfg.patience:
                self.run.log(f"no better unseen mIoU in {cfg.patience} epochs: stopping")
                break

    def finish(self) -> None:
        """Test the best epoch and say where everything is."""
        best = self.run.checkpoints / "best.pt"
        checkpoint.restore(self.model, checkpoint.read(best, "train again"), best, self.clip)
        results = final_test(self.model, self.text, self.data, self.cfg, self.run, self.device, self.autocast,
                             str(best), self.clip, {
                                 "selection": "best epoch by unseen-class mIoU", "best_epoch": self.best["epoch"],
                                 "last_epoch": self.last_scores, "training_seconds": round(self.seconds, 1)})
        self.run.log(table(results))
        self.run.log(f"  best epoch {self.best['epoch']} by unseen-class mIoU; the last epoch ({self.last_scores['epoch']}) "
                     f"has {self.last_scores['miou']:.1f}")
        self.run.log(f"pictures   {self.run.folder}/pictures/unseen.png\nresults    {self.run.folder}/results.json\n"
                     f"weights    {best}\ncurves     tensorboard --logdir {self.cfg.exp}")


def _flat(values: dict, prefix: str = "") -> dict:
    """Nested options as {"train.lr": ...}."""
    out = {}
    for key, value in values.items():
        out.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return out


def main() -> int:
    stop = StopRequest()
    trainer = None
    try:
        trainer = Trainer(from_command_line(sys.argv[1:]), stop)
        trainer.fit()
        trainer.finish()
    except Stopped as stopped:
        where = f"; go on with resume={trainer.run.folder}" if trainer else ""
        print(f"\nstopped{where}", file=sys.stderr)
        return stopped.status
    finally:
        if trainer:
            trainer.run.close()
    return 0


if __name__ == "__main__":
    run_main(main, WeightsError)

"""Train on the seen classes of one fold, keep the best epochs, test one of them on the unseen classes.

    python train.py --config config/shapes/esda.yaml fold=0 [key=value ...]
"""
import sys

from model.clip.errors import WeightsError
from util.config import from_command_line
from util.runtime.errors import run_main
from util.runtime.stop import Stopped, StopRequest


def main() -> int:
    cfg = from_command_line(sys.argv[1:], __doc__)
    stop, trainer = StopRequest(), None
    try:
        with stop:  # an import that is cut off complains in its own words
            from util.training.trainer import Trainer  # torch takes seconds to import: mistakes above are told before
        trainer = Trainer(cfg, stop)
        if cfg.dry_run:
            from util.training.plan import plan
            plan(trainer)
        else:
            trainer.fit()
            trainer.finish()
        trainer.processes.close()
    except Stopped as stopped:
        stopped.where = f"; go on with resume={trainer.run.folder}" if trainer and not cfg.dry_run else ""
        raise
    finally:
        if trainer:
            trainer.run.close()
    return 0


if __name__ == "__main__":
    run_main(main, WeightsError)

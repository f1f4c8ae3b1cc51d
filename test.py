"""Test a checkpoint on the unseen classes of its fold, or a baseline that needs none.

    python test.py --config config/shapes/esda.yaml weights=exp/.../checkpoints/best.pt [key=value ...]

weights= also takes a checkpoint that carries CLIP along: a released one, or a .safetensors of convert.py.
"""
import sys

from model.clip.errors import WeightsError
from util.config import from_command_line
from util.runtime.errors import run_main
from util.runtime.stop import StopRequest


def main() -> None:
    cfg = from_command_line(sys.argv[1:], __doc__)
    stop = StopRequest()
    with stop:  # an import that is cut off complains in its own words
        from util.evaluation.tester import test  # torch takes seconds to import: mistakes above are told before
    test(cfg)


if __name__ == "__main__":
    run_main(main, WeightsError)

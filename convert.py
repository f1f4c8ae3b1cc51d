"""Turn a checkpoint that carries CLIP along into safetensors under our names, or into the authors' released format.

    python convert.py IN OUT

IN: a released checkpoint; a .safetensors of this command; or checkpoints/best.pt of train.py, to which CLIP is added
from the file that its run used. OUT: NAME.safetensors, or NAME.pt or NAME.pth for the released format. Every tensor
stays as it is, bit for bit; the optimiser's state is not kept. test.py takes either form as weights=.

It stands beside train.py and test.py because it joins what only they join: model/ knows the names, util/ the files.
"""
from pathlib import Path

from model.build import build_model
from model.checkpoints import FullCheckpoint, released_content, safetensors_content
from model.clip.errors import WeightsError
from util.config import Config, from_dict
from util.results.origin import origin_of_checkpoint
from util.run import checkpoint
from util.run.weights import read_weights
from util.runtime.errors import Parser, UserError, run_main

REMEDY = "free some space or choose another OUT"


def read(path: Path) -> FullCheckpoint:
    """All of the model in ``path``."""
    weights = read_weights(str(path), "IN is the checkpoint to convert")
    if weights.full is not None:
        return weights.full
    saved = weights.saved
    options = from_dict(Config, saved["config"], f"{path}: its options")
    model, clip = build_model(options.model, weights.clip)
    checkpoint.restore(model, saved, path, clip.fingerprint)
    return FullCheckpoint(model.state_dict(), saved["epoch"], saved["config"], origin_of_checkpoint(saved, str(path)),
                          clip.activation)


def write(full: FullCheckpoint, path: Path) -> None:
    """In the format that the suffix names."""
    if path.suffix == ".safetensors":
        checkpoint.write_safetensors_atomically(path, *safetensors_content(full, path), REMEDY)
    elif path.suffix in (".pt", ".pth"):
        checkpoint.write_atomically(path, released_content(full, path), REMEDY)
    else:
        raise UserError(f"{path}: OUT should end in .safetensors, or in .pt or .pth for the released format")


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("IN", type=Path)
    parser.add_argument("OUT", type=Path)
    files = parser.parse_args()
    full = read(files.IN)
    write(full, files.OUT)
    known = "" if full.config is None else f", trained on {full.config['dataset']} fold {full.config['fold']}"
    print(f"{files.OUT}: {full.summary()}; epoch {full.epoch + 1}{known}")


if __name__ == "__main__":
    run_main(main, WeightsError)

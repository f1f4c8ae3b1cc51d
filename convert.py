"""Turn a checkpoint into safetensors under our names, or into the authors' released format.

    python convert.py IN OUT                            with CLIP in it; ESDA only
    python convert.py --trained-only [--half] IN OUT    without: a few MB to hand on, ESDA+ too

IN: a released checkpoint; a .safetensors of this command; or checkpoints/best.pt of train.py, to which CLIP is added
from the file that its run used. OUT: NAME.safetensors, or NAME.pt or NAME.pth for the released format. Every tensor
stays as it is, bit for bit, but for --half, which rounds to fp16; the optimiser's state is not kept. test.py takes
every form as weights=.

It stands beside train.py and test.py because it joins what only they join: model/ knows the names, util/ the files.
"""
from pathlib import Path

from torch import nn

from model.build import build_model
from model.checkpoints import FullCheckpoint, released_content, safetensors_content
from model.clip.errors import WeightsError
from model.clip.weights import ClipWeights
from util.config import Config, from_dict
from util.results.origin import origin_of_checkpoint
from util.run import checkpoint
from util.run.trained import trained_content
from util.run.weights import TrainedWeights, read_weights
from util.runtime.errors import Parser, UserError, run_main

REMEDY = "free some space or choose another OUT"


def read(path: Path) -> FullCheckpoint:
    """All of the model in ``path``."""
    weights = read_weights(str(path), "IN is the checkpoint to convert")
    if weights.full is not None:
        return weights.full
    model, clip = restored(weights)
    saved = weights.saved
    if saved["config"]["model"].get("kind") == "plus":
        raise UserError(f"{path}: is of ESDA+, for which no format with CLIP in it exists; give --trained-only")
    return FullCheckpoint(model.state_dict(), saved["epoch"], saved["config"], origin_of_checkpoint(saved, str(path)),
                          clip.activation)


def restored(weights: TrainedWeights) -> tuple[nn.Module, ClipWeights]:
    """The model of a checkpoint without CLIP, which proves that the checkpoint is whole, and the CLIP it stands on."""
    options = from_dict(Config, weights.saved["config"], f"{weights.file}: its options")
    model, clip = build_model(options.model, weights.clip)
    checkpoint.restore(model, weights.saved, weights.file, clip.fingerprint)
    return model, clip


def write(full: FullCheckpoint, path: Path) -> None:
    """In the format that the suffix names."""
    if path.suffix == ".safetensors":
        checkpoint.write_safetensors_atomically(path, *safetensors_content(full, path), REMEDY)
    elif path.suffix in (".pt", ".pth"):
        checkpoint.write_atomically(path, released_content(full, path), REMEDY)
    else:
        raise UserError(f"{path}: OUT should end in .safetensors, or in .pt or .pth for the released format")


def write_trained(path: Path, out: Path, half: bool) -> str:
    """The trained tensors of ``path`` alone. Returns a line on what was written."""
    weights = read_weights(str(path), "IN is the checkpoint to convert")
    if weights.full is not None:
        raise UserError(f"{path}: carries a CLIP that --trained-only would lose; leave that option away")
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: OUT of --trained-only should end in .safetensors")
    restored(weights)
    saved = {**weights.saved, "trained_on": origin_of_checkpoint(weights.saved, str(path))}
    tensors, metadata = trained_content(saved, path, half)
    checkpoint.write_safetensors_atomically(out, tensors, metadata, REMEDY)
    return (f"{len(tensors)} trained tensors in fp{16 if half else 32}, {out.stat().st_size / 1e6:.1f} MB, without the "
            f"CLIP that they stand on")


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("IN", type=Path)
    parser.add_argument("OUT", type=Path)
    parser.add_argument("--trained-only", action="store_true", help="leave CLIP in its own file")
    parser.add_argument("--half", action="store_true", help="with --trained-only: round to fp16")
    args = parser.parse_args()
    if args.half and not args.trained_only:
        raise UserError("--half goes with --trained-only; with CLIP in it, a file keeps every tensor as it is")
    if args.trained_only:
        print(f"{args.OUT}: {write_trained(args.IN, args.OUT, args.half)}")
        return
    full = read(args.IN)
    write(full, args.OUT)
    known = "" if full.config is None else f", trained on {full.config['dataset']} fold {full.config['fold']}"
    print(f"{args.OUT}: {full.summary()}; epoch {full.epoch + 1}{known}")


if __name__ == "__main__":
    run_main(main, WeightsError)

"""Turn checkpoints/best.pt of a run into safetensors of its trained tensors alone, a few MB to hand on.

    python convert.py [--half] IN OUT.safetensors
    python convert.py --clip weights/ViT-B-16.pt rd64-uni.pth OUT.safetensors      CLIPSeg's authors' weights

CLIP stays in its own file. test.py, train.py and predict.py take OUT as they take best.pt.
"""
import pickle
from pathlib import Path

import torch

from model.build import build_model
from model.clip.weights import read_clip
from util.config import CONFIGS, load, to_dict
from util.options import Config
from util.run import checkpoint
from util.runtime.errors import Parser, UserError, require_file, run_main

# What CLIPSeg's authors trained with (transformers, preprocessor_config.json of clipseg-rd64): side, ImageNet's colours
CLIPSEG = ("model.size=352", "model.pixel_mean=[0.485, 0.456, 0.406]", "model.pixel_std=[0.229, 0.224, 0.225]")
NOT_OURS = ("model.", "clip_model.", "reduce.")     # of the authors' file: CLIP itself, and a layer that nothing reads


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("IN", type=Path)
    parser.add_argument("OUT", type=Path)
    parser.add_argument("--half", action="store_true", help="round to fp16")
    parser.add_argument("--clip", metavar="FILE", help="the CLIP that IN, weights of CLIPSeg's authors, stands on")
    args = parser.parse_args()
    if args.OUT.suffix != ".safetensors":
        raise UserError(f"{args.OUT}: OUT should end in .safetensors")
    saved = clipseg(args.IN, args.clip) if args.clip else checkpoint.load(args.IN)
    if saved["clip"] is None:
        raise UserError(f"{args.IN}: a released checkpoint carries a CLIP that OUT would lose; hand it on as it is")
    checkpoint.save_trained(args.OUT, saved, args.half)
    print(f"{args.OUT}: {len(saved['model'])} trained tensors in fp{16 if args.half else 32}, "
          f"{args.OUT.stat().st_size / 1e6:.1f} MB, without the CLIP that they stand on")


def clipseg(path: Path, clip: str) -> dict:
    """Read the decoder in the authors' layout (rd64-uni) as a checkpoint, as ``checkpoint.load`` returns one.

    Tensors have our names there. Raises UserError for a file of another kind, size or set of tensors.
    """
    try:
        state = torch.load(require_file(path, "it is in the archive of CLIPSeg's repository"), weights_only=True)
        state = {name: tensor.float() for name, tensor in state.items() if not name.startswith(NOT_OURS)}
        width = len(state["film_mul.bias"])
    except (RuntimeError, AttributeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not the decoder of CLIPSeg ({type(error).__name__})") from None
    known = read_clip(clip)
    cfg = load(Config, CONFIGS / "pascal/clipseg.yaml", [f"model.clip={clip}", f"peers.width={width}", *CLIPSEG])
    saved = {"model": state, "epoch": 0, "clip": known.fingerprint, "config": to_dict(cfg), "trained_on": None,
             "presence_threshold": None}
    checkpoint.restore(build_model(cfg, known), saved, path, known.fingerprint)
    return saved


if __name__ == "__main__":
    run_main(main)

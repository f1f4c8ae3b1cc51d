"""Turn checkpoints/best.pt of a run into safetensors of its trained tensors alone, a few MB to hand on.

    python convert.py [--half] IN OUT.safetensors

CLIP stays in its own file. test.py, train.py and predict.py take OUT as they take best.pt.
"""
from pathlib import Path

from util.run import checkpoint
from util.runtime.errors import Parser, UserError, run_main


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("IN", type=Path)
    parser.add_argument("OUT", type=Path)
    parser.add_argument("--half", action="store_true", help="round to fp16")
    args = parser.parse_args()
    if args.OUT.suffix != ".safetensors":
        raise UserError(f"{args.OUT}: OUT should end in .safetensors")
    saved = checkpoint.load(args.IN)
    if saved["clip"] is None:
        raise UserError(f"{args.IN}: a released checkpoint carries a CLIP that OUT would lose; hand it on as it is")
    checkpoint.save_trained(args.OUT, saved, args.half)
    print(f"{args.OUT}: {len(saved['model'])} trained tensors in fp{16 if args.half else 32}, "
          f"{args.OUT.stat().st_size / 1e6:.1f} MB, without the CLIP that they stand on")


if __name__ == "__main__":
    run_main(main)

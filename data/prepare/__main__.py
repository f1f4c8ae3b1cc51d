"""Make a data set from its official archives, or fetch CLIP's weights.

    python -m data.prepare pascal --source DIR [DIR ...]     VOCtrainval_11-May-2012.tar and benchmark.tgz
    python -m data.prepare coco --source DIR [DIR ...]       train2014.zip, val2014.zip, annotations_trainval2014.zip
    python -m data.prepare pascal --download                 fetches what is not there first
    python -m data.prepare clip                              OpenAI's ViT-B/16 to weights/ViT-B-16.pt
    python -m data.prepare clip --model ViT-L/14             another of OpenAI's, to weights/ViT-L-14.pt
    python -m data.prepare verify DATASET                    the same as python -m data.verify
    python -m data.prepare lists DIR                         the same as python -m data.lists
    python -m data.prepare masks DIR --coco FILE.json        your own data's masks (data/prepare/annotations.py)

DIR holds the archives as downloaded, or what was unpacked from them. Images are linked where that is possible. You can
stop the work at any time; the same command goes on with it. When a source has changed, it makes the masks that follow
from it again.
"""
import importlib
import json
import shlex
import sys
from pathlib import Path

from data.files import read_bytes, write_changed
from data.prepare import coco, pascal
from data.prepare.archives import locate, open_piece
from data.prepare.download import Remote, by_hand, download
from data.prepare.published import STAMP
from model.clip.source import MODELS, sha256_of
from util.runtime.errors import Parser, UserError, run_main
from util.runtime.stop import StopRequest

SETS = {"pascal": pascal, "coco": coco}
CLIPS = {name: Remote(url, hash=f"sha256:{sha256_of(url)}") for name, url in MODELS.items()}


def prepare(name: str, root: Path, sources: list[Path], fetch: bool, any_archive: bool, options: dict[str, str]):
    """Make data set ``name`` under ``root`` as the module's docstring says. Raises UserError."""
    module = SETS[name]
    made_with = {"dataset": name, **options}
    stamp = root / STAMP
    if stamp.is_file():
        before, finished = _read_stamp(stamp, root)
        if before != made_with:
            raise UserError(f"{root}: the masks there were made with {_said(before)}, not {_said(made_with)}; give its "
                            f"options, or another folder with --out, or remove that one")
        if finished and not sources and not fetch:
            print(f"{root} is finished already; python -m data.verify {name} checks it")
            return
    elif any((root / file).exists() for file in ("made_with.json", "lists/train.txt")):
        raise UserError(f"{root}: holds another data set, whose lists would be lost; give another folder with --out")
    module.require(options)
    found = _find(module.PIECES, [*sources, root / "archives"], fetch, root)
    archives = [open_piece(piece, path, not any_archive) for piece, path in found]
    _stamp(stamp, made_with, False)  # a source that has changed makes masks anew, so it is not finished until the end
    module.prepare(root, archives, options)
    _stamp(stamp, made_with, True)
    print(f"{root} is ready. Next:\n  python -m data.verify {name}\n  bash train.sh {name} 0")


def _read_stamp(stamp: Path, root: Path) -> tuple[dict[str, str], bool]:
    """The options that the set was made with, and whether it is finished."""
    try:
        content = json.loads(read_bytes(stamp))
        made_with, finished = content["made_with"], content["finished"]
        if made_with["dataset"] == "coco":
            made_with = {"dataset": "coco", "masks": "pycocotools", **made_with}  # before there was a choice
        return made_with, finished is True
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{stamp}: not readable, so that nobody knows how the masks there were made; remove {root} or "
                        f"give another folder with --out") from None


def _said(made_with: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in made_with.items())


def _find(pieces, sources: list[Path], fetch: bool, root: Path):
    """[(piece, path)], fetched if need be; where one is missing, UserError after the lines to type."""
    found = []
    for piece in pieces:
        path = locate(piece, [source for source in sources if source.is_dir()], root)
        if path is None and fetch:
            path = root / "archives" / piece.remote.name
            download(path, piece.remote)
        found.append((piece, path))
    missing = [piece for piece, path in found if path is None]
    if missing:
        lines = "\n".join(f"  {by_hand(root / 'archives' / piece.remote.name, piece.remote)}" for piece in missing)
        again = shlex.join(["python", "-m", "data.prepare", *sys.argv[1:]])  # looks into root/archives in any case
        print(f"What is missing can be fetched with\n  {again} --download\nor by hand with\n"
              f"  mkdir -p {shlex.quote(str(root / 'archives'))}\n{lines}\nand then\n  {again}", flush=True)
        raise UserError(f"{', '.join(piece.remote.name for piece in missing)}: neither packed nor unpacked in "
                        f"{', '.join(map(str, sources))}")
    return found


def _stamp(path: Path, made_with: dict, finished: bool) -> None:
    write_changed(path, (json.dumps({"made_with": made_with, "finished": finished}, indent=2) + "\n").encode())


def main() -> None:
    others = {"verify": "verify", "lists": "own", "masks": "annotations"}
    if sys.argv[1:2] and sys.argv[1] in others:
        return importlib.import_module(f"data.prepare.{others[sys.argv.pop(1)]}").main()
    parser = Parser(prog="python -m data.prepare", description=__doc__)
    parser.add_argument("dataset", choices=[*SETS, "clip"])
    parser.add_argument("--source", nargs="+", type=Path, default=[], metavar="DIR", help="where the archives lie")
    parser.add_argument("--download", action="store_true", help="fetch what is not there to OUT/archives")
    parser.add_argument("--out", type=Path, help="default: data/sets/DATASET, or weights/ViT-B-16.pt for clip")
    parser.add_argument("--model", choices=CLIPS, help="clip: default ViT-B/16")
    parser.add_argument("--any-archive", action="store_true", help="take archives of another size or hash, too")
    for name, choices in coco.OPTIONS.items():
        parser.add_argument(f"--{name}", choices=choices, help=f"coco: default {choices[0]}, see docs/data.md")
    given = parser.parse_args()
    StopRequest()  # Ctrl-C and SIGTERM end the work in an orderly way, in a script's background too
    if given.out == Path():
        raise UserError("--out is empty; name a folder, or for clip a file, or leave it out")
    if given.model and given.dataset != "clip":
        raise UserError(f"--model {given.model} is for clip; leave it away")
    if given.dataset == "clip":
        remote = CLIPS[given.model or "ViT-B/16"]
        return download(given.out or Path("weights") / remote.name, remote)
    for folder in filter(None, (given.out, *given.source)):
        if not str(folder).isprintable():
            raise UserError(f"{str(folder)!a}: a name that is not UTF-8 or not printable; rename the folder")
    for source in given.source:
        if not source.is_dir():
            raise UserError(f"{source}: no such folder; --source names the folder that the archives lie in")
    options = SETS[given.dataset].choose({name: getattr(given, name) for name in coco.OPTIONS})
    prepare(given.dataset, given.out or Path("data/sets") / given.dataset, given.source, given.download,
            given.any_archive, options)


if __name__ == "__main__":
    run_main(main)

"""Make a data set from its official archives, or fetch CLIP's weights.

    python -m data.prepare pascal --source DIR [DIR ...]     VOCtrainval_11-May-2012.tar and benchmark.tgz
    python -m data.prepare coco --source DIR [DIR ...]       train2014.zip, val2014.zip, annotations_trainval2014.zip
    python -m data.prepare pascal --download                 fetches what is not there first
    python -m data.prepare clip [--model ViT-L/14]           OpenAI's ViT-B/16, or another, to weights/
    python -m data.prepare masks DIR --coco FILE.json        your own data's masks (data/prepare/own.py)

DIR holds the archives as downloaded, or what was unpacked from them. A stopped command goes on where it was.
"""
import json
import sys
from pathlib import Path

from data.files import write_changed
from data.prepare import coco, own, pascal
from data.prepare.archives import Archive
from model.clip.source import MODELS, sha256_of
from util.runtime.errors import Parser, UserError, run_main

SETS = {"pascal": pascal, "coco": coco}
CLIPS = {name: Archive(url, hash=f"sha256:{sha256_of(url)}") for name, url in MODELS.items()}
STAMP = "prepared.json"     # says which data set a folder holds


def prepare(name: str, root: Path, sources: list[Path], fetch: bool, any_archive: bool) -> None:
    """Make data set ``name`` under ``root``. Raises UserError for another data set there and for bad archives."""
    module, stamp, mine = SETS[name], root / STAMP, json.dumps({"dataset": name}).encode()
    found = [place for place in (stamp, root / "lists", root / module.MASKS) if place.exists()]
    if found and (found[0] != stamp or stamp.read_bytes() != mine):
        raise UserError(f"{root}: holds another data set, which would be lost; give another folder with --out")
    paths = _find(module.ARCHIVES, [*sources, root / "archives"], fetch, root)
    for archive, path in zip(module.ARCHIVES, paths):
        problem = archive.problem(path) if path.is_file() and not any_archive else ""
        if problem:
            raise UserError(f"{path}: {problem}; fetch it again from {archive.url}, or give --any-archive")
    write_changed(stamp, mine)
    module.prepare(root, *(archive.members(path) for archive, path in zip(module.ARCHIVES, paths)))
    print(f"{root} is ready. Next:\n  python -m data.verify {name}\n  bash train.sh {name} 0")


def _find(archives: tuple[Archive, ...], sources: list[Path], fetch: bool, root: Path) -> list[Path]:
    """Locate each archive, fetching it if need be. Raises UserError where one is missing."""
    found = {archive: archive.find(sources, root) for archive in archives}
    missing = [archive for archive, path in found.items() if not path]
    if missing and not fetch:
        raise UserError(f"neither packed nor unpacked in {', '.join(map(str, sources))}: "
                        f"{', '.join(archive.url for archive in missing)}; --download fetches what is missing")
    for archive in missing:
        found[archive] = root / "archives" / archive.name
        archive.download(found[archive])
    return list(found.values())


def main() -> None:
    if sys.argv[1:2] == ["masks"]:
        sys.argv.pop(1)
        return own.main()
    parser = Parser(prog="python -m data.prepare", description=__doc__)
    parser.add_argument("dataset", choices=[*SETS, "clip"])
    parser.add_argument("--source", nargs="+", type=Path, default=[], metavar="DIR", help="where the archives lie")
    parser.add_argument("--download", action="store_true", help="fetch what is not there to OUT/archives")
    parser.add_argument("--out", type=Path, help="default: data/sets/DATASET, or weights/ViT-B-16.pt for clip")
    parser.add_argument("--model", choices=CLIPS, default="ViT-B/16", help="clip: default %(default)s")
    parser.add_argument("--any-archive", action="store_true", help="take archives of another size or hash, too")
    given = parser.parse_args()
    if given.dataset == "clip":
        return CLIPS[given.model].download(given.out or Path("weights") / CLIPS[given.model].name)
    prepare(given.dataset, given.out or Path("data/sets") / given.dataset, given.source, given.download,
            given.any_archive)


if __name__ == "__main__":
    run_main(main)

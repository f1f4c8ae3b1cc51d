"""Say which requirements the running Python lacks: ``python util/requirements.py FILE``. Needs nothing but pip."""
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:
    try:
        from pip._vendor.packaging.requirements import Requirement
    except ImportError:
        Requirement = None

ALSO = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")}


def requirements(path: Path) -> Iterator["Requirement"]:
    """The lines of a requirements file and of those it includes."""
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            yield from requirements(path.parent / line[3:].strip())
        elif line:
            yield Requirement(line)


def problems(path: Path) -> list[str]:
    """One phrase for each requirement that is absent or of another version."""
    if Requirement is None:
        return ["pip and packaging, one of which compares versions"]
    found = []
    for requirement in requirements(path):
        for name in (requirement.name, *ALSO.get(requirement.name, ())):
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
            if not requirement.specifier.contains(version, prereleases=True):
                found.append(f"{name}{requirement.specifier} (here {version})")
            break
        else:
            found.append(f"{requirement.name}{requirement.specifier}")
    return found


if __name__ == "__main__":
    missing = problems(Path(sys.argv[1]))
    if missing:
        print(f"error: this environment lacks {', '.join(missing)}; install with: "
              f"pip install -r {sys.argv[1]}", file=sys.stderr)
        sys.exit(2)

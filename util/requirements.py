"""Check of requirements: say which the running Python lacks, ``python util/requirements.py FILE``."""
import re
import sys
from importlib import metadata
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement


def lacking(file: Path) -> list[str]:
    """List lines of a requirements file, and of those it includes, that what is installed does not fulfil."""
    found = []
    for line in (re.split(" --hash|#", line)[0].strip() for line in file.read_text(encoding="utf-8").splitlines()):
        if line.startswith("-r "):
            found += lacking(file.parent / line[3:])
        elif line:
            wanted = Requirement(line)
            names = wanted.name, wanted.name.removesuffix("-headless")  # opencv-python has the same cv2
            versions = [one.version for name in names for one in metadata.distributions(name=name)]
            found += [line] * (not any(wanted.specifier.contains(v, prereleases=True) for v in versions))
    return found


if __name__ == "__main__" and (missing := lacking(Path(sys.argv[1]))):
    sys.exit(f"error: this environment lacks {', '.join(missing)}; pip install -r {sys.argv[1]}")

"""Say which requirements the running Python lacks: ``python util/runtime/requirements.py FILE``. Needs nothing installed."""
import re
import sys
from importlib import metadata
from pathlib import Path

ALSO = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")}


def wanted(path: Path) -> dict[str, str]:
    """{distribution: version specifier} of a requirements file and those it includes."""
    out = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            out.update(wanted(path.parent / line[3:].strip()))
        elif line:
            name = re.match(r"[\w.-]+", line)[0]
            out[name] = line[len(name):]
    return out


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])


def _fits(version: str, specifier: str) -> bool:
    """Whether a version lies in a range of ``>=`` and ``<``, the only signs that our files use."""
    have = _numbers(version)
    for sign, bound in re.findall(r"(>=|<)\s*([\d.]+)", specifier):
        limit = _numbers(bound)
        if (have[:len(limit)] >= limit) != (sign == ">="):
            return False
    return True


def problems(path: Path) -> list[str]:
    """One phrase for each requirement that is absent or of another version."""
    found = []
    for name, specifier in wanted(path).items():
        for candidate in (name, *ALSO.get(name, ())):
            try:
                version = metadata.version(candidate)
            except metadata.PackageNotFoundError:
                continue
            if not _fits(version, specifier):
                found.append(f"{candidate}{specifier} (here {version})")
            break
        else:
            found.append(name + specifier)
    return found


if __name__ == "__main__":
    missing = problems(Path(sys.argv[1]))
    if missing:
        print(f"error: this environment lacks {', '.join(missing)}; install with: "
              f"pip install -r {sys.argv[1]}", file=sys.stderr)
        sys.exit(2)

"""Dockerfile and environment.yml: what they name is there, and their commands run. No image is built."""
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from util.config import ROOT
from util.requirements import problems, requirements

REQUIREMENTS = ["requirements.txt", "requirements-extra.txt", "data/requirements.txt"]


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, lines that go on put together."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def of(kind: str, steps) -> list[str]:
    return [rest for name, rest in steps if name == kind]


def test_every_instruction_is_docker_s_and_base_and_index_are_arguments(steps):
    assert {name for name, _ in steps} <= {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "STOPSIGNAL", "ENTRYPOINT",
                                           "CMD"}
    assert [name for name, _ in steps[:2]] == ["ARG", "FROM"] and of("FROM", steps) == ["${BASE}"]
    assert {rest.split("=")[0] for rest in of("ARG", steps)} == {"BASE", "TORCH_INDEX"}
    assert "--shm-size=8g" in (ROOT / "Dockerfile").read_text()


def test_what_is_copied_is_there_before_it_is_used(steps):
    copied, ignored = [], (ROOT / ".dockerignore").read_text().split()
    for name, rest in steps:
        if name == "COPY":
            *sources, target = rest.split()
            assert all((ROOT / source).exists() and source not in ignored for source in sources)
            copied += sources
        if name == "RUN" and "pip install" in rest:
            files = re.findall(r"-r (\S+)", rest)
            assert files == REQUIREMENTS and set(files) <= set(copied)
    assert copied[-1] == "."


# What stands in for a program of the image: it notes its call. apt-get and rm do nothing else.
STAND_IN = """#!{bash}
echo "${{0##*/}} $*" >> "{calls}"
{then}
"""
CPU = "https://download.pytorch.org/whl/cpu"


class Image(NamedTuple):
    """What the Dockerfile has made below ``root``."""
    calls: list[str]            # of programs, each as it was typed
    said: str
    folder: Path                # WORKDIR
    environment: dict[str, str]


@pytest.fixture(scope="module")
def image(steps, tmp_path_factory) -> Image:
    """The Dockerfile's instructions, followed in order in a folder instead of a container, and without a network.

    The virtual environment is really made. pip really reads its arguments and files, and looks for what they ask for
    in this environment.
    """
    lacking = [one for file in REQUIREMENTS for one in problems(ROOT / file)]
    # Not importlib's find_spec, which setuptools takes for pip at work: then torch.compile fails in this process.
    if not any(metadata.distributions(name="pip")):
        lacking.append(f"pip in {sys.prefix}")
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    root, bash, said = tmp_path_factory.mktemp("image"), shutil.which("bash"), []
    programs, calls, venv = root / "bin", root / "calls", root / "opt/esda"
    programs.mkdir()

    def stand_in(file: Path, then: str = "") -> None:
        file.unlink(missing_ok=True)
        file.write_text(STAND_IN.format(bash=bash, calls=calls, then=then))
        file.chmod(0o755)
    stand_in(programs / "apt-get")
    stand_in(programs / "rm")
    stand_in(programs / "python3", f'[ "$1 $2" = "-m venv" ] && exec {sys.executable} -m venv --without-pip "{root}$3"')
    environment, folder = {"PATH": str(programs)}, root
    for kind, rest in steps:
        if kind == "ARG":
            name, _, value = rest.partition("=")
            environment[name] = {"TORCH_INDEX": CPU}.get(name, value)
        elif kind == "ENV":
            environment |= {name: value.replace("/opt", f"{root}/opt").replace("$PATH", environment["PATH"])
                            for name, _, value in (part.partition("=") for part in shlex.split(rest))}
        elif kind == "WORKDIR":
            folder = root / rest.lstrip("/")
            folder.mkdir()
        elif kind == "COPY":
            copy(rest, folder)
        elif kind == "RUN":
            done = subprocess.run([bash, "-c", rest], cwd=folder, env=environment, text=True, capture_output=True)
            assert done.returncode == 0, f"{rest}: {done.stderr}"
            said.append(done.stdout)
            if venv.is_dir():
                assert (venv / "bin/python").exists()
                stand_in(venv / "bin/python", 'if [ "$2 $3" = "pip install" ]; then set -- "$@" --dry-run --no-deps '
                                              f'--no-index; fi; exec {sys.executable} "$@"')
    return Image(calls.read_text().splitlines(), "".join(said), folder, environment)


def copy(rest: str, folder: Path) -> None:
    """COPY's sources into its target, without what .dockerignore names and without the history."""
    ignored = {".git", *(line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().split())}
    *sources, target = rest.split()
    (folder / target).mkdir(exist_ok=True)
    for source in sources:
        if source == ".":
            shutil.copytree(ROOT, folder, dirs_exist_ok=True, ignore=lambda place, names: [
                name for name in names if ignored & {name, str((Path(place) / name).relative_to(ROOT))}])
        else:
            shutil.copy(ROOT / source, folder / target)


def test_its_commands_run_in_their_order(image):
    apt, install, clean, venv, pip = image.calls
    assert apt == "apt-get update" and clean.startswith("rm -rf /var/lib/apt/lists/")
    assert venv == "python3 -m venv /opt/esda"
    assert install.startswith("apt-get install -y ") and {"git", "g++", "python3-venv"} <= set(install.split())
    assert pip.startswith("python -m pip install ") and f"--extra-index-url {CPU} " in pip
    wanted = {requirement.name for file in REQUIREMENTS for requirement in requirements(ROOT / file)}
    assert wanted <= set(re.findall(r"Requirement already satisfied: ([\w-]+)", image.said)), image.said


def test_the_entry_command_runs_on_what_was_copied(steps, image):
    entry, command = json.loads(of("ENTRYPOINT", steps)[0]), json.loads(of("CMD", steps)[0])
    base = {**image.environment, "PATH": f"{image.environment['PATH']}:/usr/local/bin:/usr/bin:/bin"}

    def run(*arguments):
        return subprocess.run([*entry, *arguments], cwd=image.folder, env=base, text=True, capture_output=True)
    done = run(*command, "--help")
    assert done.returncode == 0 and "bash train.sh shapes all" in done.stdout
    done = run(command[0], "9")  # as far as to the folds: requirements and configs are there
    assert done.returncode == 2 and done.stderr == "error: fold '9' is none of 0, 1, 2, 3, all\n"
    assert not (image.folder / "data/sets").exists()


def test_conda_s_environment_is_what_the_requirements_say():
    wanted = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert wanted[-1]["pip"] == [f"-r {file}" for file in REQUIREMENTS]
    assert any(re.fullmatch(r"python=3\.1[0-9]", item) for item in wanted[:-1])

"""Dockerfile and environment.yml: what they name is there, and the entry command runs. No image is built."""
import json
import re
import shlex
import subprocess

import pytest
import yaml

from util.config import ROOT

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


def test_shell_lines_parse(steps):
    for command in of("RUN", steps):
        assert subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode == 0
        assert shlex.split(command)


def test_the_entry_command_prints_how_it_is_called(steps):
    entry, command = json.loads(of("ENTRYPOINT", steps)[0]), json.loads(of("CMD", steps)[0])
    done = subprocess.run([*entry, *command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "bash train.sh shapes all" in done.stdout


def test_conda_s_environment_is_what_the_requirements_say():
    wanted = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert wanted[-1]["pip"] == [f"-r {file}" for file in REQUIREMENTS]
    assert any(re.fullmatch(r"python=3\.1[0-9]", item) for item in wanted[:-1])

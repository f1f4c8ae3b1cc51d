"""The tree's promises: which package may import which, no import circle, no folder too full to read."""
import ast
from pathlib import Path

import pytest

from util.config import ROOT

PACKAGES = ("data", "model", "util")
FILES_A_FOLDER = 10  # .py files at most, __init__.py not counted
MAY_IMPORT = {  # the longest prefix that fits a module counts: it may import these and what lies below its own prefix
    "model": (),
    "data": ("model", "util.config", "util.options", "util.runtime", "util.run.atomic"),
    # It trains a CLIP.
    "data.shapes.pretrain": ("data", "model", "util.config", "util.options", "util.runtime", "util.run"),
    "util.config": ("util.options", "util.values", "util.runtime"),
    "util.values": ("util.runtime",),
    "util.options": ("util.runtime",),
    "util.runtime": (),
    "util.run": ("model", "util.config", "util.options", "util.runtime"),
    "util": ("data", "model", "util"),
}


def sources() -> dict[str, Path]:
    """{dotted name: file} of every module of the packages."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports_of(tree: ast.AST, modules) -> set[str]:
    """The modules of the project that a file imports anywhere, but for type checkers alone."""
    found, todo = set(), [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found |= {name if (name := f"{node.module}.{alias.name}") in modules else node.module
                      for alias in node.names}
        todo += ast.iter_child_nodes(node)
    return found & set(modules)


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    modules = sources()
    return {name: imports_of(ast.parse(path.read_text(encoding="utf-8")), modules) for name, path in modules.items()}


def below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def forbidden(imports: dict[str, set[str]]) -> list[str]:
    out = []
    for name, imported in imports.items():
        prefix = max((p for p in MAY_IMPORT if below(name, p)), key=len)
        out += [f"{name} imports {other}" for other in sorted(imported)
                if not any(below(other, allowed) for allowed in (prefix, *MAY_IMPORT[prefix]))]
    return out


def circle(imports: dict[str, set[str]]) -> list[str]:
    """The modules of one import circle in their order, [] if there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name):], name]
        if name not in done:
            for other in sorted(imports.get(name, ())):
                if found := visit(other, [*path, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(imports) if (found := visit(name, []))), [])


def test_every_package_imports_only_what_it_may(imports):
    assert len(imports) > 50 and forbidden(imports) == []


def test_no_modules_import_each_other_in_a_circle(imports):
    assert circle(imports) == []


def test_no_folder_is_too_full_to_read():
    folders = {path.parent for path in sources().values()}
    counts = {str(folder.relative_to(ROOT)): sum(path.name != "__init__.py" for path in folder.glob("*.py"))
              for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > FILES_A_FOLDER} == {}


def test_these_checks_find_what_they_look_for():
    modules = {"util.a", "util.b", "data.c", "model.d", "util.config"}
    text = ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import util.a\nfrom util import b\n"
            "def f():\n    from data.c import x\n")
    assert imports_of(ast.parse(text), modules) == {"util.b", "data.c"}
    assert forbidden({"model.d": {"data.c"}, "data.c": {"util.config", "util.a"}, "util.config": {"data.c"}}) == [
        "model.d imports data.c", "data.c imports util.a", "util.config imports data.c"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"] and circle({"a": {"b"}, "b": set()}) == []

"""The tree's promises: which package may import which, and no import circle."""
import ast
from graphlib import TopologicalSorter

import pytest

from util.config import ROOT

MAY_IMPORT = {  # the longest prefix that fits a module counts: it may import these and what lies below its own prefix
    "model": (),
    "data": ("model", "util.config", "util.options", "util.runtime", "util.run.atomic"),
    # It trains a CLIP.
    "data.shapes.pretrain": ("data", "model", "util.config", "util.options", "util.runtime", "util.run.atomic",
                             "util.training.optim"),
    "util.config": ("util.options", "util.runtime"),
    "util.options": ("util.runtime",),
    "util.runtime": ("model.clip.errors",),
    "util.run": ("model", "data.folds", "util.config", "util.options", "util.runtime"),
    "util": ("data", "model", "util"),
}


def imports_of(tree: ast.AST, modules) -> set[str]:
    """The modules of the project that a file imports anywhere."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found |= {name if (name := f"{node.module}.{alias.name}") in modules else node.module
                      for alias in node.names}
    return found & set(modules)


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """{dotted name of a module: those that it imports}."""
    files = [path.relative_to(ROOT) for package in ("data", "model", "util") for path in (ROOT / package).rglob("*.py")]
    modules = {".".join(file.with_suffix("").parts).removesuffix(".__init__"): ROOT / file for file in files}
    return {name: imports_of(ast.parse(path.read_text(encoding="utf-8")), modules) for name, path in modules.items()}


def forbidden(imports: dict[str, set[str]]) -> list[str]:
    def below(name: str, prefix: str) -> bool:
        return f"{name}.".startswith(f"{prefix}.")

    out = []
    for name, imported in imports.items():
        prefix = max((p for p in MAY_IMPORT if below(name, p)), key=len)
        out += [f"{name} imports {other}" for other in sorted(imported)
                if not any(below(other, allowed) for allowed in (prefix, *MAY_IMPORT[prefix]))]
    return out


def test_every_package_imports_only_what_it_may(imports):
    assert len(imports) > 50 and forbidden(imports) == []
    assert forbidden({"model.d": {"data.c"}, "data.c": {"util.config", "util.a"}, "util.config": {"data.c"}}) == [
        "model.d imports data.c", "data.c imports util.a", "util.config imports data.c"]


def test_no_modules_import_each_other_in_a_circle(imports):
    assert sum(map(len, imports.values())) > 200
    TopologicalSorter(imports).prepare()    # raises CycleError, which names the circle

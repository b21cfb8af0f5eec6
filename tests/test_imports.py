"""Imports form no circle, stand at the top of their file, and reach no private module of another package.

Imports inside functions, under `lazy_imports` and for types alone count as well: a reader follows them all.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from fewstep.training.method import Needs

ROOT = Path(__file__).parents[1]
PACKAGES = ("fewstep", "stages", "flows")
MOST_INSIDE_FUNCTIONS = 40
parse = cache(ast.parse)


def modules(root: Path, *packages: str) -> dict[str, ast.Module]:
    """Return the parsed modules of some packages below `root`, by dotted name."""
    files = {file for package in packages for file in (root / package).rglob("*.py")}
    names = {".".join(file.relative_to(root).with_suffix("").parts): file for file in sorted(files)}
    return {name.removesuffix(".__init__"): parse(file.read_text()) for name, file in names.items()}


def imported(tree: ast.AST, known: set[str]) -> set[str]:
    """Return which of the known modules a tree imports, wherever."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= below & known or {node.module}
    return found & known


def circle(root: Path, *packages: str) -> list[str]:
    """Return modules that import one another in a circle, the first one twice; [] if there is none."""
    trees = modules(root, *packages)
    needs = {name: imported(tree, set(trees)) - {name} for name, tree in trees.items()}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_one_another_in_a_circle():
    assert circle(ROOT, *PACKAGES) == []


@pytest.mark.parametrize(
    "back",
    [
        "from pack.a import x",
        "def f():\n    from pack import a",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.a import x",
        "from fewstep.lazy import lazy_imports\nwith lazy_imports():\n    import pack.a",
    ],
    ids=["plain", "deferred", "for types", "lazy"],
)
def test_a_circle_is_found_in_whatever_form(tmp_path, back):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/a.py").write_text("from pack import b\nx = 1")
    (tmp_path / "pack/b.py").write_text("")
    assert circle(tmp_path, "pack") == []
    (tmp_path / "pack/b.py").write_text(back)
    assert set(circle(tmp_path, "pack")) == {"pack.a", "pack.b"}


def test_few_imports_stand_inside_functions():
    inside = [
        f"{name}:{statement.lineno}"
        for name, tree in modules(ROOT, *PACKAGES).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for statement in ast.walk(node)
        if isinstance(statement, ast.Import | ast.ImportFrom)
    ]
    assert len(inside) <= MOST_INSIDE_FUNCTIONS, inside


def test_a_private_module_is_imported_in_its_own_package_alone():
    trees = modules(ROOT, *PACKAGES)
    private = {name for name in trees if name.rpartition(".")[2].startswith("_") and "__" not in name}
    assert private, "none is left; then this test can go"
    wrong = {
        f"{name} imports {needed}"
        for name, tree in trees.items()
        for needed in imported(tree, private)
        if not name.startswith(needed.rpartition(".")[0])
    }
    assert not wrong


def test_at_the_top_of_stages_stand_the_stages_alone():
    top = {file.stem for file in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert len(top) + 1 <= 12
    for name in top:
        tree = parse((ROOT / "stages" / f"{name}.py").read_text())
        assert {"Config", "run"} <= {getattr(node, "name", None) for node in tree.body}, name


def test_stages_ask_plugins_what_they_need_and_name_none():
    """A new method, search or export must need no change of a stage: no string of theirs names one.

    Words of prose, such as refiner, may stand within a text; names with an underscore are no words.
    """
    packages = ("methods", "searches", "exports")
    plugins = {file.stem for part in packages for file in (ROOT / "fewstep" / part).glob("[!_]*.py")}
    stages = {file.stem for file in (ROOT / "stages").glob("*.py")}
    needs = {need.name for need in fields(Needs)}  # what a method asks for
    plugins -= stages | needs | {"uniform", "pipeline"}  # a spacing, and a run of all stages
    wrong = [
        f"{name}:{text}" for name, tree in modules(ROOT, "stages").items() for text in naming(tree, plugins)
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("if name == 'sim': pass", True),
        ("PLAIN = {'name': 'flow_matching'}", True),
        ("raise ValueError(f'{x}; take flow_matching')", True),
        ("raise ValueError('set sim to 0')", False),
        ("class Config:\n    method: str = 'sim'", False),
        ("class Config:\n    method: str = 'plain'\n    def f(self): return 'sim'", True),
    ],
)
def test_a_text_that_names_a_plugin_is_found(source, found):
    assert bool(naming(ast.parse(source), {"sim", "flow_matching"})) == found


def naming(tree: ast.Module, plugins: set[str]) -> list[str]:
    """Return the texts of a module that are the name of a plug-in, or that have one with an underscore."""
    words = {name for name in plugins if "_" in name}
    return [
        f"{node.lineno}: {node.value}"
        for node in strings(tree)
        if node.value in plugins or words & {*re.findall(r"\w+", node.value)}
    ]


def strings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the texts of a module, but for the defaults of settings, which must name something."""
    defaults = {
        id(node)
        for config in ast.walk(tree)
        if isinstance(config, ast.ClassDef)
        for setting in config.body
        if isinstance(setting, ast.AnnAssign) and setting.value
        for node in ast.walk(setting.value)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in defaults:
            yield node

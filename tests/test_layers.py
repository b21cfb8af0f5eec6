"""Imports go one way, fewstep <- stages <- flows, and what must be light or safe is so."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "mlflow", "sklearn", "scipy", "matplotlib", "webdataset", "safetensors"}
FORBIDDEN = {
    "fewstep": {"stages", "flows", "dvc", "prefect", "mlflow", "pydantic", "torchvision"},
    "stages": {"flows", "prefect", "torchvision"},
    "flows": {"torch", "torchvision"},
}
UNPICKLING = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal"}
parse = cache(ast.parse)


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(file: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


def imported_by(code: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has imported after running code."""
    code = f"{code}\nimport sys; print(' '.join(sys.modules))"
    modules = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    return {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_no_file_imports_from_above(layer):
    wrong = {file.name: bad for file in files(layer) if (bad := imports(file) & FORBIDDEN[layer])}
    assert not wrong


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_no_layer_imports_a_higher_one_transitively(layer):
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files(layer)]
    modules = [name.removesuffix(".__init__") for name in names]
    found = imported_by("\n".join(f"import {module}" for module in modules))
    assert layer in found
    assert not found & FORBIDDEN[layer]


def test_the_library_tells_of_progress_and_one_file_of_it_shows_that():
    assert [file.name for file in files("fewstep") if "tqdm" in imports(file)] == ["command_progress.py"]


def test_every_config_is_read_without_anything_heavy():
    code = (
        "from stages.settings import checks, discovery\n"
        "for stage in discovery.names():\n"
        "    assert discovery.load(stage).Config.model_json_schema\n"
        "checks.read_checked()"
    )
    assert not imported_by(code) & HEAVY


def test_no_source_file_is_long():
    lengths = {
        file.relative_to(ROOT): len(file.read_text().splitlines())
        for folder in ("fewstep", "stages", "flows", "tests", "benchmarks")
        for file in files(folder)
    }
    assert not {name: length for name, length in lengths.items() if length > 400}
    stages = {name: n for name, n in lengths.items() if len(name.parts) == 2 and name.parts[0] == "stages"}
    assert not {name: length for name, length in stages.items() if length > 150}


def test_nothing_is_ever_unpickled():
    wrong = []
    for file in (f for folder in FORBIDDEN for f in files(folder)):
        wrong += [f"{file}: import {name}" for name in imports(file) & UNPICKLING]
        for node in ast.walk(parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "joblib":  # whose load unpickles
                wrong.append(f"{file}:{node.lineno}: from joblib import ...")
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "torch.load",
                "jit.load",
                "joblib.load",
            ):
                wrong.append(f"{file}:{node.lineno}: {ast.unparse(node)}")
            if (
                isinstance(node, ast.keyword)
                and node.arg == "allow_pickle"
                and ast.unparse(node.value) != "False"
            ):
                wrong.append(f"{file}:{node.lineno}: allow_pickle")
    assert not wrong


def test_no_file_names_a_place_on_this_machine():
    text = {file: file.read_text() for folder in (*FORBIDDEN, "benchmarks") for file in files(folder)}
    assert not [str(file) for file, content in text.items() if "/work/" in content or "/home/" in content]

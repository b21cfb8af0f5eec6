"""What is released: a wheel that installs into an empty environment, its version, and the files beside it."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

import fewstep

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with the wheel, in which other packages are those of the tests; no network is used."""
    folder = tmp_path_factory.mktemp("release")
    for name in ("fewstep", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    offline = os.environ | {"PIP_NO_INDEX": "1", "PYTHONPATH": ""}
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."]
    subprocess.run(build, cwd=folder, env=offline, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "empty"], check=True)
    python = folder / "empty/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel]
    subprocess.run(pip, env=offline, check=True, capture_output=True)
    (site,) = (folder / "empty").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


def run(*command):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": ""}
    return subprocess.run(
        command, cwd="/", env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_the_wheel_is_imported_from_the_environment(installed):
    said = run(installed, "-c", "import fewstep, fewstep.grids; print(fewstep.__version__, fewstep.__file__)")
    version, file = said.split()
    assert version == fewstep.__version__
    assert Path(file).is_relative_to(installed.parents[1])


def test_the_wheel_has_types_and_every_file_of_the_library(installed):
    (package,) = installed.parents[1].glob("lib/python*/site-packages/fewstep")
    assert (package / "py.typed").exists()
    ours = {file.relative_to(ROOT / "fewstep") for file in (ROOT / "fewstep").rglob("*.py")}
    assert ours == {file.relative_to(package) for file in package.rglob("*.py")}


@pytest.mark.parametrize("script", PROJECT.get("scripts", {}))
def test_console_scripts_answer(installed, script):
    assert "search" in run(installed.parent / script, "--help")


NAMED_OTHERWISE = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "ruamel": "ruamel-yaml",
}
"""Distributions by the package that one imports, where the names differ by more than a hyphen."""


def distribution(requirement):
    """The name in a requirement, as packagers compare names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def declared(extras):
    """Distributions that an installation of fewstep with these extras asks for."""
    asked = PROJECT["dependencies"] + [one for e in extras for one in PROJECT["optional-dependencies"][e]]
    return {distribution(one) for one in asked}


def undeclared(source, extras):
    """Other packages that Python imports anywhere, and that these extras do not bring."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    others = names - sys.stdlib_module_names - {"fewstep", "stages", "flows"}
    return {name for name in others if distribution(NAMED_OTHERWISE.get(name, name)) not in declared(extras)}


EXTRAS = set(PROJECT["optional-dependencies"])
LIBRARY, PIPELINE = EXTRAS - {"pipeline", "docs", "dev"}, EXTRAS - {"docs", "dev"}


@pytest.mark.parametrize(
    ("package", "extras"), [("fewstep", LIBRARY), ("stages", PIPELINE), ("flows", PIPELINE)]
)
def test_every_package_that_is_imported_is_declared(package, extras):
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in (ROOT / package).rglob("*.py")
        for name in undeclared(file.read_text(), extras)
    }
    assert not wrong


def test_a_package_that_another_brings_along_is_not_declared():
    assert undeclared("import torch.nn\ndef f():\n    from joblib import Memory", ["metrics"]) == set()
    assert undeclared("import torch.nn\ndef f():\n    from joblib import Memory", ["images"]) == {"joblib"}


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == fewstep.__version__
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[:2] == ["Unreleased", fewstep.__version__]


def test_the_changelog_says_what_was_added_changed_and_fixed():
    headings = set(re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M))
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize(
    ("schema", "file"),
    [("citation-file-format", "CITATION.cff"), ("github-workflows", ".github/workflows/ci.yml")],
)
def test_files_for_others_follow_their_schema(schema, file):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", ROOT / file]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_public_ci_runs_what_ci_runs_here():
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["ci"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]


HOOKS = {
    hook["id"]: hook
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repo["hooks"]
}


def test_hooks_download_nothing():
    assert {hook["language"] for hook in HOOKS.values()} == {"system"}


def test_hooks_cover_what_make_check_asks():
    (check,) = re.findall(r"^check:.*\n> (.*)", (ROOT / "Makefile").read_text(), re.M)
    tools = {re.sub(r" --check| \.", "", tool) for tool in check.split(" && ")}
    entries = {hook["entry"].removeprefix(".venv/bin/") for hook in HOOKS.values()}
    assert tools <= {re.sub(r" --[\w-]+", "", entry) for entry in entries}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("toml", "a = 1\n", "a = \n"),
        ("yaml", "a: [1]\n---\nb: 2\n", "a: [1\n"),
        ("ruff-check", '"""A module."""\n', '"""A module."""\nx = y\n'),
        ("ruff-format", "x = 1\n", "x=1\n"),
    ],
)
def test_hooks_refuse_what_is_wrong(name, good, bad, tmp_path):
    entry = HOOKS[name]["entry"].replace(".venv/bin/", f"{Path(sys.executable).parent}/")
    for text, passes in ((good, True), (bad, False)):
        file = tmp_path / ("file.py" if "ruff" in name else "file")
        file.write_text(text)
        ran = subprocess.run(f"{entry} {file}", shell=True, cwd=ROOT, capture_output=True)
        assert (ran.returncode == 0) == passes, ran.stderr

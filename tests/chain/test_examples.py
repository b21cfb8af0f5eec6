"""The worked examples run as their pages say, with less work in each stage."""

import json
import os
import re
import shutil
import sys

import pytest
from chain.checkout import Checkout
from workspace import CHECKOUT

DVC = """#!{python}
import os, sys
from pathlib import Path

sys.path.append({tests!r})
import preloaded

command = " ".join(["dvc", *sys.argv[1:]])
ended = preloaded.run(command, Path.cwd(), dict(os.environ), 1200)
if ended is None:
    os.execv({dvc!r}, ["dvc", *sys.argv[1:]])
status, said = ended
print(said, end="")
sys.exit(status)
"""
"""DVC as the examples find it, which begins sooner."""
LESS = {
    "toy_chain.py": {
        '{"count": 4000}': '{"count": 600}',
        '"nets": {}': '"nets": {"metric": {"steps": 40}}',
        '"pairs": 2000': '"pairs": 256',
        '"samples": 2000': '"samples": 256',
        '"report_noises": 512': '"report_noises": 32',
        '"samples": 500, "blocks": 4': '"samples": 100, "blocks": 2',
    },
    "own_model.py": {
        "size=4000": "size=600",
        '"nets": {}': '"nets": {"metric": {"steps": 40}}',
        '"samples": 2000': '"samples": 256',
        '"report_noises": 512': '"report_noises": 32',
        '"samples": 500, "blocks": 4': '"samples": 100, "blocks": 2',
    },
}
"""What stands in an example, and what replaces it: no test looks at how well a chain ends."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of this project to run them in; what they make in temporary folders goes to `made`."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("made", "bin"):
        (folder / name).mkdir()
    (folder / "bin/dvc").write_text(
        DVC.format(python=sys.executable, tests=str(CHECKOUT / "tests"), dvc=shutil.which("dvc"))
    )
    (folder / "bin/dvc").chmod(0o755)
    project = Checkout.create(folder / "checkout")
    for example, changes in LESS.items():
        for old, new in changes.items():
            project.edit(f"docs/examples/{example}", old, new)
    project.sh("git commit -qam less")
    project.environment |= {
        "PATH": f"{folder / 'bin'}{os.pathsep}{project.environment['PATH']}",
        "TMPDIR": str(folder / "made"),
        "PYTHONPATH": str(project.folder),
        "MPLBACKEND": "agg",
    }
    return project


def run(project, example):
    return project.sh(f"cd {project.folder.parent / 'made'} && python {project / 'docs/examples'}/{example}")


def rows(made):
    (metrics,) = made
    return {row["name"] for row in json.loads(metrics.read_text())["rows"]}


def test_step_search(project):
    said = run(project, "step_search.py")
    errors = {
        name: [float(n) for n in rest.split()] for name, rest in re.findall(r"^(\w+) +([\d. ]+)$", said, re.M)
    }
    assert all(ours < equal for ours, equal in zip(errors["optimal_steps"], errors["uniform"], strict=True))
    assert "2048 samples in 4 NFE" in said
    assert (project.folder.parent / "made/step_search.png").read_bytes().startswith(b"\x89PNG")


def test_toy_chain(project):
    run(project, "toy_chain.py 20")
    made = project.folder.parent / "made"
    names = rows(made.glob("toy-chain-*/fewstep/artifacts/evaluate/metrics.json"))
    assert {"base@32", "straight@4", "direct@1"} <= names
    assert (made / "toy_chain.png").read_bytes().startswith(b"\x89PNG")
    assert not project.sh("git status --porcelain")  # the checkout stays as it is


def test_own_model(project):
    run(project, "own_model.py 20")
    (student,) = project.folder.parent.glob("made/own-model-*/fewstep/artifacts/models/mine-4")
    config = json.loads((student / "config.json").read_text())
    assert (config["architecture"]["name"], config["prediction"], config["path"]) == (
        "plain",
        "v",
        "cosine",
    )
    names = rows(project.folder.parent.glob("made/own-model-*/fewstep/artifacts/evaluate/metrics.json"))
    assert {"base@32", "mine-4@4"} <= names

"""What a stage reads it reads once and hands on: each section of the settings, and each manifest."""

import json
from collections import Counter

import pytest
from fake_project import Project
from workspace import CHECKOUT

from stages.settings import checks, discovery
from stages.settings.params import Params

RUN = """
import json, sys
from pathlib import Path
from stages.artifacts import manifests
from stages.run import runner
from stages.settings.params import Params

def counted(owner, name, what):
    real = getattr(owner, name)
    def count(*arguments):
        found.append(what(*arguments))
        return real(*arguments)
    setattr(owner, name, count)

found = []
counted(manifests, "read", lambda folder: folder.as_posix())
counted(Params, "_decode", lambda params, stage, key: f"{stage}.{key}")
sys.argv = ["stages.use", "one"]
try:
    runner.main(Path("stages/use.py"))
finally:
    Path("read.json").write_text(json.dumps(found))
"""


def test_a_check_of_all_settings_decodes_each_section_once(monkeypatch):
    decoded, real = Counter(), Params._decode

    def count(params, stage, key):
        decoded[stage, key] += 1
        return real(params, stage, key)

    monkeypatch.setattr(Params, "_decode", count)
    params = checks.read_checked(CHECKOUT / "params.yaml")
    sections = [(stage, key) for stage in discovery.names() for key in params.keys(stage)]
    assert decoded == Counter(sections)
    for stage, key in sections:  # nor does anything later
        params.inputs(stage, key)
    assert decoded == Counter(sections)


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path / "project")
    project.write("run.py", RUN)
    project.sh("python -m stages.make")
    return project


def test_a_run_reads_the_manifests_of_inputs_and_result_once(project):
    for outcome in ("is made", "is published again"):
        said = project.sh("python run.py")
        assert ("made before" in said) == (outcome != "is made")
        read = Counter(json.loads((project / "read.json").read_text()))
        (scratch,) = (path for path in read if "scratch/use@one" in path)
        sections = {name: count for name, count in read.items() if "/" not in name}
        assert {path: read[path] for path in ("artifacts/make", scratch)} == {"artifacts/make": 1, scratch: 1}
        assert read.keys() == {"artifacts/make", scratch, *sections}
        # params.yaml is read again before publishing: an edit meanwhile shall count
        assert sections == {"make.None": 2, "use.one": 2, "use.two": 1}


def test_an_input_that_is_made_anew_meanwhile_is_read_again(project):
    project.edit("run.py", "sys.argv =", "real_work = runner.work\nsys.argv =")
    project.edit(
        "run.py",
        "try:",
        "def work(*arguments, **options):\n"
        "    made = real_work(*arguments, **options)\n"
        "    file = Path('artifacts/make/manifest.json')\n"
        "    manifest = json.loads(file.read_text()) | {'seed': 1}\n"
        "    del manifest['sha256']\n"
        "    file.unlink()\n"
        "    manifests.write(file, manifest)\n"
        "    return made\n"
        "runner.work = work\n"
        "try:",
    )
    said = project.sh("python run.py", ok=False)
    assert "seed: 1 -> 0" in said
    assert Counter(json.loads((project / "read.json").read_text()))["artifacts/make"] == 2

"""Commands in processes that begin with libraries loaded do what they do in others."""

import re

import preloaded
import pytest
from fake_project import Project


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path / "project").with_dvc()
    project.environment.pop("COVERAGE_PROCESS_CONFIG", None)
    return project


def both(project, command: str) -> tuple[str, str]:
    """Run a command in a process with libraries and in another; return what each said, and DVC's lock."""
    found = []
    for how in (command, f":; {command}"):
        there = project.at(project.folder.with_name("other"))
        assert preloaded.fits(how, there.environment) == (how == command)
        said = there.sh(how, ok=None)
        lock = there / "dvc.lock"
        found.append((re.sub(r"\S+ part/s", "", said), lock.exists() and lock.read_text()))
        there.folder.rename(there.folder.with_name(f"done-{len(found)}"))
    return tuple(found)


@pytest.mark.parametrize("command", ["dvc repro", "python -m stages.use", "python -m stages.make"])
def test_they_say_and_do_the_same(project, command):
    """The second fails for want of a key."""
    with_libraries, other = both(project, command)
    assert with_libraries == other


def test_what_is_read_from_the_command_line_or_when_a_process_begins_is_left_to_a_shell(project):
    assert not preloaded.fits("dvc repro --force", project.environment)
    assert not preloaded.fits("dvc repro", project.environment | {"FEWSTEP_THREADS": "2"})

"""Keys of params.yaml that a shell would run, or that lead a path elsewhere: `dvc repro` refuses them."""

import shutil

import pytest
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from workspace import CHECKOUT, Workspace

from fewstep.errors import UserError
from flows.dvc.repo import read
from stages.run.runner import key_from_dvc

KEYED = {"couple": "round1", "search": "round1", "trajectories": "round1", "distill": "boss-8"}


@pytest.fixture
def project(tmp_path):
    """The graph of stages, its settings and its stages; nothing ever ran."""
    for name in (".dvcignore", "dvc.yaml", "params.yaml"):
        shutil.copy(CHECKOUT / name, tmp_path)
    for name in ("fewstep", "stages"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data").mkdir()
    Repo.init(str(tmp_path), no_scm=True).close()
    return Workspace(tmp_path)


def rename(project, stage: str, key: str) -> None:
    """Call what a stage makes by another key."""
    settings = yaml.safe_load((project / "params.yaml").read_text())
    settings[stage] = {key: settings[stage].popitem()[1]}
    (project / "params.yaml").write_text(yaml.safe_dump(settings))


@pytest.mark.parametrize("key", ["a; touch x", "a' && touch x; '", "$(touch x)", "a|touch x", "`touch x`"])
def test_no_shell_reads_a_key(project, key):
    rename(project, "couple", key)
    with Repo(str(project.folder)) as repo:
        commands = {node.cmd for node in repo.index.stages}
    assert not [command for command in commands if "touch" in command]


def test_a_stage_that_dvc_runs_refuses_a_key_that_is_no_word(project):
    rename(project, "couple", "a; touch x")
    for folder in ("models/base", "prepare"):
        (project / "artifacts" / folder).mkdir(parents=True)
    said = project.sh("dvc repro --single-item 'couple@a; touch x'", ok=False)
    assert "couple.a; touch x: names are letters, digits, - and _" in said
    assert not (project / "x").exists()


@pytest.mark.parametrize("stage", KEYED)
@pytest.mark.parametrize("key", ["../../stages", "../../.fewstep", "../../mine", "../../data"])
def test_no_key_leads_an_output_to_other_files_of_the_project(project, stage, key):
    """DVC removes an output before its stage begins, so it would be too late for the stage to refuse."""
    rename(project, stage, key)
    with Repo(str(project.folder)) as repo, pytest.raises(DvcException):
        _ = repo.index.graph


@pytest.mark.parametrize("told", ["couple@round1", "../dvc.yaml:couple@round1"])
def test_a_stage_takes_its_key_from_dvc(monkeypatch, told):
    monkeypatch.setenv("DVC_STAGE", told)
    assert key_from_dvc("couple") == "round1"
    assert key_from_dvc("search") is None
    monkeypatch.delenv("DVC_STAGE")
    assert key_from_dvc("couple") is None


@pytest.mark.parametrize("stage", ["couple", "distill"])
def test_the_flow_refuses_an_output_outside_of_the_project(project, stage):
    """DVC allows it, and `dvc repro` would remove what is there."""
    rename(project, stage, "../../../x")
    with pytest.raises(UserError, match=r"would write .*/x, outside of the project"):
        read(project.folder)


@pytest.mark.parametrize("name", ["artifacts", "data", "data.dvc", "dvc.lock", "dvc.yaml", "params.yaml"])
def test_dvc_sees_what_it_works_with(name):
    """One that it did not see, it would take for new: a second run would not be one that does nothing."""
    with Repo(str(CHECKOUT)) as repo:
        assert not repo.dvcignore.is_ignored(repo.fs, str(CHECKOUT / name))
        assert repo.dvcignore.is_ignored(repo.fs, str(CHECKOUT / "docs"))

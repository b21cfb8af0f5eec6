import shutil

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from toy_project import DVC_YAML, PARAMS, WORK, Toy

from stages.settings import checks


@pytest.fixture(autouse=True)
def dvc_starts_with_preloaded_libraries(begun):
    """Whenever a flow asks DVC for something."""


@pytest.fixture
def toys_run_on_a_server(prefect_api, monkeypatch):
    """Flows of toys run on a real server, and nothing is tracked."""
    monkeypatch.setattr(checks, "check", lambda params: None)  # the toy's are no real stages'
    monkeypatch.setenv("FEWSTEP_TRACKING", "off")
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Toy:
    toy = Toy(tmp_path_factory.mktemp("template") / "toy")
    (toy.root / "data").mkdir(parents=True)
    (toy.root / "data" / "a").write_text("1")
    (toy.root / "dvc.yaml").write_text(DVC_YAML)
    (toy.root / "params.yaml").write_text(PARAMS)
    (toy.root / "work.py").write_text(WORK)
    (toy.root / ".gitignore").write_text("/artifacts\n/orders\n/began\n/here-*\n/.fewstep\n")
    toy.sh("git init -q && dvc init -q && git add -A && git commit -qm start")
    return toy


@pytest.fixture
def toy(template, tmp_path) -> Toy:
    """A project of which nothing ever ran."""
    shutil.copytree(template.root, tmp_path / "toy")
    return Toy(tmp_path / "toy")


@pytest.fixture(scope="session")
def template_that_ran(template, tmp_path_factory) -> Toy:
    root = tmp_path_factory.mktemp("ran") / "toy"
    shutil.copytree(template.root, root)
    toy = Toy(root)
    toy.sh("dvc repro -q")
    toy.began()
    return toy


@pytest.fixture
def toy_that_ran(template_that_ran, tmp_path) -> Toy:
    """A project of which everything is up to date."""
    shutil.copytree(template_that_ran.root, tmp_path / "toy", symlinks=True)
    return Toy(tmp_path / "toy")

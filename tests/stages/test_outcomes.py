"""How a stage ended, as a record for the program that started it."""

import json
import signal
from pathlib import Path

import pytest
from fake_project import MAKE, Project
from processes import wait_for

from stages.process import records


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path / "project")
    project.environment["FEWSTEP_OUTCOME_FILE"] = str(tmp_path / "outcome.json")
    return project


def outcome(project) -> dict[str, str]:
    return json.loads(Path(project.environment["FEWSTEP_OUTCOME_FILE"]).read_text())


def with_failure(project, how):
    text = (project.folder / "params.yaml").read_text()
    project.write("params.yaml", text.replace("{word: hello}", f"{{word: hello, fail: {how}}}"))


def test_a_result_is_made_once_and_published_again(project):
    project.sh("python -m stages.make")
    assert outcome(project) == {"stage": "make", "outcome": "made", "message": ""}
    project.sh("python -m stages.make")
    assert outcome(project) == {"stage": "make", "outcome": "published before", "message": ""}


def test_a_stage_ends_without_garbage_collection_of_its_imports(project):
    last = "import atexit, gc\natexit.register(lambda: print('frozen', gc.get_freeze_count() > 0))\n"
    project.write("stages/make.py", last + MAKE)
    assert "frozen True" in project.sh("python -m stages.make")


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("user", "mistake", "use.word is too rude"),
        ("bug", "crash", "RuntimeError: a bug of ours"),
        ("disk", "disk full", "Make room, then resume with: dvc repro use@one"),
    ],
)
def test_each_failure_has_its_kind_and_message(project, how, kind, message):
    project.sh("python -m stages.make")
    with_failure(project, how)
    project.sh("python -m stages.use one", ok=False)
    told = outcome(project)
    assert (told["stage"], told["outcome"]) == ("use@one", kind)
    assert message in told["message"]


@pytest.mark.parametrize(
    ("place", "why"), [("/proc/x", "No such file or directory"), ("params.yaml", "Not a directory")]
)
def test_scratch_that_cannot_be_written_is_a_mistake_and_no_crash(project, place, why):
    said = project.sh("python -m stages.make", ok=False, FEWSTEP_SCRATCH=place)
    told = f"FEWSTEP_SCRATCH {place} can't be written ({why}); name another folder by FEWSTEP_SCRATCH"
    assert said == f"make: {told}\n"
    assert outcome(project) == {"stage": "make", "outcome": "mistake", "message": told}


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("FEWSTEP_BACKEND", "rya", "FEWSTEP_BACKEND: unknown back end 'rya'; did you mean 'ray'?"),
        ("FEWSTEP_WORKERS", "x", "FEWSTEP_WORKERS must be a number of processes from 1, got 'x'"),
        ("FEWSTEP_AGAIN", "0", "FEWSTEP_AGAIN must be 1, which makes results again, or unset; got '0'"),
        ("FEWSTEP_SHARDS", "s4://x", "FEWSTEP_SHARDS: can't use s4://x (ValueError: Protocol not known: s4)"),
    ],
)
def test_a_stage_refuses_variables_that_later_ones_could_not_use(project, variable, value, told):
    said = project.sh("python -m stages.make", ok=False, **{variable: value})
    assert said.startswith(f"make: {told}")
    assert outcome(project)["outcome"] == "mistake"
    assert not (project.folder / ".fewstep/scratch").exists()


def test_records_that_cannot_be_written_stop_no_stage(project):
    (project / "nowhere").write_text("no folder")
    nowhere = str(project / "nowhere/file")
    project.sh("python -m stages.make", FEWSTEP_PROGRESS_FILE=nowhere, FEWSTEP_OUTCOME_FILE=nowhere)
    assert (project / "artifacts/make").exists()


def test_a_stage_that_is_interrupted_says_so_and_a_killed_one_leaves_no_earlier_outcome(project):
    project.sh("python -m stages.make")
    project.edit("params.yaml", "make: {parts: 3}", "make: {parts: 4, seconds: 30}")
    project.sh("rm -r .fewstep/scratch")
    for how, left in ((signal.SIGKILL, None), (signal.SIGINT, "interrupted")):
        stage = project.begin("python", "-m", "stages.make")
        wait_for(lambda: not Path(project.environment["FEWSTEP_OUTCOME_FILE"]).exists())
        wait_for(lambda stage=stage: at_work(project) or stage.poll() is not None)
        stage.send_signal(how)
        stage.communicate()
        file = Path(project.environment["FEWSTEP_OUTCOME_FILE"])
        assert (outcome(project)["outcome"] if file.exists() else None) == left
        project.sh("rm -r .fewstep/scratch")
        project.sh("python -m stages.use one", ok=False)  # leaves an outcome for the next round


def at_work(project) -> bool:
    return any(
        file.stat().st_size for file in project.folder.glob(".fewstep/scratch/make.*/work/attempts.log")
    )


def test_an_outcome_that_finds_no_room_leaves_nothing(tmp_path, monkeypatch, room):
    monkeypatch.setenv("FEWSTEP_OUTCOME_FILE", str(tmp_path / "outcome.json"))
    room(10)
    records.write_outcome("make", "made")
    assert list(tmp_path.iterdir()) == []

"""A killed stage goes on where it stopped, its orphans die, and the bytes are those of a quiet run."""

import os
import shutil
import sys

import pytest
from fake_project import Project
from processes import kill, stopped, wait_for

from flows.dvc import commands
from flows.dvc.failures import StageError
from stages.tracking import recording

PARTS = 10
SLOW = f"make: {{parts: {PARTS}, seconds: 0.3}}"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project with DVC, made once and copied by every test."""
    project = Project(tmp_path_factory.mktemp("template") / "project").with_dvc()
    project.edit("params.yaml", "make: {parts: 3}", SLOW)
    return project


@pytest.fixture
def project(template, tmp_path):
    return template.at(tmp_path / "project")


@pytest.fixture(scope="module")
def undisturbed(template, tmp_path_factory):
    """What a run that nobody disturbs publishes."""
    project = template.at(tmp_path_factory.mktemp("undisturbed") / "project")
    project.sh("dvc repro make")
    return project.files("artifacts/make")


def written(project):
    """Return the parts that the stage has written so far."""
    return list(project.folder.glob(".fewstep/scratch/make.*/out/part-*"))


@pytest.mark.parametrize(
    ("victims", "shell"),
    [("stage", "steps aside"), ("dvc", "steps aside"), ("both", "steps aside"), ("dvc", "stays between")],
)
def test_resumes_after_kill_with_equal_bytes(project, undisturbed, victims, shell):
    if shell == "stays between":  # it often does, and the kernel tells a stage of its parent's death alone
        project.edit("dvc.yaml", "cmd: python -m stages.make", "cmd: true && python -m stages.make && true")
    dvc = project.begin("dvc", "repro", "make", SHELL="/bin/bash")  # which steps aside for a lone command
    wait_for(lambda: len(written(project)) >= 2)
    (stage,) = project.stage_pids()
    for pid in {"stage": [stage], "dvc": [dvc.pid], "both": [dvc.pid, stage]}[victims]:
        kill(pid)
    dvc.wait()
    wait_for(lambda: not project.stage_pids())
    kept = len(written(project))
    assert kept < PARTS  # no orphan went on
    project.sh("dvc repro make")
    assert project.files("artifacts/make") == undisturbed
    log = (next(project.folder.glob(".fewstep/scratch/make.*")) / "work/attempts.log").read_text().split("\n")
    assert sum(line.endswith("found") for line in log) == kept
    assert "didn't change" in project.sh("dvc repro make")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc")
def test_a_stage_whose_dvc_died_before_it_could_be_watched_does_nothing(project):
    """The shell, in dvc's place, is gone long before Python is up."""
    shell = project.begin("bash", "-c", "DVC_STAGE=make python -m stages.make &")
    said, _ = shell.communicate()  # all that the orphan says, too
    assert said == "make: the dvc that started this was killed; run `dvc repro` again\n"
    assert not (project.folder / ".fewstep").exists()


def test_a_kill_after_publishing_costs_no_work(project, undisturbed):
    project.sh("python -m stages.make")  # published, but DVC never took it over
    (log,) = project.folder.glob(".fewstep/scratch/make.*/work/attempts.log")
    assert "made before, publishing it" in project.sh("dvc repro make")
    assert len(log.read_text().splitlines()) == PARTS
    assert project.files("artifacts/make") == undisturbed


def test_a_forced_stage_starts_from_the_beginning_in_new_scratch(project, undisturbed):
    project.sh("python -m stages.make")
    said = project.sh("python -m stages.make", FEWSTEP_AGAIN="1")
    assert "made before" not in said
    (log,) = project.folder.glob(".fewstep/scratch/make.*/work/attempts.log")
    assert len(log.read_text().splitlines()) == PARTS  # in a new scratch, from the beginning
    assert project.files("artifacts/make") == undisturbed


def test_a_run_of_flows_publishes_what_it_made_again_when_dvc_fails_to_take_it_over(project):
    def forced(run):
        with recording.recorded(FEWSTEP_PIPELINE=run):
            commands.reproduce("make", project.folder, lines.append, force=True)
        return "make: made before, publishing it" in lines

    lines = []
    project.edit("params.yaml", SLOW, "make: {parts: 3}")
    project.sh("dvc repro make")
    cache = project.folder / ".dvc/cache/files"
    shutil.rmtree(cache)
    cache.touch()  # where a folder should be: DVC fails when the stage is done
    with pytest.raises(StageError) as failure:
        forced("first")
    assert failure.value.transient
    assert "make: made before, publishing it" not in lines
    cache.unlink()
    assert forced("first")
    lines.clear()
    assert not forced("second")


def test_a_second_process_waits_and_publishes_what_the_first_made(project, tmp_path):
    first, said = project.begin("python", "-m", "stages.make"), tmp_path / "said"
    wait_for(lambda: written(project))
    with stopped(first.pid):
        second = project.begin("python", "-m", "stages.make", said=said)
        wait_for(lambda: "another process is making this very result; waiting" in said.read_text())
    assert (first.wait(), second.wait()) == (0, 0)
    assert "made before, publishing it" in said.read_text()
    (log,) = project.folder.glob(".fewstep/scratch/make.*/work/attempts.log")
    assert len(log.read_text().splitlines()) == PARTS


def test_control_c_says_how_to_go_on(project):
    stage = project.begin("python", "-m", "stages.make")
    wait_for(lambda: written(project))
    os.kill(stage.pid, 2)
    said, _ = stage.communicate()
    assert stage.returncode != 0
    assert said.splitlines()[-1] == "make: stopped; resume with: dvc repro make"
    assert not (project.folder / "artifacts/make").exists()


def test_temporary_experiments_keep_their_scratch_in_the_checkout(project):
    project.edit("params.yaml", SLOW, "make: {parts: 3}")
    project.sh("dvc exp run --temp -S make.parts=4 make")
    assert len(written(project)) == 4
    assert not (project.folder / "artifacts").exists()

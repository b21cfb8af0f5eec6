"""Nothing wrong is published: inputs must be whole and of today, settings must not move meanwhile."""

import pytest
from fake_project import Project
from processes import wait_for


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "project")


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("params.yaml", "seconds: 0.2", "seconds: 0.3", "config.seconds: 0.2 -> 0.3"),
        ("params.yaml", "seed: 0", "seed: 1", "seed: 0 -> 1"),
        (
            "params.yaml",
            "seconds: 0.2",
            "secnds: 0.2",
            "make.secnds is not a setting; did you mean 'seconds'?",
        ),
        ("stages/make.py", "VERSION = 1", "VERSION = 2", "version: 1 -> 2"),
    ],
)
def test_an_edit_while_a_stage_runs_is_refused(project, file, old, new, says):
    project.edit("params.yaml", "{parts: 3}", "{parts: 10, seconds: 0.2}")
    stage = project.begin("python", "-m", "stages.make")
    wait_for(lambda: list(project.folder.glob(".fewstep/scratch/make.*/out/part-*")))
    project.edit(file, old, new)
    said, _ = stage.communicate()
    assert stage.returncode == 1
    assert "changed while this ran, so nothing was published" in said
    assert says in said
    assert not (project.folder / "artifacts").exists()
    project.edit(file, new, old)
    assert "made before, publishing it" in project.sh("python -m stages.make")  # going back costs nothing


def test_edits_of_other_sections_and_of_comments_do_not_stop_a_stage(project):
    project.edit("params.yaml", "{parts: 3}", "{parts: 10, seconds: 0.2}")
    stage = project.begin("python", "-m", "stages.make")
    wait_for(lambda: list(project.folder.glob(".fewstep/scratch/make.*/out/part-*")))
    project.edit("params.yaml", "  one: {word: hello}", "  one:")
    project.edit("stages/make.py", "# bump", "# please bump")
    said, _ = stage.communicate()
    assert stage.returncode == 0, said


def test_a_missing_input_is_refused(project):
    said = project.sh("python -m stages.use one", ok=False)
    assert said == "use@one: needs artifacts/make, which is not there or not whole; run: dvc repro make\n"


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("params.yaml", "parts: 3", "parts: 4", "config.parts: 3 -> 4"),
        ("params.yaml", "seed: 0", "seed: 5", "seed: 0 -> 5"),
        ("stages/make.py", "VERSION = 1", "VERSION = 2", "version: 1 -> 2"),
    ],
)
def test_an_out_of_date_input_is_refused(project, file, old, new, says):
    project.sh("python -m stages.make")
    project.edit(file, old, new)
    said = project.sh("python -m stages.use one", ok=False)
    outdated = f"use@one: needs artifacts/make, which is out of date: since it was made, {says}"
    assert said == outdated + "; run: dvc repro make (with -f if DVC calls it up to date)\n"


def test_a_setting_that_came_with_a_new_version_leaves_results_as_they_are_until_it_is_used(project):
    project.sh("python -m stages.make")
    new = '    seconds: float = 0.0\n    colour: str = "red"\n    """Of what it writes."""'
    project.edit("stages/make.py", "    seconds: float = 0.0", new)
    project.sh("python -m stages.use one")
    project.edit("params.yaml", "{parts: 3}", "{parts: 3, colour: blue}")
    said = project.sh("python -m stages.use one", ok=False)
    assert (
        "artifacts/make, which is out of date: since it was made, config.colour: 'red' -> 'blue'; run:"
        in said
    )


def test_an_input_whose_own_input_was_made_anew_is_refused(project):
    third = (project.folder / "stages/use.py").read_text()
    project.write(
        "stages/end.py", third.replace('"artifacts/make"', '"artifacts/use/one"').replace("/use/{", "/end/{")
    )
    project.edit("params.yaml", "use:", "end:\n  last: {word: end}\nuse:")
    project.sh("python -m stages.make && python -m stages.use one && python -m stages.end last")
    project.edit("params.yaml", "parts: 3", "parts: 4")
    project.sh("python -m stages.make")
    said = project.sh("python -m stages.end last", ok=False)
    assert (
        "end@last: needs artifacts/use/one, which is out of date: since it was made, artifacts/make was made"
        in said
    )


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("rm artifacts/make/part-1.txt", "artifacts/make/part-1.txt is missing"),
        ("echo more >> artifacts/make/part-1.txt", "artifacts/make/part-1.txt has 8 bytes instead of 3"),
        ("echo '{' > artifacts/make/manifest.json", "artifacts/make/manifest.json is damaged"),
    ],
)
def test_a_damaged_input_is_refused(project, damage, says):
    project.sh(f"python -m stages.make && rm -r .fewstep/scratch && {damage}")
    said = project.sh("python -m stages.use one", ok=False)
    assert says in said
    assert "Traceback" not in said


def test_the_users_own_files_count_by_their_bytes(project):
    project.write("own.txt", "first")
    project.edit("stages/make.py", "return {}", "return {'own': 'own.txt'}")
    project.sh("python -m stages.make && python -m stages.use one")
    project.sh("touch own.txt && python -m stages.use one")
    project.write("own.txt", "other")
    project.sh("python -m stages.make")
    assert len(list(project.folder.glob(".fewstep/scratch/make.*"))) == 2
    project.sh("rm own.txt")
    assert "make: needs own.txt, which is not there" in project.sh("python -m stages.make", ok=False)
    project.sh("mkdir elsewhere && ln -s elsewhere own.txt")
    assert "make: own.txt is a link to a folder" in project.sh("python -m stages.make", ok=False)


def test_a_manifest_among_the_users_own_files_is_no_manifest_of_ours(project):
    (project.folder / "own").mkdir()
    project.write("own/manifest.json", "{}")
    project.edit("stages/make.py", "return {}", "return {'own': 'own'}")
    project.sh("python -m stages.make && python -m stages.use one")


def test_the_key_must_be_one_of_the_section(project):
    assert "stages.use takes one of: one, two; got three" in project.sh(
        "python -m stages.use three", ok=False
    )
    assert "stages.use takes one of: one, two; got nothing" in project.sh("python -m stages.use", ok=False)
    assert "stages.make takes no argument; got x" in project.sh("python -m stages.make x", ok=False)


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        ("disk", "is full ("),
        ("user", "use@one: use.word is too rude\n"),
        ("bug", "RuntimeError: a bug of ours"),
    ],
)
def test_a_mistake_is_one_line_and_a_bug_has_a_traceback(project, fail, says):
    project.sh("python -m stages.make")
    project.edit("params.yaml", "{word: hello}", f"{{word: hello, fail: {fail}}}")
    said = project.sh("python -m stages.use one", ok=False)
    assert says in said
    assert ("Traceback" in said) == (fail == "bug")
    assert not (project.folder / "artifacts/use").exists()

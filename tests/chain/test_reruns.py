"""A stage runs again when its settings, VERSION or inputs change, and only then.

That two clones come to equal bytes is in test_breaks.py, which makes the second.
"""


def test_nothing_runs_a_second_time(checkout):
    again = checkout.repro()
    assert again.ran == []
    assert "Data and pipelines are up to date" in again.said


def test_a_comment_or_docstring_re_runs_nothing(checkout):
    for file in (
        "fewstep/training/loop.py",
        "fewstep/models/unet.py",
        "stages/pretrain.py",
        "stages/run/runner.py",
    ):
        text = (checkout / file).read_text()
        (checkout / file).write_text(f"# a comment\n{text}")
    checkout.edit("params.yaml", "seed: 0", "seed: 0  # of all stages")
    assert checkout.repro().ran == []


def test_a_file_dropped_into_data_makes_nothing_anew(checkout, finished):
    """The stages that may read a file of the user's have their turn, and find their work done."""
    (checkout / "data/notes.txt").write_text("to do")
    again = checkout.repro()
    assert again.ran == ["prepare", "pretrain@base", "couple@round1", "evaluate"]
    assert again.said.count("made before, publishing it") == 4
    assert checkout.files("artifacts") == finished.files("artifacts")


def test_one_student_alone(checkout):
    """That a whole repro then runs only the evaluation besides is in test_experiments.py."""
    checkout.set(distill={"boss-4": {"train": {"steps": 7}}})
    assert checkout.repro("distill@boss-4").ran == ["distill@boss-4"]


def test_a_new_version_runs_its_stage(checkout):
    checkout.edit("stages/trajectories.py", "VERSION = 2", "VERSION = 3")
    assert checkout.repro("trajectories@base").ran == ["trajectories@base"]

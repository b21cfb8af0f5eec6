"""What evaluate can do before all its inputs are there, and what its run finds of it."""

import shutil

MEASURED = "evaluate: entries: resuming from entry"


def kept(checkout):
    """Return the files of measured entries."""
    return sorted((checkout / ".fewstep/entries").glob("*.json"))


def test_ahead_measures_existing_models_and_the_run_reuses_the_entries(checkout, finished):
    out = checkout.forget("evaluate")
    every = len(kept(checkout))
    shutil.rmtree(checkout / ".fewstep/entries")
    student = checkout.forget("distill@boss-4", scratch=False)
    said = checkout.sh("python -m stages.evaluate --ahead")
    assert "evaluate, ahead: entries" in said
    assert 0 < len(kept(checkout)) < every  # the student is not there
    assert not (checkout / out).exists()

    again = checkout.repro()
    assert again.ran == ["distill@boss-4", "evaluate"]
    assert MEASURED in again.said
    assert len(kept(checkout)) == every
    for folder in (student, out):
        assert checkout.files(folder) == finished.files(folder)


def test_without_the_reference_there_is_nothing_to_measure(checkout):
    shutil.rmtree(checkout / "artifacts/models/base")
    shutil.rmtree(checkout / ".fewstep/entries")
    assert "entries" not in checkout.sh("python -m stages.evaluate --ahead")
    assert not (checkout / ".fewstep/entries").exists()


def test_ahead_reports_a_mistake(checkout):
    checkout.set(evaluate={"sampels": 9})
    said = checkout.refused("python -m stages.evaluate --ahead")
    assert "evaluate.sampels is not a setting; did you mean 'samples'?" in said
    assert "--ahead" in checkout.refused("python -m stages.prepare --ahead")  # is no option there

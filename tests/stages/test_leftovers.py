"""The evaluation removes outputs of stages that left params.yaml, and nothing of the user's."""

from types import SimpleNamespace

from stages.evaluate import remove_models_no_longer_named


def test_only_outputs_that_no_stage_makes_any_more_are_removed(tmp_path):
    models = tmp_path / "models"
    for name in ("base", "old-student", "boss-4.tmp", "mine"):
        (models / name).mkdir(parents=True)
    for name in ("base", "old-student"):
        (models / name / "manifest.json").write_text("{}")
    notes = []
    job = SimpleNamespace(
        inputs={"data": tmp_path / "prepare", "model base": models / "base"},
        progress=SimpleNamespace(note=notes.append),
    )
    remove_models_no_longer_named(job)
    assert sorted(path.name for path in models.iterdir()) == ["base", "mine"]
    assert any("mine is not made by any stage" in note for note in notes)
    assert any("removed" in note and "old-student" in note for note in notes)


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path):
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    for folder in (models / "base", elsewhere):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    (models / "old-student").symlink_to(elsewhere)
    remove_models_no_longer_named(
        SimpleNamespace(
            inputs={"model base": models / "base"}, progress=SimpleNamespace(note=lambda text: None)
        )
    )
    assert [path.name for path in models.iterdir()] == ["base"]
    assert (elsewhere / "manifest.json").exists()

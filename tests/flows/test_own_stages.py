"""Stages of the user's own in dvc.yaml: their outputs may be files, and have no manifest of a result."""

from flows import pipeline
from flows.dvc import repo
from stages.tracking import outboxes, tracking

DVC_YAML = """
stages:
  table:
    cmd: cp data/a table.csv
    deps: [data]
    outs: [table.csv]
  folder:
    cmd: mkdir folder && cp table.csv folder/manifest.json
    deps: [table.csv]
    outs: [folder]
"""


def test_the_end_of_a_run_passes_them_over(toy, monkeypatch):
    (toy.root / "dvc.yaml").write_text(DVC_YAML)
    toy.sh("dvc repro -q")
    monkeypatch.setattr(tracking, "start_sender", lambda root: None)
    monkeypatch.setattr(pipeline, "SECONDS_TO_DELIVER", 0)
    monkeypatch.setenv("FEWSTEP_TRACKING", "on")
    stages = repo.read(toy.root)
    assert pipeline.track_cached(toy.root, list(stages.values())) is None
    (told,) = outboxes.waiting(outboxes.folder(toy.root))
    assert '"link"' not in told.read_text()
    assert not any(stage.changed for stage in repo.read(toy.root).values())

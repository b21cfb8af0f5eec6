"""The database of a checkout's own tracker: made once, whoever asks for it first."""

import shutil
from importlib.util import find_spec

import pytest

# Not importorskip, which imports it, for seconds.
pytestmark = pytest.mark.skipif(find_spec("mlflow") is None, reason="no mlflow here")


def test_of_two_senders_that_make_it_at_once_the_slower_one_keeps_what_the_faster_one_recorded(
    mlflow_database, tmp_path, monkeypatch
):
    from stages.tracking.mlflow_runs import Tracker

    (tmp_path / ".fewstep").mkdir()
    copyfile = shutil.copyfile

    def overtaken(*arguments, **options):
        copyfile(mlflow_database, tmp_path / ".fewstep/mlflow.db")
        monkeypatch.setattr(shutil, "copyfile", copyfile)
        faster = Tracker(tmp_path, None, "faster")
        faster.create("run", {})
        return copyfile(*arguments, **options)

    monkeypatch.setattr(shutil, "copyfile", overtaken)
    slower = Tracker(tmp_path, None, "slower")
    kept = slower.client.get_experiment_by_name("faster")
    assert len(slower.client.search_runs([kept.experiment_id])) == 1
    assert [path.name for path in (tmp_path / ".fewstep").iterdir()] == ["mlflow.db"]

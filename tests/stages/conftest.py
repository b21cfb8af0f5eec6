import pytest


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory):
    """MLflow's tables, empty: to make them takes seconds."""
    from stages.tracking.mlflow_runs import create_database

    create_database(file := tmp_path_factory.mktemp("mlflow") / "mlflow.db")
    return file


@pytest.fixture
def forked_processes(monkeypatch):
    """Let the processes of a training begin with torch loaded."""
    import forked  # tells the fork server what to load

    from stages.workers import distributed

    monkeypatch.setattr(distributed, "START_METHOD", forked.CONTEXT.get_start_method())

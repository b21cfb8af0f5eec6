import pytest


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory):
    """MLflow's tables, empty: to make them takes seconds."""
    from stages.tracking.mlflow_runs import create_database

    create_database(file := tmp_path_factory.mktemp("mlflow") / "mlflow.db")
    return file

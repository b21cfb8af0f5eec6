"""`dvc exp run -S` in the workspace, in a throw-away clone and from the queue."""

import csv
import io
import json
import re
import sqlite3
from dataclasses import dataclass

import preloaded
import pytest
from chain.checkout import Checkout
from processes import wait_for

STEPS = {"here": 11, "--temp": 12, "--queue": 13}


@dataclass
class Experiments:
    """A checkout in which one experiment ran in each of the three ways."""

    checkout: Checkout
    said: dict[str, str]
    rows: list[dict[str, str]]
    """Of `dvc exp show`."""


@pytest.fixture(scope="module")
def experiments(finished, tmp_path_factory):
    """Three experiments, tracked as they are for users."""
    checkout = finished.copy(tmp_path_factory.mktemp("experiments") / "checkout")
    checkout.environment.pop("FEWSTEP_TRACKING")
    checkout.environment["PYTHONPATH"] = preloaded.BEGUN
    said = {}
    for mode in ("--queue", "--temp", "here"):  # the queue's worker runs beside the others
        flag = "" if mode == "here" else f" {mode}"
        name, setting = mode.strip("-"), f"distill.boss-4.train.steps={STEPS[mode]}"
        said[mode] = checkout.sh(f"dvc exp run{flag} --name {name} -S {setting}")
        if mode == "--queue":
            checkout.sh("dvc queue start")
    checkout.sh("git checkout -q . && dvc checkout -q")
    wait_for(lambda: re.search("Success|Failed", checkout.sh("dvc queue status")), every=2)
    said["--queue"] = checkout.sh("dvc queue logs queue")
    checkout.sh("dvc queue stop")
    rows = list(csv.DictReader(io.StringIO(checkout.sh("dvc exp show --csv"))))
    checkout.wait_for_senders()
    return Experiments(checkout, said, rows)


@pytest.mark.parametrize("mode", STEPS)
def test_only_the_student_and_what_builds_on_it_run(experiments, mode):
    said = experiments.said[mode]
    ran = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]
    assert ran == ["distill@boss-4", "distill@finished-4", "evaluate"]
    assert f"step {STEPS[mode]}/{STEPS[mode]} (100 %)" in said


@pytest.mark.parametrize("mode", STEPS)
def test_the_headline_stands_in_exp_show(experiments, finished, mode):
    (mine,) = [row for row in experiments.rows if row["Experiment"] == mode.strip("-")]
    (base,) = [row for row in experiments.rows if row["rev"] == "master"]
    assert float(mine["distill.boss-4.train.steps"]) == STEPS[mode]
    assert float(mine["headline.boss-4@4.fd_clf"]) != float(base["headline.boss-4@4.fd_clf"])
    assert mine["headline.one-step@1.fd_clf"] == base["headline.one-step@1.fd_clf"]
    metrics = json.loads((finished / "artifacts/evaluate/metrics.json").read_text())
    assert float(base["headline.boss-4@4.fd_clf"]) == metrics["headline"]["boss-4@4"]["fd_clf"]


def test_scratch_of_experiments_lies_in_the_checkout(experiments, finished):
    found = (experiments.checkout / ".fewstep/scratch").glob("distill@boss-4.*/manifest.json")
    steps = {json.loads(file.read_text())["config"]["train"]["steps"] for file in found}
    assert len(steps) >= 2  # of four: a start prunes all but the newest finished one
    assert steps <= {10, *STEPS.values()}
    entries = [
        len(list((checkout / ".fewstep/entries").glob("*.json")))
        for checkout in (finished, experiments.checkout)
    ]
    assert entries[1] == entries[0] + 2 * len(STEPS)  # each measured its own students, and nothing again


def test_runs_of_experiments_are_tracked_in_the_checkout(experiments):
    with sqlite3.connect(experiments.checkout / ".fewstep/mlflow.db") as database:
        rows = database.execute(
            "select params.value from params join runs using (run_uuid) "
            "where runs.name = 'distill@boss-4' and params.key = 'train.steps' and runs.status = 'FINISHED'"
        ).fetchall()
    assert {int(value) for (value,) in rows} >= set(STEPS.values())


def test_the_workspace_is_left_as_it_was(experiments, finished):
    assert experiments.checkout.repro(FEWSTEP_TRACKING="off").ran == []
    assert experiments.checkout.files("artifacts") == finished.files("artifacts")

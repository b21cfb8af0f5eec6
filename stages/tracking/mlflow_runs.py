"""The events of an outbox as MLflow runs: a parent for each pipeline run, a child for each stage.

Several machines may deliver parts of one pipeline at once, in any order, so what is made here may be there.
Only the sender imports this, in a process of its own: mlflow takes seconds to import.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from stages.tracking.mlflow_registry import Registry
from stages.tracking.outboxes import now

PIPELINE, FINGERPRINT, OUTCOME = "fewstep.pipeline", "fewstep.fingerprint", "fewstep.outcome"
SOURCE, OUTBOX, PARENT = "fewstep.source_run_id", "fewstep.outbox", "mlflow.parentRunId"
COMMIT, LOCK = "mlflow.source.git.commit", "fewstep.dvc_lock"
DIGEST_LETTERS = 36  # of a data set, MLflow takes no more
WRONG = ("FAILED", "KILLED")


class Tracker:
    """One MLflow experiment."""

    def __init__(self, root: Path, uri: str | None, experiment: str) -> None:
        state = (root / ".fewstep").resolve()  # a variant, which may be removed, has a link there
        if uri is None:
            create_database(database := state / "mlflow.db")
            uri = f"sqlite:///{database}"
        self.client = MlflowClient(uri)
        # A server knows where its artifacts go; a database of this machine must be told.
        place = (state / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
        self.experiment = self.have_experiment(experiment, place)
        self.registry = Registry(self, experiment)

    def have_experiment(self, name: str, place: str | None) -> str:
        """Return the id of an experiment, made if there is none."""
        if not (found := self.client.get_experiment_by_name(name)):
            try:
                return self.client.create_experiment(name, artifact_location=place)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)
        return found.experiment_id

    def find(self, experiments: Sequence[str] = (), **tags: str) -> list[Run]:
        """Return the runs of this experiment, or of others, that carry these tags, oldest first."""
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        places = list(experiments or [self.experiment])
        return list(self.client.search_runs(places, wanted, order_by=["start_time ASC"]))

    def parent(self, event: dict[str, Any]) -> str:
        """Return the id of the run of a whole pipeline, made when its first stage asks."""
        tags = {PIPELINE: event["pipeline"], OUTCOME: "pipeline"}
        if not (found := self.find(**tags)):
            known = {name: event["tags"][name] for name in (COMMIT, LOCK) if name in event["tags"]}
            made = self.create(event["pipeline_name"], tags | known)
            found = self.find(**tags)
            if found[0].info.run_id != made:  # another machine was quicker
                self.client.delete_run(made)
        return found[0].info.run_id

    def locked(self, pipeline: str, digest: str) -> None:
        """Note the digest of dvc.lock as a pipeline left it."""
        for run in self.find(**{PIPELINE: pipeline, OUTCOME: "pipeline"}):
            self.client.set_tag(run.info.run_id, LOCK, digest)

    def create(self, name: str, tags: dict[str, str], time: int | None = None) -> str:
        """Return the id of a new run."""
        run = self.client.create_run(self.experiment, start_time=time or now(), tags=tags, run_name=name)
        return run.info.run_id

    def begin(self, outbox: str, event: dict[str, Any]) -> str:
        """Return the id of a stage's run; the one that an interrupted sender made, if there is one."""
        parent = self.parent(event)
        self.client.update_run(parent, "RUNNING")
        tags = event["tags"] | {PARENT: parent, PIPELINE: event["pipeline"], OUTBOX: outbox}
        for link in self.find(**{key: tags[key] for key in (PIPELINE, FINGERPRINT)} | {OUTCOME: "cached"}):
            self.client.delete_run(link.info.run_id)  # by a machine that word of this run reached too late
        found = self.find(**{OUTBOX: outbox})
        return found[0].info.run_id if found else self.create(event["address"], tags, event["time"])

    def log(
        self, run: str, metrics: list[Metric] | None = None, params: dict[str, Any] | None = None
    ) -> None:
        """Log many values with few requests."""
        for chunk in batched(metrics or [], 1000):  # MLflow takes no more at once
            self.client.log_batch(run, metrics=chunk)
        for chunk in batched([Param(name, str(value)[:6000]) for name, value in (params or {}).items()], 100):
            self.client.log_batch(run, params=chunk)

    def uses(self, run: str, samples: list[dict[str, str]]) -> None:
        """Note the data sets and pairs that a run reads."""
        self.client.log_inputs(
            run,
            [
                DatasetInput(
                    Dataset(
                        name=item["name"],
                        digest=item["digest"][:DIGEST_LETTERS],
                        source_type="dvc",
                        source=json.dumps({"path": item["source"], "sha256": item["digest"]}),
                    )
                )
                for item in samples
            ],
        )

    def origin(self, tags: dict[str, str]) -> str | None:
        """Return the run that made a result, in any experiment; the first that ended well, if any did."""
        known = [experiment.experiment_id for experiment in self.client.search_experiments()]
        found = self.find(known, **{FINGERPRINT: tags[FINGERPRINT], OUTCOME: "ran"})
        found.sort(key=lambda run: run.info.status != "FINISHED")
        return found[0].info.run_id if found else None

    def judge(self, rows: list[dict[str, Any]], run: str | None) -> None:
        """Let students challenge the champions; the evaluation's run tells what came of it."""
        for alias, told in self.registry.judge(rows).items():
            print(f"{alias}: {told}", flush=True)
            if run:
                self.client.set_tag(run, f"fewstep.{alias}", told)

    def end(self, run: str, status: str, time: int) -> None:
        """End a stage's run, and its pipeline's as far as it got."""
        self.client.set_terminated(run, status, time)
        parent = self.client.get_run(run).data.tags[PARENT]
        self.client.set_terminated(parent, self.outcome(parent), time)

    def outcome(self, parent: str) -> str:
        """Return the status of a pipeline: what went wrong in the last run of any of its stages."""
        last = {run.info.run_name: run.info.status for run in self.find(**{PARENT: parent})}
        return next((status for status in WRONG if status in last.values()), "FINISHED")

    def link(self, event: dict[str, Any]) -> None:
        """Give a pipeline a run for a stage whose result was there already, with a link to its origin."""
        there = self.find(**{PIPELINE: event["pipeline"], FINGERPRINT: event["tags"][FINGERPRINT]})
        if any(run.info.status not in WRONG for run in there):
            return
        origin = self.origin(event["tags"])
        parent = self.parent(event)
        tags = {PARENT: parent, PIPELINE: event["pipeline"], OUTCOME: "cached"}
        tags |= {SOURCE: origin or "origin unknown"}
        run = self.create(event["address"], event["tags"] | tags, event["time"])
        if origin:
            data = self.client.get_run(origin).data
            self.log(run, [Metric(n, v, event["time"], 0) for n, v in data.metrics.items()], data.params)
        self.end(run, "FINISHED", event["time"])


def batched(items: list, size: int) -> list[list]:
    """Return the items in lists of at most that size."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def create_database(file: Path) -> None:
    """Make MLflow's tables, whole or not at all: a sender killed among its migrations would leave a wreck.

    In memory where there is such a folder: the migrations wait for the disk hundreds of times.
    """
    if file.exists():
        return
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments(max_results=1)
        partial = file.with_suffix(f".{os.getpid()}.tmp")
        shutil.copyfile(f"{folder}/mlflow.db", partial)
    partial.replace(file)

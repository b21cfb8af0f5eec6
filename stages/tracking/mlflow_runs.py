"""The events of an outbox in MLflow: runs, registered models, and the champions among students.

A pipeline run is a parent run, with a child for each stage.

Several machines may deliver parts of one pipeline at once, in any order, so what is made here may be there.
Only the sender imports this, in a process of its own: mlflow takes seconds to import.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    LifecycleStage,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fewstep.errors import UserError
from fewstep.files import copy_where_none_is
from stages.artifacts import places
from stages.tracking import outboxes
from stages.tracking.outboxes import now

PIPELINE, FINGERPRINT, OUTCOME = "fewstep.pipeline", "fewstep.fingerprint", "fewstep.outcome"
SOURCE, OUTBOX, PARENT = "fewstep.source_run_id", "fewstep.outbox", "mlflow.parentRunId"
COMMIT, LOCK = "mlflow.source.git.commit", "fewstep.dvc_lock"
DIGEST_LETTERS = 36  # of a data set, MLflow takes no more
WRONG = ("FAILED", "KILLED")
MEASURED = ("nfe", "fd_clf", "fd_clf_se", "yardstick")
NORMAL_95 = 1.96  # standard errors on each side that hold 95 % of a normal distribution


class Tracker:
    """One MLflow experiment."""

    def __init__(self, root: Path, uri: str | None, experiment: str) -> None:
        if uri is None:
            create_database((root / places.TRACKER).resolve())
            uri = outboxes.database(root)
        self.client = MlflowClient(uri)
        # A server knows where its artifacts go; a database of this machine does not.
        place = (root / places.TRACKED_FILES).resolve().as_uri() if uri.startswith("sqlite:") else None
        self.experiment = self.have_experiment(experiment, place)
        self.registry = Registry(self, experiment)

    def have_experiment(self, name: str, place: str | None) -> str:
        """Return the id of an experiment, made if there is none.

        Raises:
            UserError: if it was deleted: MLflow keeps its name, and takes nothing for it.
        """
        if found := self.client.get_experiment_by_name(name):
            refuse_deleted(found)
            return found.experiment_id
        try:
            return self.client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self.have_experiment(name, place)

    def check(self) -> None:
        """Ask whether the experiment is there still.

        Raises:
            UserError: if it was deleted since.
        """
        refuse_deleted(self.client.get_experiment(self.experiment))

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

    def update_champions(self, rows: list[dict[str, Any]], run: str | None) -> None:
        """Compare students with the champions, and note the outcome in the evaluation's run."""
        for alias, told in self.registry.update_champions(rows).items():
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


class Registry:
    """One registered model, whose versions are the models that an experiment's runs made."""

    def __init__(self, tracker: Tracker, name: str) -> None:
        self.client, self.experiment = tracker.client, tracker.experiment
        self.name = "".join(letter if letter.isalnum() or letter in "._- " else "_" for letter in name)

    def add(self, event: dict[str, Any], run: str | None) -> None:
        """Make a model a version, unless one with its fingerprint is there: a delivery may come twice."""
        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        if self.version(event["tags"][FINGERPRINT]):
            return
        made = self.client.create_logged_model(
            self.experiment,
            name=event["name"],
            source_run_id=run,
            tags=event["tags"],
            params={"fingerprint": event["tags"][FINGERPRINT]},
        )
        for file in event["files"]:
            self.client.log_model_artifact(made.model_id, file)
        self.client.finalize_logged_model(made.model_id, "READY")
        if run:
            self.client.log_outputs(run, [LoggedModelOutput(made.model_id, step=0)])
        self.client.create_model_version(
            self.name,
            source=made.artifact_location,
            run_id=run,
            model_id=made.model_id if run else None,  # without a run MLflow would ask another tracker for it
            tags=event["tags"],
            description=f"{event['name']}: {', '.join(Path(file).name for file in event['files'])}",
        )

    def version(self, fingerprint: str) -> ModelVersion | None:
        """Return the version of a result, None if it is not there."""
        wanted = f"name = '{self.name}' and tags.`{FINGERPRINT}` = '{fingerprint}'"
        return next(iter(self.client.search_model_versions(wanted)), None)

    def update_champions(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        """Note what was measured on the versions, and give the alias champion-<nfe> to what is better.

        Returns:
            For each alias what became of it, in words.
        """
        measured = [(version, row) for row in rows if (version := self.version(row["fingerprint"]))]
        for version, row in measured:  # all of them first: a champion that was measured again compares
            for name in MEASURED:
                self.client.set_model_version_tag(self.name, version.version, f"fewstep.{name}", row[name])
        best: dict[int, tuple[ModelVersion, dict[str, Any]]] = {}
        for version, row in sorted(measured, key=lambda pair: pair[1]["fd_clf"]):
            best.setdefault(row["nfe"], (version, row))
        # Only the best one: another that took the place first might hold it within the interval.
        aliases = {f"champion-{nfe}": challenger for nfe, challenger in best.items()}
        return {alias: self.challenge(alias, *challenger) for alias, challenger in aliases.items()}

    def challenge(self, alias: str, version: ModelVersion, row: dict[str, Any]) -> str:
        """Give a version the alias if none has it, or the one that has it is worse beyond the interval."""
        holder = self.client.get_registered_model(self.name).aliases.get(alias)
        this = f"version {version.version}, {row['model']}, fd_clf {row['fd_clf']:.4g}"
        if holder is not None:
            if str(holder) == str(version.version):
                return f"{this}: is the champion"
            champion = self.client.get_model_version(self.name, holder)
            if refusal := why_not(row, champion.tags):
                return f"version {holder} stays the champion: {this} {refusal}"
        self.client.set_registered_model_alias(self.name, alias, version.version)
        return f"{this}: became the champion" + (f" in place of version {holder}" if holder else "")


def why_not(row: dict[str, Any], champion: dict[str, str]) -> str:
    """Say why a student does not take the place of the champion, whose tags these are; "" if it does.

    Its distance must be smaller by more than the half-width of a 95 % interval of the difference.
    """
    if champion["fewstep.yardstick"] != row["yardstick"]:
        return "was measured with another yardstick (data, samples or seed), so they do not compare"
    gain = float(champion["fewstep.fd_clf"]) - row["fd_clf"]
    needed = NORMAL_95 * math.hypot(row["fd_clf_se"], float(champion["fewstep.fd_clf_se"]))
    if gain > needed:
        return ""
    difference = f"{abs(gain):.2g} {'higher' if gain < 0 else 'lower'}"
    return f"has an fd_clf {difference} than the champion's; it must be lower by more than {needed:.2g}"


def refuse_deleted(experiment: Experiment) -> None:
    """Refuse an experiment that was deleted.

    Raises:
        UserError: with the command that restores it.
    """
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise UserError(
            f"the experiment {experiment.name!r} is deleted in MLflow; restore it with `mlflow experiments "
            f"restore --experiment-id {experiment.experiment_id}`, or name another one in "
            "MLFLOW_EXPERIMENT_NAME"
        )


def batched(items: list, size: int) -> list[list]:
    """Return the items in lists of at most that size."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def create_database(file: Path) -> None:
    """Make MLflow's tables, whole or not at all: a sender killed among its migrations would leave a wreck.

    In memory where there is such a folder: the migrations wait for the disk hundreds of times. Senders of two
    experiments may do so at once; the first one's database stays, since it may hold records already.
    """
    if file.exists():
        return
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments(max_results=1)
        copy_where_none_is(Path(folder, "mlflow.db"), file)

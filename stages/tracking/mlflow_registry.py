"""Models in MLflow's registry, and which student is the champion at its NFE.

Only the sender imports this.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

if TYPE_CHECKING:
    from stages.tracking.mlflow_runs import Tracker

FINGERPRINT = "fewstep.fingerprint"
MEASURED = ("nfe", "fd_clf", "fd_clf_se", "yardstick")
NORMAL_95 = 1.96  # standard errors on each side that hold 95 % of a normal distribution


class Registry:
    """One registered model, whose versions are the models that an experiment's runs made."""

    def __init__(self, tracker: "Tracker", name: str) -> None:
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

    def judge(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        """Note what was measured on the versions, and give the alias champion-<nfe> to what is better.

        Returns:
            For each alias what became of it, in words.
        """
        measured = [(version, row) for row in rows if (version := self.version(row["fingerprint"]))]
        for version, row in measured:  # all of them first: a champion that was measured anew compares
            for name in MEASURED:
                self.client.set_model_version_tag(self.name, version.version, f"fewstep.{name}", row[name])
        best: dict[int, tuple[ModelVersion, dict[str, Any]]] = {}
        for version, row in sorted(measured, key=lambda pair: pair[1]["fd_clf"]):
            best.setdefault(row["nfe"], (version, row))
        # Only the best one: another that took the place first might hold it within the interval.
        aliases = {f"champion-{nfe}": challenger for nfe, challenger in best.items()}
        return {alias: self.challenge(alias, *challenger) for alias, challenger in aliases.items()}

    def challenge(self, alias: str, version: ModelVersion, row: dict[str, Any]) -> str:
        """Give a version the alias if nobody has it, or its holder is worse beyond the interval."""
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
    return "" if gain > needed else f"is better by {gain:.2g}, but it takes more than {needed:.2g}"

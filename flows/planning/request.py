"""What a run is asked for: the flow's parameters, which are the command line's options as well."""

import argparse
import json
import shlex
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import yaml

from fewstep.errors import UserError
from stages.tracking import recording


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which stages shall have their turn, and how; `pipeline` of flows/pipeline.py says more of each."""

    start_from: str | None = None
    only: str | None = None
    force: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)
    experiment: str | None = None

    def command(self, failed: list[str]) -> str:
        """Return the command that goes on after these stages failed."""
        words = ["python", "-m", "flows.pipeline"]
        if self.only:
            words += ["--only", self.only]
        elif len(failed) == 1:
            words += ["--start-from", failed[0]]
        for key, value in self.overrides.items():
            words += ["--set", f"{key}={json.dumps(value)}"]
        if self.experiment:
            words += ["--experiment", self.experiment]
        return shlex.join(words)

    def recorded(self, pipeline: str) -> AbstractContextManager[None]:
        """Let stages record their runs where they belong: below the tracker's run of that name."""
        experiment = {recording.EXPERIMENT: self.experiment} if self.experiment else {}
        return recording.recorded(**{recording.PIPELINE: pipeline}, **experiment)


def options(arguments: list[str]) -> dict[str, Any]:
    """Decode a command line into parameters of the flow.

    Raises:
        UserError: an override is no key=value.
    """
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline",
        description="Bring the stages of dvc.yaml up to date through Prefect.",
    )
    add = parser.add_argument
    add("--start-from", metavar="STAGE", help="only this stage and all that builds on it")
    add("--only", metavar="STAGE", help="only this stage")
    add("--force", action="store_true", help="run the chosen stages even if they are up to date")
    add(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="try a setting in a workspace beside this one, such as distill.boss-4.train.steps=800",
    )
    add("--experiment", metavar="NAME", help="the MLflow experiment to record under")
    add("--dry-run", action="store_true", help="tell what would run, and run nothing")
    found = vars(parser.parse_args(arguments))
    return found | {"overrides": overrides(found["overrides"])}


def overrides(words: list[str]) -> dict[str, Any]:
    """Decode key=value words; values are written as in params.yaml.

    Raises:
        UserError: one is no key=value, or its value is no YAML.
    """
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key and equals):
            raise UserError(f"--set needs key=value, such as pretrain.train.steps=800, got {word!r}")
        try:
            found[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {key}: {text!r} is no value that params.yaml could hold") from None
    return found

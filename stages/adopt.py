"""Adopt: a model of another library, checked against data, as one of the chain's own."""

from pathlib import Path
from typing import Any, Literal

from etils.epy import lazy_imports
from pydantic import Field

from stages.run.job import Job
from stages.run.runner import main
from stages.settings.adopted import AdoptedSettings, misplaced, read_of
from stages.settings.params import Params

with lazy_imports():
    from stages.training import adoption, training

VERSION = 1  # bump when the numbers this stage writes change


class Config(AdoptedSettings):
    """Settings of the adopt stage, each key of which is a model; with what is said of a model."""

    check_samples: int = Field(128, ge=16)
    """Samples of the data on which the declaration is checked."""
    gates: Literal["stop", "warn"] = "stop"
    """Whether a declaration that is probably wrong stops the chain, or is only reported."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    return {"data": "artifacts/prepare"} | read_of(config)


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/models/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong: DVC sees what lies under data/ alone."""
    keys = params.keys("adopt")
    return [line for key in keys for line in misplaced(f"adopt.{key}", params.config("adopt", key))]


def run(config: Config, job: Job) -> None:
    """Build the network, check what is declared of it, and write its model directory."""
    model = adoption.take(config, job)
    table = model.conditions.table  # of prompts, if there are any
    data, folder = job.manifests["data"]["facts"], job.inputs["folder"]
    training.publish_model(job, model, data, source=folder, table=table)


def gate(config: Config, key: str | None, facts: dict[str, Any]) -> str | None:
    """Say why the chain must stop: the model is probably not what it is declared to be."""
    if config.gates == "warn" or not facts["problems"]:
        return None
    return (
        f"the check of the declaration failed: {'; '.join(facts['problems'])}. Change adopt.{key}, or the "
        f"data, or set adopt.{key}.gates to warn to go on with this"
    )


if __name__ == "__main__":
    main(Path(__file__))

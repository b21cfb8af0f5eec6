"""Adopt: a model of another library, checked against data, as one of the chain's own."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fewstep.errors import UserError
from fewstep.foreign.formats.diffusers import is_of_fewstep
from fewstep.lazy import lazy_imports
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
    """Return what is wrong: a folder must lie under data/, and hold a model of another library."""
    return [line for key in params.keys("adopt") for line in wrong_folder(key, params.config("adopt", key))]


def wrong_folder(key: str, config: Config) -> list[str]:
    """Return what is wrong with the folder of the model of that name, as far as it is there."""
    if outside := misplaced(f"adopt.{key}", config):
        return outside
    with suppress(UserError):  # the stage reads the folder, and says what is wrong with its files
        if is_of_fewstep(Path(config.folder)):
            return [
                f"adopt.{key}.folder {config.folder!r} is a model directory of fewstep, and adopt takes "
                f"models of other libraries; remove adopt.{key}, and set pretrain.{key}.checkpoint to it"
            ]
    return []


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
        f"data, or set adopt.{key}.gates to warn to continue with this"
    )


if __name__ == "__main__":
    main(Path(__file__))

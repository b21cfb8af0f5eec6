"""Adopt: a model of another library, checked against data, as one of the chain's own."""

from pathlib import Path
from typing import Any, Literal

from etils.epy import lazy_imports
from pydantic import Field, ValidationInfo, field_validator

from fewstep.network_times import NETWORK_TIMES
from fewstep.predictions import PARTS
from fewstep.registry import unknown
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.models import outside_data
from stages.settings.params import FormatPlugin, Params, PathChoice, Settings

with lazy_imports():
    from stages.training import adoption, training

VERSION = 1  # bump when the numbers this stage writes change


class Prompts(Settings):
    """Settings of the texts that a model draws the conditions of its samples from."""

    file: str
    """The file with them, below data/: .txt with a prompt a line, or .csv, .tsv or .jsonl."""
    column: str | None = None
    """Which column of a table holds them; null for a table of one."""
    negative: str | None = None
    """What guidance is to lead away from; null leaves it to the pipeline, for most of which it is an empty
    text."""
    tokens: int | None = Field(None, ge=1)
    """How many tokens of a long text are encoded; null takes as many as the pipeline does."""


class Config(Settings):
    """Settings of the adopt stage, each key of which is a model; what is null, the folder says."""

    folder: str
    """The folder with the model, below data/."""
    format: FormatPlugin = Field("diffusers", validate_default=True)
    """What is in the folder, a file of fewstep.foreign.formats, and its options."""
    prediction: str | None = None
    """What the network's output means; a row of fewstep.predictions.PARTS."""
    path: PathChoice | None = None
    """The path from noise to data that it learnt; a name of fewstep.paths.PATHS, or a mapping of the name and
    the path's options."""
    time: str | None = None
    """Which time it is given; a row of fewstep.network_times.NETWORK_TIMES."""
    time_scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    """The factor by which that time is multiplied."""
    classes: int | None = Field(None, ge=0)
    """Classes of its labels, without the null condition; null takes all labels that it has."""
    guidance_channels: int | None = Field(None, ge=1)
    """On how many of the first channels guidance acts; null: on all."""
    prompts: Prompts | None = None
    """Texts that the folder's own encoders turn into the model's conditions; null takes those of the data."""
    check_samples: int = Field(128, ge=16)
    """Samples of the data on which the declaration is checked."""
    gates: Literal["stop", "warn"] = "stop"
    """Whether a declaration that is probably wrong stops the chain, or is only reported."""

    @field_validator("prediction", "time")
    @classmethod
    def _row_exists(cls, name: str | None, info: ValidationInfo) -> str | None:
        rows = list(PARTS if info.field_name == "prediction" else NETWORK_TIMES)
        if name is not None and name not in rows:
            raise ValueError(unknown(str(info.field_name), name, rows))
        return name


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    prompts = {"prompts": config.prompts.file} if config.prompts else {}
    return {"data": "artifacts/prepare", "folder": config.folder} | prompts


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/models/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong: DVC sees what lies under data/ alone."""
    adopted = {f"adopt.{key}": params.config("adopt", key) for key in params.keys("adopt")}
    folders = [(f"{where}.folder", config.folder) for where, config in adopted.items()]
    files = [(f"{where}.prompts.file", c.prompts.file) for where, c in adopted.items() if c.prompts]
    return outside_data(folders) + outside_data(files, what="file")


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

"""Pretrain: a flow model from the prepared data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from etils.epy import lazy_imports
from pydantic import Field, model_validator

from fewstep.conditions import LABEL
from fewstep.settings import TrainSettings
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.models import outside_data, wrong_methods, wrong_path
from stages.settings.params import MethodPlugin, ModelPlugin, NoiseChoice, Params, PathChoice, Settings

with lazy_imports():
    from fewstep import checkpoint, model
    from stages.training import asked_conditions, memory_plan, training

VERSION = 1  # bump when the numbers this stage writes change


class Gates(Settings):
    """What must hold before the chain goes on."""

    loss_ratio: float | None = Field(default=0.95, gt=0)
    """Held-out loss at the end over that at the start must be below this; null lets anything pass."""


class Config(Settings):
    """Settings of the pretrain stage; {} trains nothing, for chains whose teachers are adopted."""

    method: MethodPlugin | None = None
    """The training method, a file of fewstep.methods that learns from data, and its options."""
    model: ModelPlugin | None = None
    """The architecture, a file of fewstep.models, and its options."""
    prediction: Literal["velocity", "data", "noise", "score", "v"] = "velocity"
    """What the network's output means."""
    path: PathChoice = "linear"
    """The path from noise to data; a name of fewstep.paths.PATHS, or a mapping of the name and the path's
    options."""
    noise: NoiseChoice = "gaussian"
    """The law of the noise: a name of fewstep.noises.LAWS, or a mapping of the name and its options."""
    conditional: bool | tuple[str, ...] = False
    """Whether the network is given what the data is conditioned on: true for all of it, or the names of some,
    such as [label, text]."""
    train: TrainSettings | None = None
    """The training loop."""
    checkpoint: str | None = None
    """A model directory under data/ to take instead of training one; its shape must be the data's."""
    gates: Gates = Gates()
    """Checks that stop the chain."""

    @model_validator(mode="after")
    def _whole(self) -> Config:
        missing = [name for name in ("method", "model", "train") if getattr(self, name) is None]
        if missing and self.model_fields_set and self.checkpoint is None:
            raise ValueError(
                f"a training needs {', '.join(missing)}; or name a checkpoint, or write {{}} to train nothing"
            )
        return self


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    return {"data": "artifacts/prepare"} | ({"checkpoint": config.checkpoint} if config.checkpoint else {})


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return "artifacts/models/pretrain"


def check(params: Params) -> list[str]:
    """Return what is wrong: the method must learn from the data, and an adopted model lie under data/."""
    config = params.config("pretrain")
    method, checkpoint = config.method, config.checkpoint
    if checkpoint is not None and (outside := outside_data([("pretrain.checkpoint", checkpoint)])):
        return outside
    if method is None:
        return []
    if method.build().needs.stream != "data":
        return [f"pretrain.method {method.name} learns from {method.build().needs.stream}, not from data"]
    return wrong_path(params) + wrong_methods(params, [("pretrain.method", method, "pretrain")])


def run(config: Config, job: Job) -> None:
    """Train from freshly drawn weights and write the model directory of their moving average, if asked to."""
    if config.checkpoint:
        data, folder = job.manifests["data"]["facts"], job.inputs["checkpoint"]
        training.publish_model(job, checkpoint.load_model(folder), data, source=folder)
    elif config.train:
        training.train_model(job, untrained(config, job))
    else:
        job.progress.note("trains nothing: pretrain is {}")


def plan(config: Config, job: Job) -> memory_plan.MemoryPlan | None:
    """Return what memory the training takes, if there is one."""
    if config.checkpoint or config.train is None:
        return None
    return memory_plan.plan_memory(job, untrained(config, job))


def untrained(config: Config, job: Job) -> training.Untrained:
    """Return the model before its training, with freshly drawn weights."""
    assert config.method is not None, "else there is nothing to train"
    assert config.model is not None, "as there is a method"
    assert config.train is not None, "as there is a method"
    data, method = job.manifests["data"]["facts"], config.method.build()
    conditions = asked_conditions.conditions_of(config.conditional, data)
    of_classes = ("classes", "class_shares", "class_names") if LABEL in conditions else ()
    others = {name: shape for name, shape in conditions.items() if name != LABEL}
    description = model.ModelConfig(
        architecture=config.model.named(),
        shape=tuple(data["shape"]),
        units=data["units"],
        prediction=config.prediction,
        path=config.path,
        noise=config.noise,
        **method.trained(),
        **{name: data[name] for name in of_classes},
        conditions=others,
    )
    table = checkpoint.table_with(job.inputs["data"], conditions) if others else None
    student = model.build(description, seed=job.seed, table=table)
    return training.Untrained(method, student, config.train, job.inputs["data"])


def gate(config: Config, key: str | None, facts: dict[str, Any]) -> str | None:
    """Say why the chain must stop: the training did not learn."""
    limit, first, last = config.gates.loss_ratio, facts.get("first_held_out_loss"), facts.get("held_out_loss")
    if limit is None or first is None or last < limit * first:
        return None
    return (
        f"the check of the trained model failed: its held-out loss went from {first:.4g} to {last:.4g}, "
        f"and must fall below {limit} of the first. Train longer (pretrain.train.steps), or set "
        "pretrain.gates.loss_ratio to null to go on with what was trained"
    )


if __name__ == "__main__":
    main(Path(__file__))

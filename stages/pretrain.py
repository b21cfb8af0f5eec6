"""Pretrain: a flow model from the prepared data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from fewstep.conditions import LABEL
from fewstep.lazy import lazy_imports
from fewstep.settings import TrainSettings
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.fields import MethodPlugin, ModelPlugin, NoiseChoice, PathChoice, Settings
from stages.settings.models import outside_data, wrong_methods, wrong_path
from stages.settings.params import Params
from stages.settings.trainings import wrong_training

with lazy_imports():
    from fewstep import checkpoint, model
    from stages.training import asked_conditions, memory_plan, training

VERSION = 1  # bump when the numbers this stage writes change


class Gates(Settings):
    """What must hold before the chain goes on."""

    loss_ratio: float | None = Field(default=0.95, gt=0)
    """Held-out loss at the end over that at the start must be below this; null lets anything pass."""


class Config(Settings):
    """Settings of the pretrain stage, each key of which is a model."""

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
        if missing and self.checkpoint is None:
            raise ValueError(f"a training needs {', '.join(missing)}; or name a checkpoint")
        return self


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    return {"data": "artifacts/prepare"} | ({"checkpoint": config.checkpoint} if config.checkpoint else {})


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/models/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong: a method must learn from the data, and a checkpoint lie under data/."""
    return [line for key in params.keys("pretrain") for line in wrong_model(key, params)]


def wrong_model(key: str, params: Params) -> list[str]:
    """Return what is wrong with the model of that name."""
    where, config = f"pretrain.{key}", params.config("pretrain", key)
    method, folder = config.method, config.checkpoint
    if folder is not None and (outside := outside_data([(f"{where}.checkpoint", folder)])):
        return outside
    if method is None:
        return []
    if (stream := method.options.needs.stream) != "data":
        return [f"{where}.method {method.name} learns from {stream}, not from data; take one that does"]
    assert config.train is not None, "its settings refuse it"
    problems = wrong_path(where, config) + wrong_methods(params, [(f"{where}.method", method, key)])
    return problems + [f"{where}{told}" for told in wrong_training(config.train, "prepare", params)]


def run(config: Config, job: Job) -> None:
    """Train from freshly drawn weights and write the model directory of their moving average."""
    if config.checkpoint:
        data, folder = job.manifests["data"]["facts"], job.inputs["checkpoint"]
        training.publish_model(job, checkpoint.load_model(folder), data, source=folder)
    else:
        training.train_model(job, training_spec(config, job))


def plan(config: Config, job: Job) -> memory_plan.MemoryPlan | None:
    """Return what memory the training takes, if there is one."""
    return None if config.checkpoint else memory_plan.plan_memory(job, training_spec(config, job))


def training_spec(config: Config, job: Job) -> training.TrainingSpec:
    """Return the model before its training, with freshly drawn weights."""
    assert config.method is not None, "as there is no checkpoint"
    assert config.model is not None, "as there is no checkpoint"
    assert config.train is not None, "as there is no checkpoint"
    data, method = job.manifests["data"]["facts"], config.method.options
    conditions = asked_conditions.conditions_of(
        config.conditional, data, setting=f"pretrain.{job.key}.conditional"
    )
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
    return training.TrainingSpec(method, student, config.train, job.inputs["data"])


def gate(config: Config, key: str | None, facts: dict[str, Any]) -> str | None:
    """Say why the chain must stop: the training did not learn."""
    limit, first, last = config.gates.loss_ratio, facts.get("first_held_out_loss"), facts.get("held_out_loss")
    if limit is None or first is None or last < limit * first:
        return None
    return (
        f"the check of the trained model failed: its held-out loss went from {first:.4g} to {last:.4g}, "
        f"and must fall below {limit} of the first. Train longer (pretrain.{key}.train.steps), or set "
        f"pretrain.{key}.gates.loss_ratio to null to continue with what was trained"
    )


if __name__ == "__main__":
    main(Path(__file__))

"""Pretrain: a flow model from the prepared data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from etils.epy import lazy_imports
from pydantic import Field

from fewstep.conditions import LABEL, shapes_of
from fewstep.errors import UserError
from fewstep.registry import unknown
from fewstep.settings import TrainSettings
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.models import outside_data, wrong_methods, wrong_path
from stages.settings.params import MethodPlugin, ModelPlugin, NoiseChoice, Params, PathChoice, Settings

with lazy_imports():
    from fewstep import checkpoint, model
    from stages.training import memory_plan, training

VERSION = 1  # bump when the numbers this stage writes change


class Gates(Settings):
    """What must hold before the chain goes on."""

    loss_ratio: float | None = Field(default=0.95, gt=0)
    """Held-out loss at the end over that at the start must be below this; null lets anything pass."""


class Config(Settings):
    """Settings of the pretrain stage."""

    method: MethodPlugin
    """The training method, a file of fewstep.methods that learns from data, and its options."""
    model: ModelPlugin
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
    train: TrainSettings
    """The training loop."""
    checkpoint: str | None = None
    """A model directory under data/ to take instead of training one; its shape must be the data's."""
    gates: Gates = Gates()
    """Checks that stop the chain."""


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
    if method.build().needs.stream != "data":
        return [f"pretrain.method {method.name} learns from {method.build().needs.stream}, not from data"]
    return wrong_path(params) + wrong_methods(params, [("pretrain.method", method, "pretrain")])


def run(config: Config, job: Job) -> None:
    """Train from freshly drawn weights and write the model directory of their moving average."""
    if config.checkpoint:
        data, folder = job.manifests["data"]["facts"], job.inputs["checkpoint"]
        training.publish_model(job, checkpoint.load_model(folder), data, source=folder)
    else:
        training.train_model(job, untrained(config, job))


def plan(config: Config, job: Job) -> memory_plan.MemoryPlan | None:
    """Return what memory the training takes, if there is one."""
    return None if config.checkpoint else memory_plan.plan_memory(job, untrained(config, job))


def untrained(config: Config, job: Job) -> training.Untrained:
    """Return the model before its training, with freshly drawn weights."""
    data, method = job.manifests["data"]["facts"], config.method.build()
    conditions = conditions_of(config, data)
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


def conditions_of(config: Config, data: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the conditions that the network is given, the label's among them.

    Raises:
        UserError: if the data has none, or not those that are asked for.
    """
    there = ({LABEL: ()} if data["classes"] else {}) | shapes_of(data)
    if config.conditional is True and not there:
        raise UserError(
            "pretrain.conditional is true, but the data has no labels, nor other conditions; set it to false"
        )
    names = list(there if config.conditional is True else config.conditional or ())
    for name in names:
        if name not in there:
            raise UserError(f"pretrain.conditional: {unknown('condition', name, list(there) or ['none'])}")
    return {name: there[name] for name in names}


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

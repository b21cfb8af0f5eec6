"""Reflow: retrain a flow on the pairs it made of noise, which straightens it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from fewstep.lazy import lazy_imports
from fewstep.lora_settings import LoraSettings
from fewstep.settings import TrainSettings
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.fields import MethodPlugin, ModelPlugin, Settings
from stages.settings.models import missing_flows, wrong_lora, wrong_methods
from stages.settings.params import Params
from stages.settings.trainings import wrong_training

with lazy_imports():
    from fewstep import checkpoint, flow, lora, shards
    from stages.sampling import open_model
    from stages.training import memory_plan, training

if TYPE_CHECKING:
    from fewstep.model import Model

VERSION = 4  # bump when the numbers this stage writes change


class Config(Settings):
    """Settings of the reflow stage; a key of reflow learns from the same key of couple."""

    init: str
    """The model whose weights (their moving average) the training starts from."""
    model: ModelPlugin | None = None
    """Another architecture, a file of fewstep.models, and its options: the training then starts from fresh
    weights, and init gives path, prediction and classes alone. null is that of init."""
    method: MethodPlugin = Field("reflow", validate_default=True)
    """The training method, a file of fewstep.methods that learns from pairs, and its options."""
    lora: LoraSettings | None = None
    """The adapter that is trained in place of the weights of init; {} is usual, null trains the weights."""
    train: TrainSettings
    """The training loop."""
    straightness_noises: int = Field(256, ge=1)
    """Noises on which the straightness of the flow is measured, before and after."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    found = {"pairs": f"artifacts/couple/{key}", "init": f"artifacts/models/{config.init}"}
    nets = {"nets": "artifacts/nets"} if config.method.options.needs.features else {}
    return found | {"data": "artifacts/prepare"} | nets


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/models/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong across sections: a round needs a model, pairs and a method for pairs."""
    rounds = {key: params.config("reflow", key) for key in params.keys("reflow")}
    problems = missing_flows(params, [(f"reflow.{key}.init", config.init) for key, config in rounds.items()])
    for key, config in rounds.items():
        problems += [f"reflow.{key}{told}" for told in wrong_lora(config, params)]
        problems += [f"reflow.{key}{told}" for told in wrong_training(config.train, f"couple/{key}", params)]
        method, where = config.method, f"reflow.{key}.method"
        if (stream := method.options.needs.stream) != "pairs":
            problems.append(
                f"{where} {method.name} learns from {stream}, not pairs; take one that does, such as reflow"
            )
        elif method.options.trained_times != "all":
            problems.append(
                f"{where} {method.name} trains students; use it in distill, and take another here"
            )
        else:
            problems += wrong_methods(params, [(where, method, config.init)], supplied=("features",))
        if config.init == key:
            problems.append(f"reflow.{key}.init is the model it makes; name the one that made its pairs")
        if key not in params.keys("couple"):
            problems.append(f"reflow.{key} has no pairs to learn from: add couple.{key}")
    return problems


def run(config: Config, job: Job) -> None:
    """Train from the initial model's weights, and measure how straight the flow was and is."""
    init, before = opened(config, job)
    was = open_model.straightness_of(before, init, noises=config.straightness_noises, seed=job.seed)
    trained = training.train_model(job, training_spec(config, job, init))
    now = open_model.straightness_of(
        flow.as_flow(trained.model), trained.model, noises=config.straightness_noises, seed=job.seed
    )
    job.facts["straightness"] = {"before": was.straightness, "after": now.straightness}
    job.facts["first_order"] = {"before": was.first_order, "after": now.first_order}
    job.progress.note(
        f"straightness S (0 is straight) went from {was.straightness:.4g} to {now.straightness:.4g}, "
        f"F (0 is of first order) from {was.first_order:.4g} to {now.first_order:.4g}"
    )


def plan(config: Config, job: Job) -> memory_plan.MemoryPlan:
    """Return what memory the training takes."""
    init, _ = opened(config, job)
    return memory_plan.plan_memory(job, training_spec(config, job, init))


def opened(config: Config, job: Job) -> tuple[Model, flow.ModelFlow]:
    """Return the initial model and its flow."""
    purpose = f"reflow@{job.key}"
    return open_model.open_flow(job.inputs["init"], purpose=purpose, merge=config.lora is None)


def training_spec(config: Config, job: Job, init: Model) -> training.TrainingSpec:
    """Return the model before its training, with the weights of `init` unless it is another architecture."""
    method, pairs = config.method.options, job.inputs["pairs"]
    taught = {"baked_guidance": shards.Shards(pairs / "train").facts["guidance"]} | method.trained()
    known = job.manifests.get("pairs")
    failed = bool(known and known["facts"]["problems"])  # which gates: warn lets through
    taught["learned_from"] = "coupled" if failed else "pairs"
    student = training.student_of(init, taught, config.model, seed=job.seed)
    if config.lora is not None:
        base = checkpoint.model_digest(job.inputs["init"])
        student = lora.with_lora(student, config.lora, seed=job.seed, base=base)
    return training.TrainingSpec(method, student, config.train, pairs)


if __name__ == "__main__":
    main(Path(__file__))

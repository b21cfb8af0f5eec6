"""Couple: integrate noise to data with a trained model and keep the pairs."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages._calls import broken_steps
from stages._models import missing_flows, unguidable
from stages._params import Guidance, Params, Settings, SolverName
from stages._runner import Job, main

VERSION = 2  # bump when the numbers this stage writes change


class Config(Settings):
    """Settings of the couple stage."""

    model: str
    """The model that makes the pairs: pretrain, or a key of reflow."""
    pairs: int = Field(ge=1)
    """Noise-data pairs to train on."""
    held_out: int = Field(256, ge=2)
    """Further pairs, kept out of training for held-out losses and checks."""
    solver: SolverName = "heun"
    """The solver, a file of fewstep.solvers."""
    calls: int = Field(64, ge=1)
    """Network calls a pair."""
    guidance: Guidance = 1.0
    """Classifier-free guidance scale baked into the pairs; 1 is none."""
    batch: int = Field(128, ge=1)
    """Pairs in one network call."""
    pairs_per_shard: int = Field(1024, ge=1)
    """Pairs in one shard; also the most work that a crash can lose."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """How the pairs are stored."""
    gates: Literal["stop", "warn"] = "stop"
    """Whether a failed check of the pairs stops the chain, or is only reported."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    return {"model": f"artifacts/models/{config.model}"}


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/couple/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong across sections: with the models that make pairs, their guidance and calls."""
    configs = {f"couple.{key}": params.config("couple", key) for key in params.keys("couple")}
    problems = missing_flows(params, [(f"{where}.model", c.model) for where, c in configs.items()])
    problems += unguidable(params, [(f"{where}.guidance", c.guidance) for where, c in configs.items()])
    for where, c in configs.items():
        problems += broken_steps(f"{where}.calls", c.calls, c.solver, c.guidance)
    return problems


def run(config: Config, job: Job) -> None:
    """Write the pair shards that are missing, then check the held-out pairs."""
    from dataclasses import asdict

    from fewstep.couplings.teacher import check_pairs, make_pairs
    from stages._flows import device, grid_of_calls, open_flow
    from stages._pairs import learnt_independent
    from stages._teaching import write_splits

    model, flow = open_flow(job.inputs["model"], purpose=f"couple@{job.key}", guidance=config.guidance)
    grid = grid_of_calls(flow, config.solver, config.calls)

    def make(start: int, stop: int) -> dict:
        return make_pairs(
            flow,
            seed=job.seed,
            start=start,
            stop=stop,
            shape=model.config.shape,
            classes=model.config.classes,
            grid=grid,
            batch=config.batch,
            device=device(),
        )

    held_out = write_splits(
        job,
        make,
        train=config.pairs,
        held_out=config.held_out,
        per_shard=config.pairs_per_shard,
        facts={"solver": config.solver, "calls": config.calls, "guidance": config.guidance},
        dtypes={"noise": config.dtype, "data": config.dtype},
    )
    checks = check_pairs(
        held_out.load(),
        flow,
        grid=grid,
        batch=config.batch,
        independent=learnt_independent(job.inputs["model"]),
        device=device(),
    )
    job.facts.update(checks=asdict(checks), problems=checks.problems(), advice=checks.advice())
    for problem in [*checks.problems(), *checks.advice()]:
        job.progress.note(f"warning: {problem}")


def gate(config: Config, key: str | None, facts: dict[str, Any]) -> str | None:
    """Say why the chain must stop: the pairs are not what they should be."""
    if config.gates == "warn" or not facts["problems"]:
        return None
    return (
        f"the check of the pairs failed: {'; '.join(facts['problems'])}. Mend the model or the settings, "
        f"or set couple.{key}.gates to warn to go on with these pairs"
    )


if __name__ == "__main__":
    main(Path(__file__))

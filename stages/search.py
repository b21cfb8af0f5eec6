"""Search: for each number of calls, the grid that loses least of a model's trajectories."""

from pathlib import Path

from pydantic import Field

from fewstep.errors import UserError
from stages._models import missing_flows, unguidable
from stages._params import Count, Guidance, Params, SearchPlugin, Settings
from stages._runner import Job, main

VERSION = 1  # bump when the numbers this stage writes change


class Config(Settings):
    """Settings of the search stage; its key is the model's name."""

    method: SearchPlugin
    """The search, a file of fewstep.searches, and its options."""
    budgets: tuple[Count, ...] = Field(min_length=1)
    """Numbers of steps to find a grid for, a network call each without guidance; one search serves all."""
    guidance: Guidance = 1.0
    """Classifier-free guidance scale the model will be sampled with; 1 is none."""
    batch: int = Field(128, ge=1)
    """Noises in one network call."""
    score_noises: int = Field(256, ge=2)
    """Fresh noises on which the grids found are compared with equal steps."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    return {"model": f"artifacts/models/{key}"}


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/search/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong across sections: each key must be a model that can do what is asked of it."""
    configs = {f"search.{key}": params.config("search", key) for key in params.keys("search")}
    problems = missing_flows(params, [(f"search.{key}", key) for key in params.keys("search")])
    problems += unguidable(params, [(f"{where}.guidance", c.guidance) for where, c in configs.items()])
    for where, config in configs.items():
        try:
            config.method.build().check(config.budgets)
        except UserError as error:
            problems.append(f"{where}.budgets: {error}")
    if not configs:
        problems.append("search is empty, but every student needs a grid: add search.pretrain")
    return problems


def run(config: Config, job: Job) -> None:
    """Write grids.json (every budget, with its scores), the cost matrix and a picture of the steps."""
    from dataclasses import asdict, replace

    from safetensors.torch import save_file

    from fewstep import grids
    from fewstep.checkpoint import model_digest
    from fewstep.searches._score import score
    from stages._curves import draw_grids
    from stages._flows import device, open_flow
    from stages._grids import Found, write_grids

    model, flow = open_flow(job.inputs["model"], purpose=f"search@{job.key}", guidance=config.guidance)
    shared = {"seed": job.seed, "shape": model.config.shape, "classes": model.config.classes}
    shared |= {"batch": config.batch, "device": device(), "progress": job.progress}
    result = config.method.build().search(flow, budgets=config.budgets, **shared)
    marks = {"guidance": config.guidance, "model_digest": model_digest(job.inputs["model"])}
    found = {steps: replace(grid, **marks) for steps, grid in result.grids.items()}
    scores = score(flow, found, noises=config.score_noises, **shared)
    fine = grids.Grid(tuple(result.costs.times), guidance=config.guidance)
    details = {
        steps: asdict(scores[steps])
        | {"objective": result.objective[steps], "uniform_objective": result.uniform_objective[steps]}
        for steps in found
    }
    write_grids(job.out, Found(found, fine, details, config.method.named()))
    save_file({"costs": result.costs.costs.contiguous()}, job.out / "costs.safetensors")
    draw_grids(
        job.out / "grids.png", [(f"{steps} calls", grid.times) for steps, grid in sorted(found.items())]
    )
    job.picture("grids", job.out / "grids.png")
    job.facts["endpoint_error"] = {
        str(steps): {"found": s.found, "uniform": s.uniform} for steps, s in scores.items()
    }


if __name__ == "__main__":
    main(Path(__file__))

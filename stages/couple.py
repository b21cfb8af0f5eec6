"""Couple: integrate noise to data with a trained model and keep the pairs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stages.run.job import Job
from stages.run.runner import main
from stages.settings.models import missing_flows, unguidable
from stages.settings.params import Guidance, Params, Settings, SolverName
from stages.settings.steps import wrong_making

if TYPE_CHECKING:
    from stages.sampling.estimate import Estimate

VERSION = 2  # bump when the numbers this stage writes change


class Config(Settings):
    """Settings of the couple stage."""

    model: str
    """The model that makes the pairs: pretrain, or a key of reflow."""
    source: str | None = None
    """Pairs that another tool made with that model, to be taken instead of made here: under data/, an .npz of
    noise and data, or WebDataset tar files; see docs/bring-your-own-pairs.md."""
    pairs: int = Field(ge=1)
    """Noise-data pairs to train on."""
    held_out: int = Field(256, ge=2)
    """Further pairs, kept out of training for held-out losses and checks."""
    solver: SolverName = "heun"
    """The solver, a file of fewstep.solvers."""
    nfe: int = Field(64, ge=1)
    """Network calls a pair."""
    spacing: Literal["uniform", "edm", "log_snr", "tan"] = "uniform"
    """How the steps are spaced; see fewstep.spacings."""
    times: tuple[float, ...] | None = None
    """The times to step through, from where the model starts (noise is 0) to 1, not calls of a spacing."""
    tolerance: float | None = Field(None, gt=0)
    """What an adaptive solver keeps the error of each pair's steps below, instead of solver and calls."""
    guidance: Guidance = 1.0
    """Classifier-free guidance scale baked into the pairs; 1 is none."""
    batch: int = Field(128, ge=1)
    """Pairs in one network call."""
    pairs_per_shard: int = Field(1024, ge=1)
    """Pairs in one shard, the work that a worker takes at a time; also the most that a crash can lose."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """How the pairs are stored."""
    noise: Literal["drawn", "stored"] = "drawn"
    """Whether noise is drawn anew when pairs are read, which halves their bytes, or stored, which reads
    faster; that of pairs from a source is always stored."""
    mirror: bool = False
    """Let half of the pairs in training be mirror images; the model may not tell left from right."""
    gates: Literal["stop", "warn"] = "stop"
    """Whether a failed check of the pairs stops the chain, or is only reported."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    from fewstep.data import path_of

    path = path_of(config.source) if config.source else None
    found = {"source": path} if path and Path(path).exists() else {}
    return {"model": f"artifacts/models/{config.model}"} | found


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/couple/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong across sections: with the models that make pairs, their guidance and calls."""
    configs = {f"couple.{key}": params.config("couple", key) for key in params.keys("couple")}
    problems = missing_flows(params, [(f"{where}.model", c.model) for where, c in configs.items()])
    problems += unguidable(params, [(f"{where}.guidance", c.guidance) for where, c in configs.items()])
    for where, c in configs.items():
        problems += wrong_making(where, c)
    return problems


def plan(config: Config, job: Job) -> "Estimate | None":
    """Return what is still to be spent, if anything is; see stages.sampling.estimate."""
    from stages.sampling.estimate import estimate
    from stages.sampling.pairs import coupling

    return None if config.source else estimate(*coupling(config, job), checked=config.held_out)


def run(config: Config, job: Job) -> None:
    """Write the pair shards that are missing, then check the pairs."""
    from stages.sampling.estimate import estimate
    from stages.sampling.imported_pairs import take
    from stages.sampling.pair_checks import check_coupling, check_mirrored
    from stages.sampling.pairs import coupling

    wanted, maker = coupling(config, job)
    opened = maker.open()  # a model that can't make pairs is refused before workers start
    if config.mirror:
        check_mirrored(job, config, opened)
    if config.source:
        held_out = take(config.source, job, wanted, opened)
    else:
        job.progress.note(estimate(wanted, maker, checked=config.held_out, opened=opened).line())
        held_out = wanted.make(maker)["held_out"]
    check_coupling(job, config, wanted, held_out, opened)


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

"""Couple: integrate noise to data with a trained model and keep the pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fewstep.data import path_of
from fewstep.lazy import lazy_imports
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.models import missing_flows, unguidable
from stages.settings.pair_sources import PairSource
from stages.settings.params import Params

with lazy_imports():
    from fewstep import checkpoint, noises, shards
    from stages.sampling import estimate, inverted, pair_checks, pairs, splits

if TYPE_CHECKING:
    from stages.sampling.estimate import WorkLeft
    from stages.sampling.pairs import PairMaker
    from stages.sampling.splits import Splits

VERSION = 3  # bump when the numbers this stage writes change


class Config(PairSource):
    """Settings of the couple stage, with those of where a pair comes from and of the steps that make it."""

    model: str
    """The model that makes the pairs: a key of pretrain, adopt, reflow or distill."""
    pairs: int = Field(ge=1)
    """Noise-data pairs to train on."""
    held_out: int = Field(256, ge=2)
    """Further pairs, kept out of training for held-out losses and checks."""
    batch: int = Field(128, ge=1)
    """Pairs in one network call."""
    pairs_per_shard: int = Field(1024, ge=1)
    """Pairs in one shard, the work that a worker takes at a time; also the most that a crash can lose."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """How the pairs are stored."""
    mirror: bool = False
    """Let half of the pairs in training be mirror images; the model may not tell left from right."""
    gates: Literal["stop", "warn"] = "stop"
    """Whether a failed check of the pairs stops the chain, or is only reported."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    path = path_of(config.source) if config.source else None
    found = {"source": path} if path and Path(path).exists() else {}
    return {"model": f"artifacts/models/{config.model}", "data": "artifacts/prepare"} | found


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/couple/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong across sections: with the models that make pairs, their guidance and NFE."""
    configs = {f"couple.{key}": params.config("couple", key) for key in params.keys("couple")}
    guided = [(f"{where}.guidance", c.guidance, c.model) for where, c in configs.items()]
    problems = missing_flows(params, [(f"{where}.model", c.model) for where, c in configs.items()])
    problems += unguidable(params, guided)
    return problems + [told for at, c in configs.items() for told in c.wrong_source(at) or c.wrong_steps(at)]


def coupling(config: Config, job: Job) -> tuple[Splits, PairMaker]:
    """Return the pairs that the settings ask for, and how the model makes them."""
    folder = job.inputs["model"]
    known = checkpoint.load_config(folder)
    maker = pairs.PairMaker(
        model=str(folder.resolve()),
        purpose=f"couple@{job.key}",
        seed=job.seed,
        batch=config.batch,
        law=noises.get(known.noise),
        total=config.pairs + config.held_out,
        **config.steps_asked_for(),
    )
    facts = {"model": checkpoint.model_digest(folder), "seed": job.seed}
    facts |= {"guidance": known.guidance_shown(config.guidance)} | config.steps_taken()
    facts |= checkpoint.load_conditions(folder).facts()
    facts |= noises.fact_of(known.noise)
    facts |= {name: value for name in ("mirror", "source", "invert") if (value := getattr(config, name))}
    draws = config.noise == "drawn" and not config.source and not config.invert
    wanted = splits.splits(
        job,
        train=config.pairs,
        held_out=config.held_out,
        per_shard=config.pairs_per_shard,
        facts=facts,
        dtypes=dict.fromkeys(["data"] if draws else ["noise", "data"], config.dtype),
        drawn=lambda first: (
            {"noise": shards.drawn("couple", job.seed, first, known.shape, maker.law)} if draws else {}
        ),
    )
    return wanted, maker


def plan(config: Config, job: Job) -> WorkLeft | None:
    """Return what is still to be spent, if anything is; see stages.sampling.estimate."""
    if config.source:
        return None
    alone = bool(config.invert)  # see `run`
    return estimate.estimate(*coupling(config, job), checked=config.held_out, alone=alone)


def run(config: Config, job: Job) -> None:
    """Write the pair shards that are missing, then check the pairs."""
    wanted, maker = coupling(config, job)
    opened = maker.open()  # a model that can't make pairs is refused before workers start
    if config.mirror:
        pair_checks.check_mirrored(job, opened)
    if config.source:
        made = pairs.take_pairs(config.source, job, wanted, opened)
    elif config.invert:
        mixed = inverted.InvertedMaker(maker=maker, share=config.invert, data=job.inputs["data"] / "train")
        made = wanted.take(mixed)
    else:
        job.progress.note(estimate.estimate(wanted, maker, checked=config.held_out, opened=opened).line())
        made = wanted.make(maker)
    pair_checks.check_coupling(job, wanted, made, opened, batch=config.batch, invert=config.invert)


def gate(config: Config, key: str | None, facts: dict[str, Any]) -> str | None:
    """Say why the chain must stop: the pairs are not what they should be."""
    if config.gates == "warn" or not facts["problems"]:
        return None
    return (
        f"the check of the pairs failed: {'; '.join(facts['problems'])}. Change the model or the settings, "
        f"or set couple.{key}.gates to warn to continue with these pairs"
    )


if __name__ == "__main__":
    main(Path(__file__))

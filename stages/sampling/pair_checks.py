"""The checks of a coupling: measured on its pairs, reported, and put among the facts of the stage."""

from dataclasses import asdict
from functools import reduce
from operator import add
from typing import Any

from fewstep.conditions import images
from fewstep.draws import draws_of
from fewstep.errors import UserError
from fewstep.grids import Grid, uniform
from fewstep.pairs import PairStatistics, check_inverted, check_pairs, require_equivariant
from fewstep.shards import Shards, counted
from stages.process.device import device
from stages.run.job import Job
from stages.sampling.inverted import InvertedPairs
from stages.sampling.splits import HELD_OUT, TRAIN, Opened, Splits
from stages.settings.fields import method_of

FINE_STEPS = 64  # of Heun, to follow a flow whose pairs were made to a tolerance
MIRRORED_NOISES = 32


def check_coupling(
    job: Job, wanted: Splits, made: dict[str, Shards], opened: Opened, *, batch: int, invert: float
) -> None:
    """Check finished pairs: the held-out ones with the model, and the noise and cost of all of them.

    Args:
        job: Of the couple stage; it gains the facts "checks", "problems" and "advice", and "inverted_checks"
            if pairs are inverted.
        wanted: All pairs.
        made: The finished splits.
        opened: The model that made them, or is said to have.
        batch: Pairs in one network call.
        invert: The share of inverted pairs.
    """
    inverted = InvertedPairs(made, invert)
    parts = (
        PairStatistics.from_json(part)
        for split in (TRAIN, HELD_OUT)
        for part in counted(wanted.store.below(split), wanted.recipes[split])
    )
    checks = check_pairs(
        opened.model.conditions.given(inverted.others_held_out()),
        opened.flow,
        grid=grid_of(opened),
        batch=batch,
        statistics=reduce(add, parts),
        independent=learnt_independent(job.manifests.get("model")),
        device=device(),
    )
    problems, advice = checks.problems(), checks.advice()
    job.facts.update(checks=asdict(checks), problems=problems, advice=advice)
    if inverted.count:
        alone = check_inverted(
            opened.model.conditions.given(inverted.some()),
            opened.flow,
            grid=grid_of(opened),
            batch=batch,
            statistics=inverted.statistics(opened.model.noise),
            device=device(),
        )
        job.facts["inverted_checks"] = asdict(alone)
        problems += alone.problems()
        advice += alone.advice()
    for problem in problems:
        job.progress.note(f"warning: {problem}")
    for told in advice:
        job.progress.note(told)


def learnt_independent(made: dict[str, Any] | None) -> bool:
    """Return whether the model with this manifest learnt from noise drawn independently of the data."""
    if made is None or made["stage"] != "pretrain":
        return False
    method = made["config"]["method"]
    return method is not None and method_of(method).independent_noise


def check_mirrored(job: Job, opened: Opened) -> None:
    """Refuse to mirror the pairs of a model that can tell left from right.

    Raises:
        UserError: with how far the mirror images are off, or if it is given images.
    """
    model = opened.model
    setting = f"couple.{job.key}.mirror"
    if images(model.config.conditions):
        raise UserError(
            f"{setting} can't mirror pairs of a model that is given images; set {setting} to false"
        )
    ((noise, conditions),) = draws_of(
        model, "mirror", job.seed, range(MIRRORED_NOISES), batch=MIRRORED_NOISES, device=device()
    )
    error = require_equivariant(opened.flow, noise, grid_of(opened), setting=setting, **conditions)
    job.facts["mirror_error"] = error


def grid_of(opened: Opened) -> Grid:
    """Return the grid that pairs were made with, or a fine one if each batch had its own."""
    if isinstance(opened.steps, Grid):
        return opened.steps
    return uniform(FINE_STEPS, start=opened.flow.t_start, end=opened.flow.t_end, solver="heun")

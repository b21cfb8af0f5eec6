"""Refiners: small networks that tell how a flow's velocity changes from one step to the next.

Few steps of a flow then need few calls of its network; FlowTurbo, Zhao et al. 2024 (arXiv 2409.18128). A
refiner is a model that is given the last velocity as a condition and predicts what is to be added to it; it
says nothing without the flow that it was trained beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fewstep import solvers
from fewstep.conditions import LAST_VELOCITY
from fewstep.errors import UserError
from fewstep.finite import refuse_not_finite
from fewstep.flow import Flow, as_state, batch_times
from fewstep.grids import Grid, uniform
from fewstep.lazy import lazy_imports
from fewstep.solvers import CountedFlow, Solution, must_fit

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    from fewstep import model as models
    from fewstep.metrics import straightness


@dataclass(frozen=True, order=True)
class Blocks:
    """How many steps of each kind are taken, in this order.

    Raises:
        UserError: if a number is below 0, or there is no step of the flow, heun or pseudo.
    """

    heun: int
    """Heun's steps: two calls of the flow each."""
    pseudo: int
    """Steps of heun_pc: one call each, and one more if the first of all steps is one."""
    refined: int
    """Heun's steps with velocities of the refiner: two of its calls each."""

    def __post_init__(self) -> None:
        if min(self.heun, self.pseudo, self.refined) < 0 or not self.heun + self.pseudo:
            raise UserError(f"blocks {self}: the first or second number must be 1 or more, and none below 0")

    def __str__(self) -> str:
        """Return the numbers as `fewstep sample --blocks` takes them."""
        return f"{self.heun} {self.pseudo} {self.refined}"

    @property
    def steps(self) -> int:
        """All steps together."""
        return self.heun + self.pseudo + self.refined

    @property
    def calls(self) -> int:
        """Velocities of the flow."""
        return 2 * self.heun + self.pseudo + (not self.heun)

    @property
    def refinements(self) -> int:
        """Calls of the refiner."""
        return 2 * self.refined

    def cost(self, ratio: float) -> float:
        """Return the cost in velocities of the flow, of which a call of the refiner costs `ratio`."""
        return self.calls + ratio * self.refinements


@dataclass(frozen=True)
class Refined(Solution):
    """Where the steps arrived, the network calls of the flow, and those of the refiner."""

    refinements: int


def refiner_for(
    teacher: Model, architecture: Mapping[str, Any], *, seed: int, digest: str | None = None
) -> Model:
    """Return an untrained refiner of a model's flow, in canonical time whatever the model's path is.

    It starts with an output of 0, the guess that velocities do not change.

    Args:
        teacher: The model.
        architecture: Of the refiner: the name of a file of fewstep.models, and its options.
        seed: Of its weights.
        digest: Of the model's directory, if it has one; the refiner then fits no other.

    Raises:
        UserError: if the architecture can't be given a velocity, or the model is a student or has conditions
            beside the label.
    """
    config = teacher.config
    if config.conditions:
        raise UserError(
            "a refiner is given the last velocity and a label, but this model has the conditions "
            f"{', '.join(config.conditions)}"
        )
    if config.trained_times != "all" or config.velocity_until != "now":
        raise UserError("a refiner learns from velocities at all times; give it the teacher of this student")
    described = replace(
        config,
        architecture=dict(architecture),
        conditions={LAST_VELOCITY: config.shape},
        prediction="velocity",
        path="linear",
        time="t",
        time_scale=1.0,
        grid=None,
        refined_model=digest,
    )
    return models.build(described, seed=seed)


def change(refiner: Model, x: Tensor, t: Tensor | float, last: Tensor, /, **conditions: Tensor) -> Tensor:
    """Return what the velocity at x and t, a number or (batch,), has changed by since `last`.

    Raises:
        UserError: if the model is no refiner.
    """
    must_be_refiner(refiner)
    own = next((weight.dtype for weight in refiner.parameters()), x.dtype)
    given = {**conditions, LAST_VELOCITY: last}
    given |= {name: given[name].to(own) for name in refiner.config.conditions if name in given}
    return refiner(x.to(own), batch_times(t, x), **given).to(x.dtype)


def must_be_refiner(model: Model) -> None:
    """Refuse a model that is no refiner.

    Raises:
        UserError: if it is none.
    """
    if not model.config.refines:
        raise UserError("this model is no refiner; train one by the method refiner")


def must_refine(refiner: Model, teacher: Model, digest: str | None = None) -> None:
    """Refuse a refiner that can't stand beside a model.

    Args:
        refiner: The refiner.
        teacher: The model.
        digest: Of the model's directory, if it has one.

    Raises:
        UserError: if the first is no refiner, they make different samples, or it is known that another model
            was its teacher.
    """
    must_be_refiner(refiner)
    if other := models.difference(refiner.config, teacher.config, ("shape", "classes", "noise")):
        raise UserError(
            f"refiner and teacher must make the same kind of samples, but {other}; take the model that the "
            "refiner was trained beside"
        )
    known = refiner.config.refined_model
    if None not in (known, digest) and known != digest:
        raise UserError(
            f"the refiner was trained beside the model {known}, but this one is {digest}; take that model, "
            "or train a refiner beside this one"
        )


def follow(
    flow: Flow,
    refiner: Model,
    noise: Tensor,
    blocks: Blocks,
    *,
    times: Sequence[float] = (),
    **conditions: Tensor,
) -> Refined:
    """Return the samples that blocks of steps make of noise, (batch, *shape).

    Args:
        flow: What the refiner was trained beside, under the same guidance.
        refiner: Takes the last steps.
        noise: (batch, *shape).
        blocks: How many steps of each kind.
        times: Of the steps, from the flow's t_start to 1; equal steps if none are given.
        **conditions: What both are conditioned on, each (batch, ...).

    Raises:
        UserError: if the times are not as many as the steps or don't fit the flow, or it is no refiner.
        NotFiniteError: if a state is not finite.
    """
    grid = grid_of(flow, blocks, times)
    counted, stepper = CountedFlow(flow, conditions), solvers.get("heun_pc")
    slope: Any = None
    x, calls = as_state(noise) * (1 - grid.times[0]), 0
    for number, (t, t_next) in enumerate(pairwise(grid.times)):
        if number < blocks.heun + blocks.pseudo:
            known = None if number < blocks.heun else slope  # without one it is a step of Heun
            if t_next > flow.t_end:
                x = x + (t_next - t) * (counted(x, t) if known is None else known)
            else:
                x, slope = stepper.step(counted, x, t, t_next, known)
        else:
            slope, calls = slope + change(refiner, x, t, slope, **conditions), calls + 1
            end = x + (t_next - t) * slope
            if t_next <= flow.t_end:
                last, slope = slope, slope + change(refiner, end, t_next, slope, **conditions)
                end, calls = x + (t_next - t) / 2 * (last + slope), calls + 1
            x = end
        refuse_not_finite("state", x, t_next, f" after step {number + 1} of {grid.steps}")
    return Refined(x, counted.nfe, calls)


def grid_of(flow: Flow, blocks: Blocks, times: Sequence[float] = ()) -> Grid:
    """Return the grid of blocks of steps, equal ones if no times are given.

    Raises:
        UserError: if the times are not as many as the steps, or don't fit the flow.
    """
    grid = Grid(tuple(times)) if times else uniform(blocks.steps, start=flow.t_start, end=flow.t_end)
    if grid.steps != blocks.steps:
        raise UserError(
            f"blocks {blocks} are {blocks.steps} steps, but the times are of {grid.steps}; give "
            f"{blocks.steps + 1} times"
        )
    must_fit(flow, replace(grid, solver="heun_pc"))
    return grid


def affordable(budget: float, ratio: float, *, most_refined: int = 8) -> list[Blocks]:
    """Return the blocks of at most that cost to which no pseudo step could be added.

    Args:
        budget: In velocities of the flow.
        ratio: What a call of the refiner costs of one of these.
        most_refined: Refined steps in a row, which nothing corrects, so that errors add up.

    Raises:
        UserError: if the budget is below a step's two velocities, or the ratio is not above 0.
    """
    if not budget >= 2 or not ratio > 0:
        raise UserError(f"a budget must be 2 or more and a ratio above 0, got {budget} and {ratio}")
    found = []
    for heun in range(int(budget // 2) + 1):
        for pseudo in range(int(budget) + 1):
            if heun + pseudo == 0 or (left := budget - Blocks(heun, pseudo, 0).calls) < 0:
                continue
            most = min(most_refined, int(left / (2 * ratio) + 1e-9))
            found += [Blocks(heun, pseudo, refined) for refined in range(most + 1)]
    within = set(found)
    return sorted(b for b in found if replace(b, pseudo=b.pseudo + 1) not in within)


def choose(
    flow: Flow,
    refiner: Model,
    noise: Tensor,
    truth: Tensor,
    *,
    budget: float,
    ratio: float,
    most_refined: int = 8,
    **conditions: Tensor,
) -> tuple[Blocks, float]:
    """Return the affordable blocks of equal steps that end nearest to the truth, and their distance.

    Args:
        flow: What the refiner was trained beside.
        refiner: The refiner.
        noise: (n, *shape), some hundreds.
        truth: Where a fine run of the flow takes it, (n, *shape).
        budget: See affordable, as for the others.
        ratio: As above.
        most_refined: As above.
        **conditions: What both are conditioned on, each (n, ...).

    Raises:
        UserError: see affordable and follow.
    """
    scores = {}
    for blocks in affordable(budget, ratio, most_refined=most_refined):
        made = follow(flow, refiner, noise, blocks, times=(), **conditions)
        scores[blocks] = straightness.endpoint_rmse(made.x, truth)
    best = min(scores, key=lambda blocks: scores[blocks])
    return best, scores[best]

"""Open a trained model, as it is or as a flow, and lay out the steps of a solver on it."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from weakref import WeakSet

import torch

from fewstep import grids, rows, solvers
from fewstep.checkpoint import load_model
from fewstep.draws import draws_of
from fewstep.errors import UserError
from fewstep.fitting import Fitting
from fewstep.flow import Flow, ModelFlow, as_flow
from fewstep.grids import Grid
from fewstep.half import Half
from fewstep.metrics.straightness import Turns, turns
from fewstep.model import Model
from fewstep.training.engine import Engine
from stages.process.device import device
from stages.settings.fields import Precision

SAMPLERS: WeakSet[Fitting] = WeakSet()  # the networks that this process samples


def open_model(folder: Path, *, merge: bool = True) -> Model:
    """Return the model of a model directory, on the device, ready to be called.

    Args:
        folder: The model directory.
        merge: Whether an adapter is added to the weights of its base; see fewstep.checkpoint.load_model.
    """
    return load_model(folder, merge=merge).to(device()).eval()


def open_sampler(folder: Path, precision: Precision) -> Model:
    """Return a model that is only sampled; the environment says whether it is compiled, as for trainings.

    Its network is a `Fitting`.

    Args:
        folder: The model directory.
        precision: The type in which its network computes.
    """
    model = open_model(folder)
    asked = replace(Engine.from_environment(), recompute=False, sharded=False)
    usable(asked, device()).prepare(model.network)
    if precision == "bfloat16":
        model.network = Half(model.network)
    model.network = Fitting(model.network, partial(print, flush=True))
    SAMPLERS.add(model.network)
    return model


def fewest_rows() -> int | None:
    """Return how many samples fit in a call of this process, if memory did not suffice for more."""
    return min((network.rows for network in SAMPLERS if network.rows), default=None)


@cache  # a compiler that is missing is looked for, and told of, once a process
def usable(asked: Engine, where: str) -> Engine:
    """Return what can be done of it on a device."""
    return asked.usable(torch.device(where), print)


def open_flow(
    folder: Path,
    *,
    purpose: str,
    guidance: float = 1.0,
    merge: bool = True,
    precision: Precision | None = None,
) -> tuple[Model, ModelFlow]:
    """Return a model and its canonical flow, opened by `open_sampler` with a precision, else by `open_model`.

    Raises:
        UserError: if the model knows only the timesteps of its own grid, gives average velocities, or is not
            deterministic, so that `purpose` can't use it.
    """
    model = open_model(folder, merge=merge) if precision is None else open_sampler(folder, precision)
    why = None if model.config.deterministic else "not deterministic"
    if model.config.trained_times == "grid":
        why = "trained only at the timesteps of its grid"
    elif model.config.velocity_until != "now":
        why = "a flow map, which gives average velocities"
    if why is not None:
        raise UserError(f"{purpose} can't use {folder.name}: it is {why}; name a model trained at all times")
    return model, as_flow(model, guidance=guidance)


def grid_of_nfe(flow: Flow, solver: str, nfe: int, *, spacing: str = "uniform") -> Grid:
    """Return the steps of `solver` that take `nfe` NFE, spaced as fewstep.spacings says.

    Raises:
        UserError: if they don't make whole steps.
    """
    velocities, rest = divmod(nfe, flow.nfe_per_velocity)
    steps = None if rest else solvers.steps_of(solver, velocities)
    if steps is None:
        each = solvers.get(solver).velocities_per_step * flow.nfe_per_velocity
        more = solvers.first_velocities(solver) * flow.nfe_per_velocity
        first = f", and {more} more for the first" if more else ""
        raise UserError(f"{nfe} NFE are no whole number of {solver} steps of {each} NFE each{first}")
    return grids.spaced(spacing, steps, start=flow.t_start, end=flow.t_end, solver=solver)


def straightness_of(flow: Flow, model: Model, *, noises: int, seed: int, steps: int = 64) -> Turns:
    """Return S and F of a model's flow, means over dimensions, on noise that nothing else uses.

    As many noises at a time as memory shall hold: one batch, unless samples are large.
    """
    size = len(rows.pieces(torch.arange(noises), model.config.shape)[0])
    grid = grids.uniform(steps, start=flow.t_start, end=flow.t_end)
    draws = draws_of(model, "straightness", seed, range(noises), batch=size, device=device())
    found = [(len(noise) / noises, turns(flow, noise, grid, **conditions)) for noise, conditions in draws]
    return Turns(
        sum(share * part.straightness for share, part in found),
        sum(share * part.first_order for share, part in found),
    )

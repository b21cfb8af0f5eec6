"""Models as a command opens them: on a device, with what they are sampled of, and a refiner beside them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

from fewstep import checkpoint, draws, flow, refining, registry, samplers
from fewstep.errors import UserError, first_line
from fewstep.grids import Grid
from fewstep.model import Model
from fewstep.solvers import Solution


def load(folder: Path, device: str) -> Model:
    """Return the model of a folder, on a device.

    Raises:
        UserError: The folder holds no model, or there is no such device.
    """
    return placed(checkpoint.load_model(folder), device)


def placed(model: Model, device: str) -> Model:
    """Return a model on a device.

    Raises:
        UserError: There is no such device.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device} cannot be used here: {first_line(error)}") from error


def drawn(model: Model, count: int, seed: int, device: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Return noise (count, *shape) and what a model is conditioned on, (count,) each.

    Raises:
        UserError: There can be no such seed.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed must be a whole number from 0 to 2**32 - 1, got {seed}")
    return next(draws.draws_of(model, "command line", seed, range(count), batch=count, device=device))


def by_sampler(name: str, velocity: flow.Flow, grid: Grid) -> Callable[..., Solution]:
    """Return what samples a flow by a sampler with its defaults, given `noise`, `keys` and conditions.

    Raises:
        UserError: There is no such sampler.
    """
    return partial(
        samplers.sample, velocity, times=grid.times, sampler=registry.find("fewstep.samplers", name)()
    )


def beside(
    model: Model,
    digest: str,
    refiner: Path | None,
    numbers: tuple[int, int, int] | None,
    others: list[str],
    device: str,
) -> Callable[..., refining.Refined]:
    """Return what samples a model with a refiner beside it, in as many steps of each kind as `numbers` say.

    Raises:
        UserError: One of the two options is missing, `others` were given that choose steps as well, or the
            refiner does not fit the model.
    """
    if refiner is None or numbers is None:
        raise UserError(
            "--refiner and --blocks go together: the refiner's folder, and how many steps of each kind"
        )
    if others:
        raise UserError(f"--blocks says which steps are taken with a refiner; leave --{others[0]} out")
    loaded = load(refiner, device)
    refining.must_refine(loaded, model, digest)
    velocity = flow.as_flow(model, guidance=loaded.config.baked_guidance)
    return partial(refining.follow, velocity, loaded, blocks=refining.Blocks(*numbers))

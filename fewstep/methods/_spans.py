"""Helpers of the methods that train average velocities: their networks, and the steps they learn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.flow import ModelFlow
from fewstep.lazy import lazy_imports
from fewstep.paths import like

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model
    from fewstep.noises import Law
    from fewstep.training.method import Batch

with lazy_imports():
    import torch

    from fewstep import model as models


SOFT = 0.1  # "c" of the tangent's normalisation; Lu and Song 2024 (arXiv 2410.11081)


def must_take_until(student: Model) -> None:
    """Refuse a student whose network does not take the end of a step.

    Raises:
        UserError: if its network has no second time.
    """
    if student.config.velocity_until != "any":
        raise UserError(
            "this method trains a network with a second time, the end of a step; "
            "fewstep.timing.with_second_time gives the student one"
        )


def must_jump(student: Model) -> None:
    """Refuse a student whose velocity can't be the average until data.

    Raises:
        UserError: if its grid has more than one step.
    """
    grid = student.config.grid
    if grid is None or grid.steps != 1 or grid.solver != "euler":
        raise UserError("this method trains a student that jumps to data; give it a grid of one Euler step")


def must_be_slow(student: Model) -> None:
    """Refuse a student whose derivatives by the time would say little of the flow.

    Raises:
        UserError: if its network is not one with slow times.
    """
    if not student.config.architecture.get("slow_times"):
        raise UserError(
            "this method differentiates the network by its times; fewstep.timing.with_slow_times gives the "
            "student slow ones"
        )


def must_make_the_same(student: Model, teacher: Model) -> None:
    """Refuse a teacher that makes other samples than the student, or from other noise.

    Raises:
        UserError: naming what each makes.
    """
    alike = ("shape", "classes", "conditions", "noise")
    if other := models.difference(student.config, teacher.config, alike):
        raise UserError(
            f"student and teacher must make the same kind of samples, but {other}; take a teacher that "
            "agrees with the student"
        )


def must_teach(student: Model, teacher: Model) -> None:
    """Refuse a teacher that gives no velocity, or makes other samples than the student.

    Raises:
        UserError: naming what is wrong.
    """
    must_make_the_same(student, teacher)
    if teacher.config.trained_times != "all" or teacher.config.velocity_until != "now":
        raise UserError(
            "the teacher gives no velocity at all times; use the model that it was distilled from"
        )


def check_share(name: str, share: float) -> None:
    """Check that an option is a share.

    Raises:
        UserError: if it is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"{name} is a share from 0 to 1, got {share}")


def draw_spans(
    flow: ModelFlow,
    keys: Tensor,
    *,
    to_data: float,
    from_noise: float,
    at_once: float,
    law: Callable[[Tensor], Tensor] = lambda u: u,
) -> tuple[Tensor, Tensor]:
    """Return where steps start and end, canonical times (n,), the start where the flow gives a velocity.

    Two times of a law of uniform numbers, in order, but for the shares of rows with until = 1, t at the
    start, and until = t.
    """
    one, other, data, noise, once = (
        randomness.uniforms(f"train.span.{name}", keys) for name in ("one", "other", "data", "noise", "once")
    )
    one, other = law(one), law(other)
    t, until = torch.minimum(one, other), torch.maximum(one, other)
    until = torch.where(data < to_data, 1.0, until)
    t = torch.where(noise < from_noise, 0.0, t)
    until = torch.where(once < at_once, t, until)
    begin = flow.t_start
    t, until = (begin + (1 - begin) * time for time in (t, until))
    t = t.clamp(max=flow.t_end)
    return t, torch.maximum(t, until)


def average_velocity(flow: ModelFlow, conditions: Batch) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return u(x, t, until) of a flow map under fixed conditions."""
    return lambda x, t, until: flow(x, t, until=until, **conditions)


def fresh_noise(law: Law, data: Tensor, keys: Tensor) -> Tensor:
    """Return noise of this law for each sample of data (n, *shape)."""
    return law.draw("train.noise", keys, tuple(data.shape[1:])).to(data)


def on_chord(noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """Return the points (n, *shape) of the straight lines from noise to data at t, (n,)."""
    return like(1 - t, data) * noise + like(t, data) * data


def warmed(progress: float, share: float) -> float:
    """Return a factor that rises from 0 to 1 over the first share of a training."""
    return min(1.0, progress / share) if share else 1.0


def normalised(tangent: Tensor) -> Tensor:
    """Return tangents (n, *shape) over their size, by root mean square, and a little more."""
    size = tangent.flatten(1).square().mean(dim=1).sqrt()
    return tangent / like(size + SOFT, tangent)

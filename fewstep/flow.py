"""as_flow: any model as the canonical flow, on which grids, solvers and search act.

The canonical flow moves y = (1 - t) noise + t data with velocity dy/dt = data - noise, whatever
path the model was trained on: y = x / (a + b) and t = a / (a + b), so its velocity is the model's
estimate of data minus its estimate of noise. Euler on it is DDIM.

The ends of the path are handled here and nowhere else. `usable_times` gives the times between
which the model's output can be turned into a velocity; `fewstep.solvers.integrate` starts at the
first and never asks for a velocity after the last: a step that ends later is an Euler step, and a grid
whose last step starts later is refused.

The velocity of a flow map is the average over a step, from its time until another; `velocity_until` tells.

States and times are in float32, or in float64 where the noise is, whatever a network computes in: the sum of
many steps would lose in bfloat16 what each of them adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from fewstep import noises, paths, predictions
from fewstep.conditions import LABEL
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.registry import unknown

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.grids import Grid
    from fewstep.model import Model, ModelConfig, Until

with lazy_imports():
    import torch


END_MARGIN = 1e-3  # how far from an end, in canonical time, where the conversion is singular there


class Flow(Protocol):
    """A velocity field on the canonical path."""

    t_start: float
    """First usable time; a grid starts here."""
    t_end: float
    """Last time at which the velocity may be asked for; 1 if the conversion holds at the data end."""
    nfe_per_velocity: int
    """Network calls that one velocity costs: 2 under guidance."""

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """Return the velocity, (batch, *shape), at x and canonical time t, a number or (batch,)."""


class FieldFlow:
    """A closed-form velocity(x, t) as a Flow; t reaches it as a tensor of shape (batch,).

    It is given x and t in float32 or float64, and may answer in any precision.
    """

    nfe_per_velocity = 1

    def __init__(self, velocity: Callable[..., Tensor], *, t_start: float = 0.0, t_end: float = 1.0) -> None:
        self.velocity = velocity
        self.t_start = t_start
        self.t_end = t_end

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """See Flow."""
        velocity = self.velocity(x, batch_times(t, x), **conditions)
        return velocity.to(x.dtype) if isinstance(velocity, torch.Tensor) else velocity


class WrappedFlow:
    """A flow around another one: whatever it does not say itself, that one says."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def __getattr__(self, name: str) -> Any:
        """Return what the other flow says; a copy that is not made yet, and so has none, says nothing."""
        if name == "flow" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.flow, name)


class ModelFlow:
    """A model as a Flow, under classifier-free guidance if asked for.

    Ho and Salimans 2022 (arXiv 2207.12598).
    """

    def __init__(self, model: Model, *, guidance: float | Tensor = 1.0) -> None:
        self.model = model
        self.guidance = guidance
        self.path = paths.get(model.config.path)
        self.t_start, self.t_end = usable_times(model.config.path, model.config.prediction)
        if not isinstance(guidance, torch.Tensor):
            model.config.guidance_shown(guidance)  # refuses what it can't show
        self.nfe_per_velocity = model.config.calls_per_velocity(guidance)
        self.velocity_until = model.config.velocity_until
        self.only_grid = only_grid_of(model.config)
        self.equal_steps = model.config.equal_steps
        self.noise = model.noise
        self.learned_from = model.config.learned_from
        self.clamped_from = clamped_from(model.config)

    def __call__(
        self, x: Tensor, t: Tensor | float, *, until: Tensor | float | None = None, **conditions: Tensor
    ) -> Tensor:
        """See Flow; guided velocity = negative + guidance (conditional - negative).

        The negative is the null condition, if the model's table of conditions has no other. A network with a
        guidance_input gives the guided velocity itself.

        With `until`, a number or (batch,), the average velocity from t until then, of a flow map.

        Raises:
            UserError: if there is an `until`, but the network has no second time; if a condition is none of
                the model's, has another shape, or is missing. A model that learnt what to do without a label
                needs none.
        """
        self._check_conditions(conditions)
        times = batch_times(t, x)
        if until is not None:
            if self.velocity_until != "any":
                raise UserError(
                    "`until` was given to a model whose network has no second time; leave it out, or train a "
                    "flow map"
                )
            conditions["until"] = batch_times(until, x)
        velocity = self._velocity(x, times, **conditions)
        if self.nfe_per_velocity == 2:
            named = {name: conditions[name] for name in self.model.config.condition_names}
            unconditional = self._velocity(x, times, **{**conditions, **self.model.negative(named)})
            guided = unconditional + self._scale(x) * (velocity - unconditional)
            if (channels := self.model.config.guidance_channels) is not None:
                guided = torch.cat([guided[:, :channels], velocity[:, channels:]], dim=1)
            velocity = guided
        if self.velocity_until == "any":
            last = conditions["until"] == 1 if self.model.config.in_range and until is not None else None
        else:
            last = None if self.clamped_from is None else times > self.clamped_from
        return velocity if last is None else ends_in_range(velocity, x, times, last)

    def _check_conditions(self, conditions: Mapping[str, Tensor]) -> None:
        config = self.model.config
        guided = isinstance(self.guidance, torch.Tensor) or self.guidance != 1.0
        for name in conditions.keys() - set(config.condition_names):
            raise UserError(
                f"this model: {unknown('condition', name, list(config.condition_names) or ['none'])}"
            )
        if config.classes and LABEL not in conditions and (guided or not config.guidable):
            why = f"guidance {self.guidance} leads towards one" if guided else "it never saw a hidden one"
            raise UserError(
                f"this model has {config.classes} classes and needs a label for each sample, as {why}; give "
                f"it `{LABEL}`, int64 (batch,)"
            )

    def _scale(self, x: Tensor) -> Tensor | float:
        return paths.like(self.guidance, x) if isinstance(self.guidance, torch.Tensor) else self.guidance

    def _velocity(self, y: Tensor, canonical: Tensor, /, **conditions: Tensor) -> Tensor:
        if self.model.config.path == "linear" and self.model.config.prediction == "velocity":
            return self._output(y, canonical, **conditions)
        if "until" in conditions:
            conditions["until"] = self.path.time_of(conditions["until"])
        x, t, c = own_point(self.path, y, canonical)
        output = self._output(x, t, **conditions)
        data, noise = predictions.solve(self.model.config.prediction, x, output, c)
        return data - noise

    def _output(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """Ask the network in the type of its weights; it gets the time in float32 at least."""
        own = next((weight.dtype for weight in self.model.parameters()), x.dtype)
        others = {
            name: conditions[name].to(own) for name in self.model.config.conditions if name in conditions
        }
        asked = {"guidance": self.guidance} if self.model.config.guidance_input else {}
        return self.model(x.to(own), t, **asked, **{**conditions, **others}).to(x.dtype)


def as_flow(model: Model, *, guidance: float | Tensor = 1.0) -> ModelFlow:
    """Return the canonical flow of `model`, with classifier-free `guidance` (1: none).

    That is a number, or the scale of each sample, (batch,), which is not compared with what the model shows.

    Raises:
        UserError: see ModelConfig.guidance_shown; or if the model is a refiner, which is none without its
            teacher.
    """
    if model.config.refines:
        raise UserError(
            "this model is a refiner, which predicts changes of its teacher's velocity, and is no flow "
            "without it; sample its teacher, or both by fewstep.refining"
        )
    return ModelFlow(model, guidance=guidance)


def own_point(path: paths.Path, y: Tensor, canonical: Tensor) -> tuple[Tensor, Tensor, paths.Coefficients]:
    """Return where a model of `path` sees the canonical state y (batch, *shape) at canonical times (batch,).

    That is the state and the time on its own path, and the path's coefficients there.
    """
    t = path.time_of(canonical)
    c = path.coefficients(t)
    return paths.like(c.a + c.b, y) * y, t, c


def usable_times(path: str | Mapping[str, Any], prediction: str) -> tuple[float, float]:
    """Return (t_start, t_end), canonical: the range in which `prediction` gives a velocity on `path`.

    An end of the path's own range is kept where the 2x2 system of fewstep.predictions has a finite,
    non-zero determinant there, and moved inwards to END_MARGIN where it has not.

    Raises:
        UserError: if there is no such path or prediction.
    """
    return usable_times_on(paths.get(path), prediction)


@cache
def usable_times_on(law: paths.Path, prediction: str) -> tuple[float, float]:
    """Return what `usable_times` does, for a path itself; asked in every step, found once."""
    ends = law.canonical_time(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    det = predictions.determinant(prediction, law.coefficients(torch.tensor([0.0, 1.0], dtype=torch.float64)))
    solvable = ((det.abs() > 1e-9) & (det.abs() < 1e9)).tolist()
    start = ends[0] if solvable[0] else max(ends[0], END_MARGIN)
    end = ends[1] if solvable[1] else min(ends[1], 1 - END_MARGIN)
    return start, end


def last_until(path: str | Mapping[str, Any]) -> float:
    """Return the canonical time after which a network on this path takes all ends of steps for the same one.

    It is 1, or where a path ends before data a little less than its end, at which derivatives are cut off.

    Raises:
        UserError: if there is no such path.
    """
    end = float(paths.get(path).canonical_time(torch.ones((), dtype=torch.float64)))
    return end if end == 1 else end - END_MARGIN


def clamped_from(config: ModelConfig) -> float | None:
    """Return the canonical time from which a step of this model is its last, and clamped; None if none is.

    Jitter moves a timestep by less than half of the way to its neighbours. Of a flow map, see ModelFlow.
    """
    if not config.in_range or config.grid is None:
        return None
    times = config.grid.times
    return -1.0 if len(times) == 2 else (times[-3] + times[-2]) / 2


def only_grid_of(config: ModelConfig) -> tuple[Grid, float] | None:
    """Return a model's grid, and the jitter of its timesteps, if it was trained at no other times."""
    if config.trained_times != "grid":
        return None
    assert config.grid is not None, "ModelConfig refuses it"
    return config.grid, config.jitter


def velocity_until(flow: Flow) -> Until:
    """Return what a flow's velocity is the average to; a flow that does not say is one at one time."""
    return getattr(flow, "velocity_until", "now")


def only_grid(flow: Flow) -> tuple[Grid, float] | None:
    """Return the same of a flow; one that does not say knows all times."""
    return getattr(flow, "only_grid", None)


def equal_steps(flow: Flow) -> int | None:
    """Return ModelConfig.equal_steps of a flow's model; a flow that does not say takes any steps."""
    return getattr(flow, "equal_steps", None)


def must_know_all_times(flow: Flow, *, by: str) -> None:
    """Refuse a flow that has no velocity of its own at each time.

    Args:
        flow: The flow.
        by: What needs one, for the message.

    Raises:
        UserError: if it gives averages over steps, or is of a student of its own grid alone.
    """
    why = None
    if velocity_until(flow) != "now":
        why = "gives average velocities over steps"
    elif only_grid(flow) is not None:
        why = "was trained for the steps of its own grid alone"
    if why:
        raise UserError(f"this model {why}, and {by} needs a velocity at each time; take its teacher")


def at_one_time(flow: Flow) -> FieldFlow:
    """Return the velocity that a flow map has at one time, as a flow: what its short steps follow."""
    velocity = FieldFlow(flow, t_start=flow.t_start, t_end=flow.t_end)
    velocity.nfe_per_velocity = flow.nfe_per_velocity
    return velocity


def noise_of(flow: Flow) -> noises.Law:
    """Return the law of the noise that a flow starts from; one of a flow that does not say is normal."""
    return getattr(flow, "noise", noises.GAUSSIAN)


def over_step(flow: Flow, x: Tensor, t: Tensor | float, until: Tensor | float, **conditions: Any) -> Tensor:
    """Return the velocity (batch, *shape) that an Euler step from x at t until `until` takes.

    It is that at t, or of a flow map the average over the step; times are numbers or (batch,).
    """
    if velocity_until(flow) == "any":
        conditions["until"] = until
    return flow(x, t, **conditions)


def ends_in_range(velocity: Tensor, x: Tensor, t: Tensor, last: Tensor) -> Tensor:
    """Return velocities (batch, *shape) whose Euler step from x at t (batch,) to 1 ends in [-1, 1].

    For t up to 1 - END_MARGIN; later the step is taken to be that long.

    Those of steps that are not the `last`, bool (batch,), are left alone. Where a value is clamped, only a
    gradient that would bring it back passes: one that pushes further out would change no sample.
    """
    left = paths.like((1 - t).clamp(min=END_MARGIN), x)
    end = x + left * velocity
    if end.requires_grad:
        held = end.detach()  # a hook that holds the tensor it hangs on is a cycle that is never freed
        end.register_hook(lambda gradient: torch.where((held.abs() > 1) & (held * gradient < 0), 0, gradient))
    clamped = end + (end.clamp(-1, 1) - end).detach()
    return torch.where(paths.like(last, x), (clamped - x) / left, velocity)


def as_state(x: Tensor) -> Tensor:
    """Return x in float32, or as it is in float64: the types that steps are added up in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def batch_times(t: Tensor | float, x: Tensor) -> Tensor:
    """Return t as a tensor of shape (batch,) with x's type and device."""
    times = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    return times.expand(x.shape[0]) if times.dim() == 0 else times

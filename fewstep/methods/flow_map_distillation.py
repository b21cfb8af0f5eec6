"""Flow map distillation: teach a flow map by the velocity of its teacher, without trajectories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewstep import derivatives, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow, last_until
from fewstep.lazy import lazy_imports
from fewstep.methods import _scales, _spans
from fewstep.paths import like
from fewstep.registry import unknown
from fewstep.training.distances import l2
from fewstep.training.method import Batch, Method, Needs, Net, Nets, conditions_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.flow import ModelFlow
    from fewstep.model import Model

with lazy_imports():
    import torch

IDENTITIES = ("eulerian", "lagrangian", "semigroup")


@dataclass(frozen=True, kw_only=True)
class FlowMapDistillation(Method):
    """Regress what an identity of exact flow maps says of the student itself and the teacher's velocity v.

    With u the average velocity of the step from x at t until r, X its end, and m a time between:

        eulerian     u = v(x, t) + (r - t) (v . grad_x + d/dt) u
        lagrangian   u = v(X, r) - (r - t) du/dr
        semigroup    (r - t) u = (m - t) u(x, t, m) + (r - m) u(X(x, t, m), m, r),   and u = v where r = t

    Source: Boffi et al. 2024 and 2025 (arXiv 2406.07507, 2505.18825), Sabour et al. 2025 (arXiv 2506.14603).
    The right side is a target, without gradients. States are data with fresh noise.
    """

    identity: str = "lagrangian"
    """eulerian, lagrangian or semigroup."""
    to_data: float = 0.5
    """Share, of the rows whose step has a length, of those whose step ends at the data."""
    from_noise: float = 0.125
    """Share, of the rows whose step has a length, of those whose step starts at the noise."""
    at_once: float = 0.25
    """Share of the rows whose step has no length: there the target is the teacher's velocity."""
    guidance: _scales.Guidance = 1.0
    """Classifier-free guidance of the teacher's velocity; the student then needs none. A range, such as
    [1, 4]: each sample has a scale of its own, uniform in the range, which the student takes as an input, as
    in Sabour et al. 2025."""
    warmup: float = 0.0
    """For eulerian: share of the training in which the factor of the derivative rises from 0, where the
    target is v for every r, to 1, as in Sabour et al. 2025."""
    normalise: bool = False
    """Whether the target is u + g / (|g| + 0.1) with g = target - u, as in Sabour et al. 2025: samples then
    count about alike. |g| is the root of the mean square over dimensions."""
    exact: bool = False
    """Derivatives by forward-mode differentiation instead of differences; not for all networks."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "guidance", _scales.checked(self.guidance))
        if self.identity not in IDENTITIES:
            raise UserError(unknown("identity", self.identity, list(IDENTITIES)))
        for name in ("to_data", "from_noise", "at_once", "warmup"):
            _spans.check_share(name, getattr(self, name))
        if self.warmup and self.identity != "eulerian":
            raise UserError(
                f"warmup is of the derivative along the flow, and identity {self.identity} has none; set it "
                "to 0, or identity to eulerian"
            )
        if self.identity == "semigroup" and not self.at_once:
            raise UserError(
                "identity semigroup learns the teacher's velocity from the share at_once alone; set it above "
                "0"
            )

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        slow = self.identity == "eulerian"  # the lagrangian derivative is by the second time, which is slow
        return Needs(
            stream="data",
            teacher=True,
            second_time=True,
            slow_times=slow,
            guidance_input=isinstance(self.guidance, tuple),
        )

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        _spans.must_take_until(student)
        if self.needs.slow_times:
            _spans.must_be_slow(student)
        _scales.must_take(student, self.guidance)
        teacher = load("teacher")
        _spans.must_teach(student, teacher)
        _scales.must_show(teacher, self.guidance)
        return super().networks(student, load) | {"teacher": Net(teacher, trains=False)}

    def trained(self) -> dict[str, Any]:
        """See Method.trained."""
        return super().trained() | _scales.taught(self.guidance) | {"in_range": False}

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        student: Model = nets["student"]
        data = batch["data"]
        scale = _scales.uniform(self.guidance, keys, data)
        flow = as_flow(student, guidance=_scales.told(scale))
        teacher = as_flow(nets["teacher"], guidance=scale)
        t, until = _spans.draw_spans(
            flow, keys, to_data=self.to_data, from_noise=self.from_noise, at_once=self.at_once
        )
        t, until = t.to(data), until.to(data)
        x = _spans.on_chord(_spans.fresh_noise(student.noise, data, keys), data, t)
        conditions = conditions_of(student.config, batch)
        warm = _spans.warmed(progress, self.warmup)
        with torch.no_grad():
            target = self.target(flow, teacher, x, t, until, conditions, keys, warm)
        average = flow(x, t, until=until, **conditions)
        if self.normalise:
            target = average.detach() + _spans.normalised(target - average.detach())
        return l2(average - target)

    def target(
        self,
        flow: ModelFlow,
        teacher: ModelFlow,
        x: Tensor,
        t: Tensor,
        until: Tensor,
        conditions: Batch,
        keys: Tensor,
        warm: float = 1.0,
    ) -> Tensor:
        """Return what the average velocity, (n, *shape), of the flow from x at t until `until` should be."""
        u = _spans.average_velocity(flow, conditions)

        def taught(x: Tensor, t: Tensor) -> Tensor:
            return teacher(x, t.clamp(teacher.t_start, teacher.t_end), **conditions)

        span = like(until - t, x)
        if self.identity == "eulerian":
            velocity, within = taught(x, t), (flow.t_start, flow.t_end)
            rest = derivatives.along_flow(u, x, t, until, velocity, within=within, exact=self.exact)
            return torch.where(span > 0, velocity + warm * span * rest, velocity)
        if self.identity == "lagrangian":
            last = last_until(flow.model.config.path)
            average, rest = derivatives.by_end(u, x, t, until, last=last, exact=self.exact)
            return taught(x + span * average, until) - torch.where(span > 0, span * rest, 0.0)
        share = randomness.uniforms("train.span.middle", keys).to(t)
        middle = (t + share * (until - t)).clamp(max=flow.t_end)
        first = u(x, t, middle)
        second = u(x + like(middle - t, x) * first, middle, until)
        part = like((middle - t) / (until - t).clamp(min=1e-12), x)
        return torch.where(span > 0, part * first + (1 - part) * second, taught(x, t))

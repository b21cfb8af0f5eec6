"""Consistency: jump to data in one step, each point taught by one that is a little nearer to the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewstep import derivatives, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.lazy import lazy_imports
from fewstep.methods import _neighbours, _scales, _spans
from fewstep.paths import like
from fewstep.registry import unknown
from fewstep.training.distances import DISTANCES, check_distance, l2
from fewstep.training.method import Batch, Method, Needs, Net, Nets, conditions_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.flow import ModelFlow
    from fewstep.model import Model

with lazy_imports():
    import torch

KINDS = ("discrete", "continuous")


@dataclass(frozen=True, kw_only=True)
class Consistency(Method):
    """Train f(x, t) = x + (1 - t) u(x, t) to be the same along the teacher's trajectories; f(x, 1) = x.

    Discrete: f at t equals f of a moving average at the next of N times, where one Heun step of the teacher
    leads (consistency distillation, Song et al. 2023, arXiv 2303.01469), or without a teacher the chord
    (consistency training); N grows during the training, as in Song and Dhariwal 2023 (arXiv 2310.14189).
    Continuous: N is infinite (Lu and Song 2024, arXiv 2410.11081, on the linear path). With v the velocity,

        g = v - u + warm . (1 - t) (v . grad_x + d/dt) u,     loss = | u - sg( u + g / (|g| + 0.1) ) |^2,

    where |g| is the root of the mean square over dimensions, and |.|^2 a mean over them.
    """

    kind: str = "discrete"
    """discrete or continuous."""
    teacher: bool = True
    """Whether states move as the teacher says; otherwise along chords from fresh noise to data."""
    intervals: tuple[int, int] = (8, 64)
    """For discrete: N at the start and at the end of the training."""
    schedule: str = "uniform"
    """For discrete: uniform, equal intervals of time, whose number grows steadily. ict: log-normal noise
    levels on the grid of Karras et al. 2022, where N doubles again and again, as in Song and Dhariwal 2023.
    ect: the same law without a grid, and about an Nth of a level to the next, as in Geng et al. 2024 (arXiv
    2406.14548). The last two weigh by 1 over the difference of levels."""
    decay: float = 0.95
    """For discrete: decay of the average of the student's weights that gives the target; 0 is the student."""
    distance: str = "l2"
    """For discrete: l2, huber, huber_each or pseudo_huber."""
    warmup: float = 0.2
    """For continuous: share of the training in which `warm` rises from 0 to 1."""
    guidance: _scales.Guidance = 1.0
    """Classifier-free guidance of the teacher's velocity; the student then needs none. A range, such as
    [1, 4]: each sample has a scale of its own, uniform in the range, which the student takes as an input, as
    in Luo et al. 2023 (arXiv 2310.04378)."""
    exact: bool = False
    """For continuous: derivatives by forward-mode differentiation instead of differences."""

    trained_times = "until_1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "intervals", tuple(self.intervals))
        if self.kind not in KINDS:
            raise UserError(unknown("kind", self.kind, list(KINDS)))
        whole = [type(number) for number in self.intervals] == [int, int]
        if not whole or not 1 <= self.intervals[0] <= self.intervals[1]:
            raise UserError(f"intervals must be two whole numbers from 1, in order, got {self.intervals}")
        if not 0 <= self.decay < 1:
            raise UserError(f"decay must be from 0 up to but not 1, got {self.decay}")
        check_distance(self.distance)
        if self.schedule not in _neighbours.SCHEDULES:
            raise UserError(unknown("schedule", self.schedule, list(_neighbours.SCHEDULES)))
        _spans.check_share("warmup", self.warmup)
        object.__setattr__(self, "guidance", _scales.checked(self.guidance))
        if self.guidance != 1 and not self.teacher:
            raise UserError(
                f"guidance {_scales.shown(self.guidance)} needs `teacher: true` in the method; set it, or "
                "set guidance to 1"
            )

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        continuous = self.kind == "continuous"
        averages = {} if continuous else {"target": self.decay}
        return Needs(
            stream="data",
            teacher=self.teacher,
            slow_times=continuous,
            guidance_input=isinstance(self.guidance, tuple),
            averages=averages,
        )

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        _spans.must_jump(student)
        if self.needs.slow_times:
            _spans.must_be_slow(student)
        _scales.must_take(student, self.guidance)
        nets = super().networks(student, load)
        if self.teacher:
            teacher = load("teacher")
            _spans.must_teach(student, teacher)
            _scales.must_show(teacher, self.guidance)
            nets["teacher"] = Net(teacher, trains=False)
        return nets

    def trained(self) -> dict[str, Any]:
        """See Method.trained."""
        facts = super().trained() | {"in_range": False, "map_preserving": self.teacher}
        return facts | (_scales.taught(self.guidance) if self.teacher else {})

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        student: Model = nets["student"]
        data, conditions = batch["data"], conditions_of(student.config, batch)
        scale = _scales.uniform(self.guidance, keys, data)
        flow = as_flow(student, guidance=_scales.told(scale))
        noise = _spans.fresh_noise(student.noise, data, keys)
        share = randomness.uniforms("train.time", keys).to(data)
        teacher = as_flow(nets["teacher"], guidance=scale) if self.teacher else None

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            if teacher is None:
                return data - noise
            return teacher(x, t.clamp(teacher.t_start, teacher.t_end), **conditions)

        if self.kind == "continuous":
            t = flow.t_start + (flow.t_end - flow.t_start) * share
            x = _spans.on_chord(noise, data, t)
            with torch.no_grad():
                warm = _spans.warmed(progress, self.warmup)
                tangent = self.tangent(flow, x, t, velocity(x, t), warm, conditions)
            average = flow(x, t, **conditions)
            return l2(average - (average.detach() + _spans.normalised(tangent)))
        pair = _neighbours.SCHEDULES[self.schedule](flow, self.intervals, progress, keys)
        t, later, weight = (part.to(data) for part in (pair.t, pair.later, pair.weight))
        later = torch.where(later > 1 - 1e-6, 1.0, later)
        t = t.clamp(max=flow.t_end)
        x = _spans.on_chord(noise, data, t)
        with torch.no_grad():
            step, slope = like(later - t, x), velocity(x, t)
            reached = x + step * slope
            reached = x + step / 2 * (slope + velocity(reached, later))
            target = as_flow(nets["target"], guidance=_scales.told(scale))
            jump = target(reached, later.clamp(max=flow.t_end), **conditions)
            wanted = reached + like(1 - later, x) * jump
        return weight * DISTANCES[self.distance](x + like(1 - t, x) * flow(x, t, **conditions) - wanted)

    def tangent(
        self, flow: ModelFlow, x: Tensor, t: Tensor, velocity: Tensor, warm: float, conditions: Batch
    ) -> Tensor:
        """Return g of the class's text, (n, *shape); it is 0 at the exact map."""

        def u(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
            return flow(x, t, **conditions)

        within = (flow.t_start, flow.t_end)
        rest = derivatives.along_flow(u, x, t, torch.ones_like(t), velocity, within=within, exact=self.exact)
        return velocity - u(x, t, t) + warm * like(1 - t, x) * rest

"""Refiner: a small network learns how a teacher's velocity changes over a short step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewstep import randomness
from fewstep.conditions import LAST_VELOCITY
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.lazy import lazy_imports
from fewstep.methods import _spans
from fewstep.paths import like
from fewstep.refining import must_refine
from fewstep.training.distances import l2
from fewstep.training.method import Batch, Method, Needs, Net, Nets, conditions_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch


@dataclass(frozen=True, kw_only=True)
class Refiner(Method):
    """Regress the change of the teacher's velocity v from x at t to x + h v at t + h.

    Source: FlowTurbo, Zhao et al. 2024 (arXiv 2409.18128), section 3.2. x is on a line from noise to data, t
    uniform, h uniform up to `span`, and t + h never after the teacher's last time (in the paper's code it may
    be). The student is a refiner (fewstep.refining.refiner_for), is given x + h v, t + h and v, and says
    nothing without this teacher.
    """

    span: float = 0.12
    """The longest step, in canonical time; longer steps of a sampler ask for what was not learnt."""
    guidance: float = 1.0
    """Classifier-free guidance of the teacher; its velocity and changes are then those under guidance."""

    def __post_init__(self) -> None:
        if not 0 < self.span <= 1:
            raise UserError(f"span is a length of canonical time, above 0 and up to 1, got {self.span}")

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        return Needs(stream="data", teacher=True, last_velocity=True)

    def networks(self, student: Model, load: Callable[[str], Any]) -> dict[str, Net]:
        """See Method.networks."""
        if not student.config.refines:
            raise UserError(
                "this method trains a refiner, which is given the last velocity; "
                "fewstep.refining.refiner_for makes one of a teacher"
            )
        teacher = load("teacher")
        as_flow(teacher, guidance=self.guidance)
        must_refine(student, teacher)
        return super().networks(student, load) | {"teacher": Net(teacher, trains=False)}

    def trained(self) -> dict[str, Any]:
        """See Method.trained."""
        return super().trained() | {"baked_guidance": self.guidance, "in_range": False}

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        student: Model = nets["student"]
        flow, data = as_flow(nets["teacher"], guidance=self.guidance), batch["data"]
        conditions = conditions_of(nets["teacher"].config, batch)
        t, part = (randomness.uniforms(f"train.{name}", keys).to(data) for name in ("time", "step"))
        t = flow.t_start + (flow.t_end - flow.t_start) * t
        until = (t + self.span * part).clamp(max=flow.t_end)
        x = _spans.on_chord(_spans.fresh_noise(student.noise, data, keys), data, t)
        with torch.no_grad():
            last = flow(x, t, **conditions)
            x = x + like(until - t, x) * last
            change = flow(x, until, **conditions) - last
        return l2(student(x, until, **{LAST_VELOCITY: last}, **conditions) - change)

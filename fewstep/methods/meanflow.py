"""MeanFlow: a flow map learned from pairs, or from data alone, without a teacher's velocity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from etils.epy import lazy_imports

from fewstep import derivatives
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods import _spans
from fewstep.paths import like
from fewstep.registry import unknown
from fewstep.training.distances import l2
from fewstep.training.method import Batch, Method, Needs, Net, Nets, conditions_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model
    from fewstep.noises import Law

with lazy_imports():
    import torch

SOURCES = ("pairs", "data")
SMALL = 1e-3  # "c" of the adaptive weight, of a mean over dimensions


@dataclass(frozen=True, kw_only=True)
class Meanflow(Method):
    """Regress the average velocity that a chord's velocity and the student's own change along it imply.

    Source: Geng et al. 2025 (arXiv 2505.13447), eq. 6 and 11, in time from noise to data: with w = data -
    noise, u = E[ w + (until - t) (w . grad_x + d/dt) u ]. On pairs, as in Zhang et al. 2025 (arXiv
    2511.23342), it learns the map of the flow that reflow would learn; its target has no noise where chords
    do not cross.
    """

    learn_from: Literal["pairs", "data"] = "pairs"
    """pairs of a coupling, or data with fresh noise, whose targets are noisy: then give power a value too."""
    to_data: float = 0.0
    """Share of the rows whose step ends at the data."""
    from_noise: float = 0.0
    """Share of the rows whose step starts at the noise."""
    at_once: float = 0.25
    """Share of the rows whose step has no length, which are flow matching."""
    power: float = 0.0
    """Weight of a sample: its loss to the power of minus this. 0 is the plain mean; 1, for noisy targets,
    makes all samples count alike."""
    exact: bool = False
    """Derivatives by forward-mode differentiation instead of differences; not for all networks."""

    def __post_init__(self) -> None:
        if self.learn_from not in SOURCES:
            raise UserError(unknown("source", self.learn_from, list(SOURCES)))
        for name in ("to_data", "from_noise", "at_once", "power"):
            _spans.check_share(name, getattr(self, name))
        if not self.at_once:
            raise UserError("meanflow learns the velocity from the share at_once alone; set it above 0")

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        return Needs(stream=self.learn_from, second_time=True, slow_times=True)

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        _spans.must_take_until(student)
        _spans.must_be_slow(student)
        return super().networks(student, load)

    def trained(self) -> dict[str, Any]:
        """See Method.trained."""
        return super().trained() | {"in_range": False, "map_preserving": self.learn_from == "pairs"}

    def prepare_batch(self, batch: Batch, keys: Tensor, law: Law) -> Batch:
        """Return the batch with a noise for each sample."""
        return (
            batch
            if self.learn_from == "pairs"
            else {**batch, "noise": _spans.fresh_noise(law, batch["data"], keys)}
        )

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        student: Model = nets["student"]
        flow, noise, data = as_flow(student), batch["noise"], batch["data"]
        t, until = _spans.draw_spans(
            flow, keys, to_data=self.to_data, from_noise=self.from_noise, at_once=self.at_once
        )
        t, until = t.to(data), until.to(data)
        x, velocity = _spans.on_chord(noise, data, t), data - noise
        u = _spans.average_velocity(flow, conditions_of(student.config, batch))
        within = (flow.t_start, flow.t_end)
        rest = derivatives.along_flow(u, x, t, until, velocity, within=within, exact=self.exact)
        span = like(until - t, x)
        target = torch.where(span > 0, velocity + span * rest, velocity)
        losses = l2(u(x, t, until) - target)
        return losses / (losses.detach() + SMALL) ** self.power if self.power else losses

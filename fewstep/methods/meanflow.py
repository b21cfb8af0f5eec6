"""MeanFlow: a flow map learned from pairs, or from data alone, without a teacher's velocity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fewstep import derivatives
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.lazy import lazy_imports
from fewstep.methods import _scales, _spans, _times
from fewstep.methods._hidden_conditions import check_dropout, check_droppable, hidden_of, hide
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

    With guidance g and mixing k, w is (1 - k) g (data - noise) + k u(x, t, t) + (1 - k) (1 - g) u(x, t, t; no
    conditions), also as the tangent; Geng et al., eq. 21, whose omega is (1 - k) g. Samples whose conditions
    are dropped have data - noise.

    With a range of guidance each sample has a g of its own, log-uniform in the range, which u is given as an
    input, and k = 1 - 1 / g; Geng et al. 2025 (arXiv 2512.02012). Where conditions are dropped, g is 1.
    """

    learn_from: Literal["pairs", "data"] = "pairs"
    """pairs of a coupling, or data with fresh noise, whose targets are noisy."""
    times: str = "uniform"
    """Law of both times of a step, before they are put in order: uniform, logit_normal, u_shaped or edm, as
    those of flow_matching."""
    location: float = 0.0
    """For times logit_normal: the mean of their logits, whose deviation is 1; above 0 there are more near the
    data. Geng et al. take 0.4 for latents of images, which they write as -0.4."""
    to_data: float = 0.0
    """Share, of the rows whose step has a length, of those whose step ends at the data."""
    from_noise: float = 0.0
    """Share, of the rows whose step has a length, of those whose step starts at the noise."""
    at_once: float = 0.25
    """Share of the rows whose step has no length, which are flow matching."""
    power: float = 1.0
    """Weight of a sample: its loss to the power of minus this, as in Geng et al., section 4.3. 1 makes all
    samples count alike; 0 is the plain mean, which few samples decide where chords cross."""
    label_dropout: float = 0.0
    """Share of samples whose conditions, the label and all others, are dropped."""
    guidance: _scales.Guidance = 1.0
    """Classifier-free guidance; the student then needs none. The velocity is mixed with its own, with
    and without conditions. It needs learn_from data, as pairs have the guidance of their coupling, and a
    label_dropout. A range, such as [1, 4]: the student takes the scale as an input, and is sampled with any
    of them."""
    mixing: float = 0.5
    """For one scale of guidance: the part of the mix that is the student's own velocity with conditions."""
    exact: bool = False
    """Derivatives by forward-mode differentiation instead of differences; not for all networks."""

    def __post_init__(self) -> None:
        if self.learn_from not in SOURCES:
            raise UserError(unknown("source", self.learn_from, list(SOURCES)))
        _times.law_at(self.times, self.location)
        for name in ("to_data", "from_noise", "at_once"):
            _spans.check_share(name, getattr(self, name))
        if not 0 <= self.power <= 1:
            raise UserError(f"power must be from 0 to 1, got {self.power}")
        if not self.at_once:
            raise UserError("meanflow learns the velocity from the share at_once alone; set it above 0")
        check_dropout(self.label_dropout)
        if not 0 <= self.mixing < 1:
            raise UserError(f"mixing must be from 0 up to but not 1, got {self.mixing}")
        object.__setattr__(self, "guidance", _scales.checked(self.guidance))
        if isinstance(self.guidance, tuple) and self.mixing != Meanflow.mixing:
            raise UserError(
                f"mixing {self.mixing} is for one scale of guidance; with a range it follows from the scale "
                "of each sample: leave it out"
            )
        if self.guidance != 1 and (self.learn_from == "pairs" or not self.label_dropout):
            raise UserError(
                f"guidance {_scales.shown(self.guidance)} needs learn_from data and a label_dropout above 0, "
                "such as 0.1; set them, or set guidance to 1"
            )

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        conditions = self.label_dropout > 0
        return Needs(
            stream=self.learn_from,
            second_time=True,
            slow_times=True,
            guidance_input=isinstance(self.guidance, tuple),
            conditions=conditions,
        )

    def check_labels(self, labels: bool) -> None:
        """See Method.check_labels."""
        check_droppable(self.label_dropout, labels)

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        _spans.must_take_until(student)
        _spans.must_be_slow(student)
        _scales.must_take(student, self.guidance)
        return super().networks(student, load)

    def trained(self) -> dict[str, Any]:
        """See Method.trained."""
        facts = super().trained() | {"in_range": False, "map_preserving": self.learn_from == "pairs"}
        facts["guidable"] = self.label_dropout > 0
        return facts if self.guidance == 1 else facts | _scales.taught(self.guidance)

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
            flow,
            keys,
            to_data=self.to_data,
            from_noise=self.from_noise,
            at_once=self.at_once,
            law=_times.law_at(self.times, self.location),
        )
        t, until = t.to(data), until.to(data)
        x, velocity = _spans.on_chord(noise, data, t), data - noise
        conditions = conditions_of(student.config, batch)
        if self.label_dropout:
            hidden = hidden_of(self.label_dropout, keys).to(x.device)
            if self.guidance != 1:
                scale = _scales.log_uniform(self.guidance, keys, data)
                mixed = self.guided(student, x, t, velocity, conditions, scale)
                velocity = torch.where(like(hidden, x), velocity, mixed)
                flow = as_flow(student, guidance=_scales.told(scale, none=hidden))
            conditions = hide(student, conditions, hidden)
        u = _spans.average_velocity(flow, conditions)
        within = (flow.t_start, flow.t_end)
        rest = derivatives.along_flow(u, x, t, until, velocity, within=within, exact=self.exact)
        span = like(until - t, x)
        target = torch.where(span > 0, velocity + span * rest, velocity)
        losses = l2(u(x, t, until) - target)
        return losses / (losses.detach() + SMALL) ** self.power if self.power else losses

    def guided(
        self,
        student: Model,
        x: Tensor,
        t: Tensor,
        velocity: Tensor,
        conditions: Batch,
        scale: _scales.Drawn,
    ) -> Tensor:
        """Return the mix of a chord's velocity and the student's own, (n, *shape), at points x of times t."""
        flow = as_flow(student, guidance=_scales.told(scale))
        with torch.no_grad():
            own = flow(x, t, until=t, **conditions)
            null = as_flow(student)(x, t, until=t, **student.null(conditions))
        mixing: _scales.Drawn = self.mixing
        if isinstance(scale, torch.Tensor):
            scale = like(scale, x)
            mixing = 1 - 1 / scale
        share = (1 - mixing) * scale
        return share * velocity + mixing * own + (1 - share - mixing) * null

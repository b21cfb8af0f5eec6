"""Shortcut: a flow map learned from data alone, each step from two steps of half its length."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.lazy import lazy_imports
from fewstep.methods import _spans
from fewstep.paths import like
from fewstep.training.distances import l2
from fewstep.training.method import Batch, Method, Needs, Net, Nets, conditions_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch


@dataclass(frozen=True, kw_only=True)
class Shortcut(Method):
    """Teach equal steps of 1, 2, 4 ... up to `finest`: the finest by flow matching, longer ones by halves.

    Source: Frans et al. 2024 (arXiv 2410.12557). A step's target is the mean of the two velocities that a
    moving average of the student takes over its halves. Steps of other lengths are not trained, so samplers
    refuse them.
    """

    finest: int = 128
    """Equal steps from noise to data whose velocity counts as that at one time; a power of 2."""
    halves: float = 0.25
    """Share of the rows that learn a longer step from its halves."""
    decay: float = 0.999
    """Decay of the average of the student's weights that takes the halves."""

    def __post_init__(self) -> None:
        if type(self.finest) is not int or self.finest < 2 or self.finest & (self.finest - 1):
            raise UserError(f"finest must be a whole number, a power of 2 from 2, got {self.finest}")
        if not 0 <= self.decay < 1:
            raise UserError(f"decay must be from 0 up to but not 1, got {self.decay}")
        _spans.check_share("halves", self.halves)

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        return Needs(stream="data", second_time=True, averages={"target": self.decay})

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        _spans.must_take_until(student)
        return super().networks(student, load)

    def trained(self) -> dict[str, Any]:
        """See Method.trained."""
        return super().trained() | {
            "in_range": False,
            "map_preserving": False,
            "equal_steps": self.finest,
        }

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        student: Model = nets["student"]
        flow, data, conditions = as_flow(student), batch["data"], conditions_of(student.config, batch)
        t, until, halved = self.steps(flow.t_start, keys)
        t, until, halved = t.to(data), until.to(data), halved.to(data.device)
        t = t.clamp(max=flow.t_end)
        noise = _spans.fresh_noise(student.noise, data, keys)
        x = _spans.on_chord(noise, data, t)
        with torch.no_grad():
            u = _spans.average_velocity(as_flow(nets["target"]), conditions)
            middle = ((t + until) / 2).clamp(max=flow.t_end)
            first = u(x, t, middle)
            second = u(x + like(middle - t, x) * first, middle, until)
            part = like((middle - t) / (until - t), x)
            target = torch.where(like(halved, x), part * first + (1 - part) * second, data - noise)
        return l2(flow(x, t, until=until, **conditions) - target)

    def steps(self, start: float, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return where steps start and end, (n,), and whether they learn from halves, bool (n,)."""
        which, level, place = (
            randomness.uniforms(f"train.shortcut.{name}", keys) for name in ("which", "level", "place")
        )
        halved, levels = which < self.halves, int(math.log2(self.finest))
        steps = torch.where(halved, 2 ** (level * levels).floor(), self.finest)
        t = (place * steps).floor() / steps
        t, until = (start + (1 - start) * time for time in (t, t + 1 / steps))
        return t, until, halved

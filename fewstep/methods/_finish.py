"""Finish: what methods share that train a student on with the samples it makes itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.methods._distances import l2
from fewstep.methods._knots import knots_of
from fewstep.training.method import Batch, Method, Net, Nets, conditions_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fewstep.model import Model


@dataclass(frozen=True, kw_only=True)
class Finish(Method):
    """Train on a student that another method made, with samples made the way it will be sampled.

    These are Euler steps on its own grid, one or more, with gradients through all of them. Nothing but
    an anchor holds the student to what its teacher makes of a noise.
    """

    stream = "noise"
    trained_times = "grid"
    map_preserving = False

    anchor: float = 0.0
    """Weight of the mean squared distance to the data of pairs. Above 0 the stream is "pairs", and the
    samples are made of the pairs' noise; at 0 noise is drawn anew and no data is needed."""

    def __post_init__(self) -> None:
        if not 0 <= self.anchor < math.inf:
            raise UserError(f"anchor must be a weight from 0, got {self.anchor}")
        if self.anchor:
            object.__setattr__(self, "stream", "pairs")

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        from fewstep.flow import as_flow
        from fewstep.solvers import must_fit

        knots_of(student)
        assert student.config.grid is not None
        must_fit(as_flow(student), student.config.grid)
        return super().networks(student, load)

    def judge(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """Return the loss (n,) of the network that judges, on the student's samples (n, *shape)."""
        raise NotImplementedError

    def pull(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """Return what judges say of each of the student's samples, (n,), less being better."""
        raise NotImplementedError

    def loss(self, nets: Nets, batch: Batch, turn: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        import torch

        if turn != "student":
            with torch.no_grad():
                samples = self._samples(nets["student"], batch, keys)
            return self.judge(nets, samples, batch, keys)
        samples = self._samples(nets["student"], batch, keys)
        losses = self.pull(nets, samples, batch, keys)
        return losses + self.anchor * l2(samples - batch["data"]) if self.anchor else losses

    def _samples(self, student: Model, batch: Batch, keys: Tensor) -> Tensor:
        from fewstep import randomness
        from fewstep.flow import as_flow
        from fewstep.solvers import integrate

        config = student.config
        assert config.grid is not None
        conditions = conditions_of(config, batch)
        if self.stream == "pairs":
            if not {"noise", "data"} <= batch.keys():
                raise UserError(
                    f"anchor {self.anchor} learns from pairs of noise and data, and the batch has "
                    f"{', '.join(batch) or 'neither'}; give it pairs, or take no anchor"
                )
            noise = batch["noise"]
        else:
            noise = randomness.noises("train.noise", keys, config.shape)
            noise = noise.to(next(student.parameters(), noise).device)
        return integrate(as_flow(student), noise, config.grid, **conditions).x

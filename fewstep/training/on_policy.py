"""OnPolicyDistillation: base of the methods that train a student on its own samples."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.lazy import lazy_imports
from fewstep.solvers import CountedFlow, must_fit, trajectory
from fewstep.training.distances import l2
from fewstep.training.method import Batch, Method, Needs, Net, Nets, conditions_of
from fewstep.training.timesteps import in_range_of, timesteps_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch


@dataclass(frozen=True, kw_only=True)
class OnPolicyDistillation(Method):
    """Fine-tune a student that another method trained, on samples made as in inference.

    These are Euler steps on its own grid, one or more, with gradients through all of them. Only a
    regression_weight keeps the student close to its teacher's sample of the same noise.
    """

    trained_times = "grid"
    map_preserving = False

    regression_weight: float = 0.0
    """Weight of the mean squared distance to the data of pairs. Above 0 the stream is "pairs", and the
    student starts from the pairs' noise. At 0 the noise is fresh and no data is needed."""

    def __post_init__(self) -> None:
        if not 0 <= self.regression_weight < math.inf:
            raise UserError(f"regression_weight must be a weight from 0, got {self.regression_weight}")

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        if self.regression_weight:
            return Needs(stream="pairs", options={"stream": "regression_weight"})
        return Needs(stream="noise")

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        self.check_sampling(student)
        return super().networks(student, load)

    def check_sampling(self, student: Model) -> None:
        """Refuse a student that does not sample as `own_samples` does.

        Raises:
            UserError: if it has no grid of Euler steps, or one that does not fit it.
        """
        timesteps_of(student)
        assert student.config.grid is not None
        must_fit(as_flow(student), student.config.grid)

    def own_samples(self, student: Model, noise: Tensor, conditions: Batch, keys: Tensor) -> Tensor:
        """Return what the student makes of noise, (n, *shape), with gradients through its steps."""
        assert student.config.grid is not None
        # Not `integrate`, which waits for the device: an update that is not finite is left out anyway.
        states = trajectory(CountedFlow(as_flow(student), conditions), noise, student.config.grid)
        return deque(states, maxlen=1).pop()

    def critic_loss(self, network: str, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """Return the loss (n,) of another network than the student on its samples (n, *shape)."""
        raise NotImplementedError

    def generator_loss(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """Return the student's loss (n,) on its samples (n, *shape), from the other networks."""
        raise NotImplementedError

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        if network != "student":
            with torch.no_grad():
                samples = self._samples(nets["student"], batch, keys)
            return self.critic_loss(network, nets, samples, batch, keys)
        samples = self._samples(nets["student"], batch, keys)
        losses = self.generator_loss(nets, samples, batch, keys)
        return (
            losses + self.regression_weight * l2(samples - in_range_of(nets["student"].config, batch["data"]))
            if self.regression_weight
            else losses
        )

    def _samples(self, student: Model, batch: Batch, keys: Tensor) -> Tensor:
        config = student.config
        if self.needs.stream == "pairs":
            if not {"noise", "data"} <= batch.keys():
                raise UserError(
                    f"regression_weight {self.regression_weight} learns from pairs of noise and data, "
                    f"and the batch has {', '.join(batch) or 'neither'}; give it pairs, or set it to 0"
                )
            noise = batch["noise"]
        else:
            noise = student.noise.draw("train.noise", keys, config.shape)
            noise = noise.to(next(student.parameters(), noise).device)
        return self.own_samples(student, noise, conditions_of(config, batch), keys)

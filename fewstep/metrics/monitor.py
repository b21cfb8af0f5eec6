"""Monitor: how good a student is in the middle of its training, in numbers that its loss may not show.

All are measured in features of a net that neither the loss nor the evaluation knows, against the training
data, on one set of samples from the same noise at every look. They tell two looks of one training apart.
They are no results: those are measured by `protocol`, with another net and more samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fewstep.codec import Codec, decoded
from fewstep.draws import draws_of
from fewstep.errors import UserError
from fewstep.finite import NotFiniteError
from fewstep.flow import as_flow
from fewstep.grids import Grid, uniform
from fewstep.lazy import brought_by, lazy_imports
from fewstep.metrics.classes import class_shares, largest_share_difference
from fewstep.metrics.features import BATCH, FeatureNet
from fewstep.metrics.frechet import Moments, frechet_distance
from fewstep.metrics.neighbours import manifold_scores
from fewstep.model import Model
from fewstep.rows import Rows
from fewstep.settings import MonitorSettings
from fewstep.solvers import integrate
from fewstep.spacings import dividing

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

with lazy_imports(error_callback=brought_by("metrics", what="a monitor", library="scikit-learn")):
    from sklearn import cluster

CLUSTERS = 10  # of the training data; what labels would be
NFE = (1, 4)  # of a look at a student of any number


@dataclass(frozen=True)
class Look:
    """What a look finds."""

    step: int
    """Of the training."""
    fd: float
    """Fréchet distance to the training data; infinite if a sample is not finite."""
    recall: float
    """Share of the training data that lies among the samples."""
    shares: float
    """Largest difference of a cluster's share among the samples from that in the training data."""

    @classmethod
    def at_several(cls, looks: "Sequence[Look]") -> "Look":
        """Return what looks with several numbers of calls find: the mean distance, the worst of the rest."""
        return cls(
            looks[0].step,
            sum(look.fd for look in looks) / len(looks),
            min(look.recall for look in looks),
            max(look.shares for look in looks),
        )


@dataclass(frozen=True)
class Monitor:
    """Looks at a student of the training data; what it needs of that is worked out at the first look."""

    net: FeatureNet
    data: Rows
    """Training data as it is seen, (n, *shape)."""
    settings: MonitorSettings
    seed: int
    """Decides the noise, the clusters, and which samples recall leaves out."""
    through: Codec | None = None
    """Shows a student's samples, where these are latents."""

    def look(self, student: Model, step: int) -> Look:
        """Return what its samples are like on its own grid, or in a few steps; the student stays as it is.

        Raises:
            UserError: see `grids`; or if a library of the metrics is missing.
        """
        return Look.at_several([self._look(student, step, grid) for grid in self.grids(student)])

    def grids(self, student: Model) -> list[Grid]:
        """Return the grids that a look samples a student on.

        Raises:
            UserError: if it has no grid, and is not for any number of steps.
        """
        config = student.config
        if config.grid is not None:
            return [config.grid]
        if config.velocity_until != "any":
            raise UserError(
                "a monitor looks at students on their own grid, or at flow maps; this model has no grid"
            )
        flow = as_flow(student)
        numbers = self.settings.nfe or dividing(config.equal_steps, NFE)
        return [uniform(nfe, start=flow.t_start, end=flow.t_end) for nfe in numbers]

    def _look(self, student: Model, step: int, grid: Grid) -> Look:
        try:
            samples = self.sample(student, grid)
        except NotFiniteError:
            return Look(step, math.inf, recall=0.0, shares=1.0)
        features, clusters = self.net.features(decoded(samples, self.through)), self._clusters
        return Look(
            step,
            frechet_distance(self._moments, Moments.of(features)),
            recall=manifold_scores(self._reference, features, seed=self.seed)["recall"],
            shares=largest_share_difference(
                clusters.predict(features), class_shares(clusters.labels_, CLUSTERS)
            ),
        )

    @torch.no_grad()
    def sample(self, student: Model, grid: Grid) -> Tensor:
        """Return what a student makes of the monitor's noise, (samples, *shape), on the CPU.

        Raises:
            NotFiniteError: if it leaves the finite numbers.
        """
        was_training = student.training
        flow = as_flow(student.eval(), guidance=grid.guidance)
        noise = draws_of(
            student,
            "monitor",
            self.seed,
            range(self.settings.samples),
            batch=BATCH,
            device=next(student.parameters()).device,
        )
        try:
            return torch.cat([integrate(flow, start, grid, **given).x.cpu() for start, given in noise])
        finally:
            student.train(was_training)

    @cached_property
    def _reference(self) -> np.ndarray:
        """Features of the training data, (n, d)."""
        return self.net.features(self.data)

    @cached_property
    def _moments(self) -> Moments:
        return Moments.of(self._reference)

    @cached_property
    def _clusters(self) -> "KMeans":
        return cluster.KMeans(min(CLUSTERS, len(self.data)), n_init=3, random_state=self.seed).fit(
            self._reference
        )

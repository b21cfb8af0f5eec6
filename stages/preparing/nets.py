"""The nets that `prepare` trains on the data: those that measure, and the monitor's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewstep.metrics import denoiser, features, nets

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.metrics.features import FeatureNet
    from fewstep.rows import Rows
    from stages.run.job import Job


def train_and_save(job: Job, config: Any, seen: Rows, labels: Tensor | None, *, pixels: bool) -> FeatureNet:
    """Train the nets, save them among the job's outputs, and return the first of those that measure.

    Args:
        job: Of the stage prepare.
        config: Its Config.
        seen: The training data as it is seen, (n, *shape).
        labels: Its classes, int64 (n,).
        pixels: Whether it is images.
    """
    measure = nets.train_nets(
        seen,
        labels,
        pixels=pixels,
        steps=config.metric_nets.steps,
        clusters=config.metric_nets.clusters,
        public_features=config.metric_nets.public_features,
        seed=job.seed,
        progress=job.progress,
    )
    for name, net in measure.items():
        features.save(job.out, net, {}, name=name)
    monitor = denoiser.train_denoiser(
        seen, pixels=pixels, steps=config.monitor_net.steps, seed=job.seed, progress=job.progress
    )
    features.save(job.out, monitor, {}, name=denoiser.MONITOR)
    return measure[nets.FIRST]

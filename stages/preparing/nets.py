"""The nets that `prepare` trains on the data: those that measure, and the monitor's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewstep.metrics import denoiser, features, nets, public
from stages.workers import machine
from stages.workers.spread import here, spread

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.metrics.features import FeatureNet
    from fewstep.rows import Rows
    from stages.run.job import Job

WORTH_WORKERS = 100  # steps of a net that take longer than a process needs to start


def train_and_save(job: Job, config: Any, seen: Rows, labels: Tensor | None, *, pixels: bool) -> FeatureNet:
    """Train the nets, several at once, save them among the job's outputs, and return the first that measures.

    Args:
        job: Of the stage prepare.
        config: Its Config.
        seen: The training data as it is seen, (n, *shape).
        labels: Its classes, int64 (n,).
        pixels: Whether it is images.
    """
    # Decoded images are in the memory of this process; shards are on its disk, which a cluster need not see.
    stored = config.codec is None and machine.backend() == "processes"
    apart = stored and config.metric_nets.steps >= WORTH_WORKERS
    longest_first = sorted(nets.KINDS, key=lambda kind: -kind.width)
    job.progress.start("nets", len(longest_first) + 1, unit="net")
    for kind, net in (spread if apart else here)(
        train,
        [*longest_first, None],
        start_worker=start_worker,
        facts=(config, seen, labels, pixels, job.seed),
    ):
        features.save(job.out, net, {}, name=kind.name if kind else denoiser.MONITOR)
        job.progress.advance()
    if config.metric_nets.public_features and public.suits(tuple(seen.shape[1:]), pixels=pixels):
        features.save(job.out, public.public_net(seen, progress=job.progress), {}, name=public.NAME)
    return features.load(job.out, name=nets.FIRST)[0]


WORKER: dict[str, Any] = {}  # what a worker process keeps from one net to the next


def start_worker(config: Any, seen: Rows, labels: Tensor | None, pixels: bool, seed: int) -> None:
    """Keep what every net learns from."""
    WORKER.update(config=config, seen=seen, labels=labels, also={"pixels": pixels, "seed": seed})


def train(kind: nets.Kind | None) -> FeatureNet:
    """Return a net that measures or, for None, the monitor's, in a worker process."""
    config, seen, also = WORKER["config"], WORKER["seen"], WORKER["also"]
    if kind is None:
        return denoiser.train_denoiser(seen, steps=config.monitor_net.steps, **also)
    own = config.metric_nets
    return nets.train_net(kind, seen, WORKER["labels"], steps=own.steps, clusters=own.clusters, **also)

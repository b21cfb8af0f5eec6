"""Nets: the data -> the small nets that measure samples, and the one that watches trainings.

They need no model, so they are trained beside the first one: one after another, for that one takes longer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from fewstep.lazy import lazy_imports
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.fields import Settings

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch

    from fewstep import codec, rows, shards
    from fewstep.metrics import denoiser, features, nets, public, saved
    from stages.process import device

VERSION = 1  # bump when the numbers this stage writes change


class MetricNets(Settings):
    """Settings of the small nets in whose features samples are measured; see fewstep.metrics.nets."""

    steps: int = Field(default=500, ge=1)
    """Training steps of each."""
    clusters: int = Field(default=10, ge=2)
    """Number of k-means clusters that stand in for labels where the data has none."""
    public_features: bool = True
    """Whether EfficientNet-Lite0, trained on ImageNet, also measures colour images of 16 pixels and more."""


class MonitorNet(Settings):
    """Settings of the small autoencoder in whose features trainings are watched."""

    steps: int = Field(default=250, ge=1)
    """Training steps."""


class Config(Settings):
    """Settings of the nets stage."""

    metric: MetricNets = MetricNets()
    """The nets that measure."""
    monitor: MonitorNet = MonitorNet()
    """The monitor's net, which shares no weights with them."""
    decoded: int = Field(16384, ge=1)
    """Of how many training samples the nets see the images, where a codec has to decode them; these lie on
    the disk meanwhile, in 8 bits."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return what this stage reads: the data."""
    return {"data": "artifacts/prepare"}


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return "artifacts/nets"


def run(config: Config, job: Job) -> None:
    """Train the nets on the data as people see it, and write them."""
    through = codec.of_prepared(job.inputs["data"])
    train, held_out = (shards.Shards(job.inputs["data"] / split) for split in ("train", "held_out"))
    seen: rows.Rows = shards.Column(train, "data")
    numbers = torch.arange(train.samples)
    pixels = train.facts["pixels"] or through is not None
    if through is not None:
        numbers = train.numbers_of_some(config.decoded, seed=job.seed)
        latents = rows.Chosen(seen, numbers)
        seen = saved.save(codec.decoded(latents, through.to(device.device())), job.scratch / "images.npy")
    elif pixels:
        seen = rows.Changed(seen, saved.as_saved)
    labels = None if (found := labels_of(train)) is None else found[numbers]
    own = config.metric
    job.progress.start("nets", len(nets.KINDS) + 1, unit="net")
    for kind in nets.KINDS:
        net = nets.train_net(
            kind, seen, labels, pixels=pixels, steps=own.steps, clusters=own.clusters, seed=job.seed
        )
        features.save(job.out, net, {}, name=kind.name)
        job.progress.advance()
    monitor = denoiser.train_denoiser(seen, pixels=pixels, steps=config.monitor.steps, seed=job.seed)
    features.save(job.out, monitor, {}, name=denoiser.MONITOR)
    job.progress.advance()
    if own.public_features and public.suits(tuple(seen.shape[1:]), pixels=pixels):
        features.save(job.out, public.public_net(seen, progress=job.progress), {}, name=public.NAME)
    accuracy = None
    if (known := labels_of(held_out)) is not None and train.facts["classes"] > 1:
        first, _ = features.load(job.out, name=nets.FIRST)
        accuracy = first.accuracy(codec.decoded(shards.Column(held_out, "data"), through), known)
    job.facts.update(classifier_accuracy=accuracy)


def labels_of(split: shards.Shards) -> Tensor | None:
    """Return the classes of all samples, int64 (n,); None where the data has none."""
    if "label" not in split.fields:
        return None
    return shards.Column(split, "label")[torch.arange(split.samples)]


if __name__ == "__main__":
    main(Path(__file__))

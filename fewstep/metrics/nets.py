"""The nets that measure: several feature nets, for one alone tells about itself as well as the samples.

They differ in width, in first weights and in what taught them; one saw no label. Beside them, colour images
of 16 pixels and more are seen by a public network (`public`). None shares weights or a seed with the
monitor's net, and no loss uses them. Each gives a ratio to the teacher; their mean is the headline, and
their spread stands beside it (`protocol`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep import randomness
from fewstep.metrics import features, public
from fewstep.metrics.denoiser import train_denoiser
from fewstep.metrics.features import FeatureNet, pseudo_labels, train_feature_net
from fewstep.progress import SILENT, Progress
from fewstep.rows import Rows


@dataclass(frozen=True)
class Kind:
    """What one of the nets is."""

    labels: bool
    """Whether classes taught it: those of the data or, where there are none, clusters; else denoising did."""
    width: int
    """Channels of its first convolution."""

    @property
    def name(self) -> str:
        """Of its files and of its column."""
        return f"{'classes' if self.labels else 'denoising'}-{self.width}"


KINDS = (Kind(labels=True, width=32), Kind(labels=True, width=48), Kind(labels=False, width=40))
FIRST = KINDS[0].name  # whose fd_clf, kid_clf, precision and recall are shown

Nets = dict[str, FeatureNet]  # by name


def train_net(
    kind: Kind,
    data: Rows,
    labels: Tensor | None,
    *,
    pixels: bool,
    steps: int,
    clusters: int,
    seed: int,
    progress: Progress = SILENT,
) -> FeatureNet:
    """Return one of the nets; same arguments, same net.

    Args:
        kind: Which.
        data: The train split, (n, *shape), images as they are saved.
        labels: Its classes, int64 (n,); None, or a single one, lets k-means clusters stand in.
        pixels: See FeatureNet.
        steps: Training steps.
        clusters: How many clusters of the data stand in for its classes.
        seed: Decides weights and order; each net has its own seed, drawn from this one.
        progress: Told of every step.

    Raises:
        UserError: see train_feature_net and pseudo_labels.
    """
    own = randomness.digest64(f"metric net {kind.name}", seed) >> 33
    options: dict[str, Any] = {"width": kind.width, "pixels": pixels, "steps": steps}
    options |= {"seed": own, "progress": progress}
    if not kind.labels:
        return train_denoiser(data, **options)
    if labels is not None and int(labels.max()) > 0:
        return train_feature_net(data, labels, **options)
    (found,) = pseudo_labels(data, clusters=clusters, seed=own)
    return train_feature_net(data, found, taught_by=f"clusters{clusters}", **options)


def load_nets(folder: Path) -> Nets:
    """Return the nets by name that the stage `nets` saved in a folder.

    Raises:
        UserError: see features.load.
    """
    nets = {kind.name: features.load(folder, name=kind.name)[0] for kind in KINDS}
    if (folder / f"{public.NAME}.json").exists():
        nets[public.NAME], _ = features.load(folder, name=public.NAME, body=public.PublicBody())
    return nets

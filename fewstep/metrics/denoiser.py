"""A feature net that no label taught: what an autoencoder must know of noisy data to tell data and noise.

The monitor has one of its own, which shares no weight with the nets of the evaluation: a student is not
chosen by the numbers that will rate it. Denoising needs no idea of which changes leave a sample what it
is, as shifts or turns may, so it suits vectors as well as images.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.metrics.features import FEATURES, WIDTH, FeatureNet, as_seen, teach
from fewstep.progress import SILENT, Progress
from fewstep.rows import Changed, Rows, standard_deviation

MONITOR = "monitor_net"  # the name of the monitor's
LEVEL = 0.3  # the weight of telling the noise level; with 1, blur counts for more than missing digits
HIDDEN = 128  # width of the layer between features and data, which is thrown away


def train_denoiser(
    data: Rows,
    *,
    width: int = WIDTH,
    pixels: bool = False,
    steps: int = 250,
    seed: int,
    progress: Progress = SILENT,
) -> FeatureNet:
    """Return a feature net taught to see through noise; same arguments, same net.

    The denoising autoencoder of Vincent et al. 2008, with Gaussian noise of a new level for each
    sample, from none to the standard deviation of the data. It tells the level as well: features that only
    look through noise would take a student's noisy or blurred samples for clean ones.

    Args:
        data: The train split, (n, *shape).
        width: See FeatureNet.
        pixels: See FeatureNet.
        steps: Steps of Adam on batches of 128, the rate falling to 0 along a cosine.
        seed: Decides the first weights, the noise and the order of samples.
        progress: Told of every step.

    Raises:
        UserError: for a sample shape that the net does not take, or fewer than two samples.
    """
    if len(data) < 2:
        raise UserError(f"a feature net needs 2 or more samples, got {len(data)}")
    shape, seen = tuple(data.shape[1:]), Changed(data, as_seen)
    size = math.prod(seen.shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = FeatureNet(shape, 0, taught_by="denoising", width=width, pixels=pixels)
        back = nn.Sequential(nn.SiLU(), nn.Linear(FEATURES, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, size + 1))
    most = standard_deviation(seen)
    draw = torch.Generator().manual_seed(randomness.digest64("denoiser", seed) >> 1)

    def loss(clean: Tensor, numbers: Tensor) -> Tensor:
        level = torch.rand(len(clean), 1, generator=draw)
        noise = torch.randn(clean.shape, generator=draw)
        noisy = clean + most * level.view(-1, *[1] * len(shape)) * noise
        found = back(net.body(noisy))
        told, restored = found[:, :1], found[:, 1:]
        return functional.mse_loss(restored, clean.flatten(1)) + LEVEL * functional.mse_loss(told, level)

    parameters = [*net.parameters(), *back.parameters()]
    teach(net, loss, parameters, data, name="denoising net", steps=steps, seed=seed, progress=progress)
    return net

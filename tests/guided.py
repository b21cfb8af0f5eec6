"""Labelled Gaussians and mixtures whose guided flows are known in closed form, and models of them."""

from dataclasses import dataclass

import torch
from flow_maps import average_velocity
from oracles import Gaussian, Mixture
from torch import Tensor, nn

from fewstep.grids import uniform
from fewstep.model import Model, ModelConfig
from fewstep.paths import like

MEANS = torch.tensor([[1.5, 0.3], [-0.7, 1.0], [0.2, -0.4]], dtype=torch.float64)  # two classes, and none
STD = torch.tensor([0.6, 1.3], dtype=torch.float64)
FACTS = {"shape": (2,), "classes": 2}


def guided(label: Tensor, scale: Tensor) -> Gaussian:
    """Return the law of each sample, (n, 2): guidance moves the mean of a class away from that of none."""
    return Gaussian(MEANS[2] + like(scale, MEANS) * (MEANS[label] - MEANS[2]), STD)


class Exact(nn.Module):
    """The average velocity of each sample's guided flow, until a time or the data."""

    def __init__(self, *, until_data: bool = False) -> None:
        super().__init__()
        self.until_data, self.seen = until_data, None

    def forward(self, x, t, label=None, until=None, guidance=None):
        self.seen = guidance
        scale = torch.ones_like(t) if guidance is None else guidance
        until = torch.ones_like(t) if self.until_data else t if until is None else until
        return average_velocity(guided(label, scale), x, t, until)


def teacher(**config) -> Model:
    """Return the model with the velocity of each class, and of none."""
    return Model(ModelConfig(architecture={"name": "exact"}, **FACTS | config), Exact())


def student(*, until_data: bool = False, network: nn.Module | None = None) -> Model:
    """Return the model that is exact at every scale, or one of another network."""
    architecture = {"name": "exact", "slow_times": True} | ({} if until_data else {"second_time": True})
    more = {"grid": uniform(1), "trained_times": "until_1"} if until_data else {}
    config = ModelConfig(
        architecture=architecture, guidance_input=True, guidance_range=(1, 4), **FACTS | more
    )
    return Model(config, network or Exact(until_data=until_data))


@dataclass
class Components:
    """A mixture of which each component is a class; none of them is the mixture."""

    mixture: Mixture

    def velocity(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Return that of the class or, for number 2, of the mixture, (n, 2)."""
        means = self.mixture.means[label.clamp(max=1)]
        own = Gaussian(means, self.mixture.stds[label.clamp(max=1)][:, None]).velocity(x, t)
        return torch.where(like(label == 2, x), self.mixture.velocity(x, t), own)


class Velocities(nn.Module):
    """The guided velocity of a mixture's classes at one time."""

    def __init__(self, components: Components) -> None:
        super().__init__()
        self.components = components

    def forward(self, x, t, label=None, until=None, guidance=None):
        none = self.components.velocity(x, t, torch.full_like(label, 2))
        return none + like(guidance, x) * (self.components.velocity(x, t, label) - none)

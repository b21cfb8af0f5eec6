"""What the tests of teachers share: flows that teach, and what is made with them."""

import torch
from torch import nn

from fewstep.conditions import Conditions
from fewstep.flow import FieldFlow
from fewstep.grids import uniform
from fewstep.pairs import make_pairs, make_trajectories

MEAN, STD = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.3, 1.0, 2.0])
FINE = uniform(32, solver="rk4")


def pairs_of(flow, start=0, stop=200, *, grid=FINE, batch=64, shares=(), shape=(3,), seed=0):
    return make_pairs(
        flow,
        seed=seed,
        start=start,
        stop=stop,
        shape=shape,
        conditions=Conditions(shares),
        grid=grid,
        batch=batch,
    )


def trajectories_of(flow, start=0, stop=20, *, timesteps=(0.0, 0.25, 1.0), fine=FINE, batch=8, shares=()):
    return make_trajectories(
        flow,
        seed=0,
        start=start,
        stop=stop,
        shape=(3,),
        conditions=Conditions(shares),
        timesteps=timesteps,
        fine=fine,
        batch=batch,
    )


def labelled_flow():
    """Carry noise to noise + label."""
    return FieldFlow(lambda x, t, label: label[:, None].to(x).expand_as(x))


def network_flow():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 3))
    return FieldFlow(lambda x, t: network(x))

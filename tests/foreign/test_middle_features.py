"""Networks of others give the features in their middle, on which a critic can be a head."""

import pytest
import torch
from foreign.adopted import NETWORKS, adopted
from own_code import checkout_with

from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods._fake_critic import WithHead
from fewstep.model import ModelConfig, build

PLACES = {"UNet2DModel": "mid_block", "UNet2DConditionModel": "mid_block", "of SDXL": "mid_block"}
MINE = """
from torch import nn

class Mine(nn.Module):
    {said}

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Linear(3, 6), nn.SiLU()), nn.Linear(6, 3)

    def forward(self, x, t):
        return self.last(self.first(x * t[:, None]))
"""


@pytest.mark.parametrize("name", NETWORKS)
def test_the_middle_of_networks_of_diffusers_is_found(name):
    model, samples = adopted(name), 4
    headed = WithHead(model)
    assert headed.place == f"network.{PLACES.get(name, 'transformer_blocks.0')}"
    rows = {} if model.conditions.table is None else model.conditions.table.rows
    given = {name: torch.from_numpy(values) for name, values in rows.items()}
    if model.config.classes:
        given["label"] = torch.arange(samples)
    x, t = torch.randn(samples, *model.config.shape, requires_grad=True), torch.linspace(0.2, 0.8, samples)
    with torch.no_grad():
        assert torch.equal(as_flow(headed)(x, t, **given), as_flow(model)(x, t, **given))
    told = headed.logits_at(x, t, given)
    told.sum().backward()
    assert told.shape == (samples,)
    assert x.grad.flatten(1).abs().sum(dim=1).min() > 0


@pytest.mark.parametrize(("said", "place"), [("features_at = 'first'", "network.first"), ("", None)])
def test_a_network_of_ones_own_says_where_its_features_are(said, place, tmp_path, monkeypatch):
    checkout_with(tmp_path, monkeypatch, "mine", MINE.format(said=said))
    model = build(
        ModelConfig(architecture={"name": "imported", "network": "nets.mine:Mine"}, shape=(3,)), seed=0
    )
    if place is None:
        with pytest.raises(
            UserError, match=r"nets\.mine:Mine does not say where they are; give its class an att"
        ):
            WithHead(model)
        return
    headed = WithHead(model)
    assert headed.place == place
    assert headed.logits_at(torch.randn(5, 3), torch.rand(5), {}).shape == (5,)

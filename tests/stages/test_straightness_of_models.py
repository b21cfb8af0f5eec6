"""How straight the flow of a model is, in memory that does not grow with its samples."""

import pytest
import torch

from fewstep import rows
from fewstep.flow import as_flow
from fewstep.model import ModelConfig, build
from stages.sampling import open_model


def test_straightness_is_a_mean_over_as_many_noises_at_a_time_as_memory_holds(monkeypatch):
    model = build(ModelConfig(architecture={"name": "mlp", "width": 8, "depth": 1}, shape=(6,)), seed=0)
    with torch.no_grad():  # a fresh network's last layer is zero
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    sizes, turns = [], open_model.turns

    def counted(flow, noise, grid, **conditions):
        sizes.append(len(noise))
        return turns(flow, noise, grid, **conditions)

    monkeypatch.setattr(open_model, "turns", counted)
    asked = {"noises": 10, "seed": 0, "steps": 4}
    whole = open_model.straightness_of(as_flow(model), model, **asked)
    monkeypatch.setattr(rows, "PIECE_BYTES", 4 * 6 * 4)
    parts = open_model.straightness_of(as_flow(model), model, **asked)
    assert sizes == [10, 4, 4, 2]
    assert whole.straightness > 0
    assert parts.straightness == pytest.approx(whole.straightness, rel=1e-5)
    assert parts.first_order == pytest.approx(whole.first_order, rel=1e-5)

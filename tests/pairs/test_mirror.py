"""Mirrored pairs: allowed for flows that can't tell left from right, refused for others."""

import pytest
import torch
from oracles import gaussian

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.grids import uniform
from fewstep.pairs import mirror_half, require_equivariant
from fewstep.pairs.mirror import mirror_error

GRID = uniform(8, solver="heun")
SYMMETRIC = torch.tensor([[[0.5, -1.0, -1.0, 0.5], [0.0, 2.0, 2.0, 0.0]]])


def noise(n=20, shape=(1, 2, 4)):
    return randomness.noises("test", randomness.keys_of(0, 0, n), shape)


def flow_to(mean):
    return gaussian(mean, torch.full_like(mean, 0.5)).flow()


def test_a_flow_to_symmetric_images_has_no_mirror_error():
    assert mirror_error(flow_to(SYMMETRIC), noise(), GRID) < 1e-6
    assert require_equivariant(flow_to(SYMMETRIC), noise(), GRID, setting="couple.x.mirror") < 1e-6


def test_the_error_is_relative_to_the_distance_of_two_samples():
    mean = SYMMETRIC.clone()
    mean[0, 0, 0] += 1.0  # off by 1 in two of eight pixels, where two samples are 0.5 sqrt(2) apart
    error = mirror_error(flow_to(mean), noise(400), uniform(64, solver="heun"))
    assert error == pytest.approx((2 / 8) ** 0.5 / 0.5**0.5, rel=0.05)


def test_a_teacher_that_is_not_equivariant_is_refused_with_the_setting():
    lopsided = flow_to(SYMMETRIC + torch.arange(4.0))
    with pytest.raises(
        UserError, match=r"couple\.x\.mirror needs an equivariant teacher: .* differ by 3\.\d"
    ):
        require_equivariant(lopsided, noise(), GRID, setting="couple.x.mirror")


def test_a_flow_that_ends_in_one_point_is_no_reason_to_mirror():
    nowhere = FieldFlow(lambda x, t: -x / (1 - t).clamp(min=1e-6)[:, None, None, None])
    with pytest.raises(UserError, match="equivariant"):
        require_equivariant(nowhere, noise() * 0, GRID, setting="couple.x.mirror")


def test_conditions_reach_the_flow():
    flow = FieldFlow(lambda x, t, label: label[:, None, None, None] * torch.arange(4.0) + 0 * x)
    assert mirror_error(flow, noise(4), GRID, label=torch.zeros(4)) == 0
    assert mirror_error(flow, noise(4), GRID, label=torch.ones(4)) > 0.5


def test_points_have_no_mirror_image():
    with pytest.raises(UserError, match=r"only images can be mirrored, not samples of shape \(3,\)"):
        mirror_error(FieldFlow(lambda x, t: x), noise(shape=(3,)), GRID)


def test_half_of_a_batch_is_mirrored_noise_and_data_alike():
    keys = randomness.keys_of(3, 0, 400)
    batch = {"noise": noise(400), "data": 2 * noise(400), "label": torch.arange(400)}
    batch |= {"states": noise(400).unsqueeze(1).expand(-1, 3, -1, -1, -1), "times": torch.rand(400, 3)}
    found = mirror_half(batch, keys)
    flipped = (found["noise"] == batch["noise"].flip(-1)).flatten(1).all(1)
    kept = (found["noise"] == batch["noise"]).flatten(1).all(1)
    assert (flipped ^ kept).all()
    assert 160 < flipped.sum() < 240
    torch.testing.assert_close(found["data"], 2 * found["noise"])
    assert torch.equal(found["states"][:, 2], found["noise"])
    for name in ("label", "times"):
        assert found[name] is batch[name]
    some = {name: field[7:9] for name, field in batch.items()}
    assert torch.equal(mirror_half(some, keys[7:9])["noise"], found["noise"][7:9])

"""Guided pairs, as InstaFlow makes them: exact for Gaussian classes, and what a reflow makes of them."""

from dataclasses import replace

import pytest
import torch
from oracles import gaussian
from torch import nn

from fewstep import grids, randomness
from fewstep.conditions import Conditions
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods.endpoint import Endpoint
from fewstep.methods.reflow import Reflow
from fewstep.model import Model, ModelConfig
from fewstep.pairs import make_pairs
from fewstep.solvers import integrate

STD = [0.5, 1.5]
MEANS = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.3, 0.4]], dtype=torch.float64)  # the last is the null class


class Classes(nn.Module):
    """Gaussians of one spread, a mean for each class; straight if it is the flow after a reflow."""

    def __init__(self, means=MEANS, *, straight=False):
        super().__init__()
        self.means, self.straight = means, straight
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x, t, label):
        mean, std = self.means[label].to(x), torch.tensor(STD).to(x)
        if self.straight:  # x = t mean + (1 - t + t std) noise, and the velocity is mean + (std - 1) noise
            t = t[:, None].to(x)
            return mean + (std - 1) * (x - t * mean) / (1 - t + t * std)
        oracle = gaussian([0.0, 0.0], STD)
        return mean + oracle.velocity(x - t[:, None].to(x) * mean, t.to(x))


def model(network=None, **config):
    described = ModelConfig(architecture={"name": "mlp"}, shape=(2,), classes=2, **config)
    return Model(described, network or Classes())


def guided_mean(label, w):
    return MEANS[2] + w * (MEANS[label] - MEANS[2])


def pairs(w, n=64):
    made = make_pairs(
        as_flow(model(), guidance=w),
        seed=0,
        start=0,
        stop=n,
        shape=(2,),
        conditions=Conditions((0.5, 0.5)),
        grid=grids.uniform(64, solver="rk4"),
        batch=n,
    )
    return {name: x.double() if x.is_floating_point() else x for name, x in made.items()}


@pytest.mark.parametrize("w", [1.0, 1.5, 4.0])
def test_guided_pairs_end_at_the_mean_that_guidance_moves(w):
    found = pairs(w)
    wanted = guided_mean(found["label"], w) + torch.tensor(STD) * found["noise"]
    torch.testing.assert_close(found["data"], wanted, rtol=0, atol=1e-5)


def test_guidance_is_linear_from_the_null_class_to_the_label_and_beyond():
    x, t, label = torch.randn(6, 2).double(), 0.4, torch.arange(6) % 2
    null, one, two = (as_flow(model(), guidance=w)(x, t, label=label) for w in (0.0, 1.0, 2.0))
    torch.testing.assert_close(null, model()(x, torch.full((6,), t), label=torch.full((6,), 2)))
    torch.testing.assert_close(one, model()(x, torch.full((6,), t), label=label))
    torch.testing.assert_close(two - one, one - null)


@pytest.mark.parametrize("w", [1.0, 4.0])
def test_the_reflowed_model_has_no_loss_on_guided_pairs_and_one_step_is_exact(w):
    found, keys = pairs(w), randomness.keys_of(0, 0, 64)
    means = torch.cat([torch.stack([guided_mean(0, w), guided_mean(1, w)]), MEANS[2:]])
    straight = model(Classes(means, straight=True), baked_guidance=w)
    assert Reflow().loss({"student": straight}, found, "student", 0.0, keys).max() < 1e-8
    one = integrate(as_flow(straight), found["noise"], grids.uniform(1), label=found["label"]).x
    torch.testing.assert_close(one, found["data"], rtol=0, atol=1e-5)
    student = model(straight.network, grid=grids.uniform(1), trained_times="grid", baked_guidance=w)
    assert Endpoint().loss({"student": student}, found, "student", 0.0, keys).max() < 1e-8


def test_guidance_works_after_a_reflow_that_hid_labels_and_is_refused_after_one_that_did_not():
    trained = replace(model().config, **Reflow(label_dropout=0.1).trained())
    assert as_flow(Model(trained, Classes()), guidance=1.5).nfe_per_velocity == 2
    without = replace(model().config, **Reflow().trained())
    with pytest.raises(UserError, match="label_dropout"):
        as_flow(Model(without, Classes()), guidance=1.5)
    with pytest.raises(UserError, match=r"was taught guidance 4\.0"):
        as_flow(Model(replace(without, baked_guidance=4.0), Classes()), guidance=1.5)


@pytest.mark.parametrize("null", ["null of the teacher", "mean of its guided classes"])
@pytest.mark.parametrize(("first", "second"), [(1.5, 2.0), (4.0, 1.5), (2.0, 0.5)])
def test_a_second_guidance_multiplies_the_first_around_the_null_mean(first, second, null):
    """For Gaussian classes of one covariance, the reflowed model's null being one Gaussian of it, too."""
    guided = torch.stack([guided_mean(0, first), guided_mean(1, first)])
    centre = MEANS[2] if null == "null of the teacher" else guided.mean(0)
    straight = model(
        Classes(torch.cat([guided, centre[None]]), straight=True), baked_guidance=first, guidable=True
    )
    noise, label = torch.randn(6, 2).double(), torch.arange(6) % 2
    flow = as_flow(straight, guidance=second)
    assert flow.nfe_per_velocity == 2
    assert straight.config.guidance_shown(second) == first * second
    end = integrate(flow, noise, grids.uniform(1), label=label).x
    spread = torch.tensor(STD) * noise
    torch.testing.assert_close(end, centre + second * (guided[label] - centre) + spread)
    if null == "null of the teacher":  # what the base, guided by the product, makes of the same noise
        torch.testing.assert_close(end, guided_mean(label, first * second) + spread)
        once = integrate(
            as_flow(model(), guidance=first * second), noise, grids.uniform(64, solver="rk4"), label=label
        )
        torch.testing.assert_close(end, once.x, rtol=0, atol=1e-5)


def test_a_reflow_that_hides_labels_gives_the_network_the_null_class():
    seen, batch, keys = [], pairs(1.0, 200), randomness.keys_of(0, 0, 200)
    student = model()
    student.network.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["label"]), with_kwargs=True
    )
    Reflow(label_dropout=0.3).loss({"student": student}, batch, "student", 0.0, keys)
    hidden = seen[0] == 2
    assert 0.2 < hidden.double().mean() < 0.4
    assert seen[0][~hidden].equal(batch["label"][~hidden])

"""Refiners: exact where they should be, counted as declared, and nothing without their teacher."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from oracles import as_model, gaussian
from test_fixed_points import CONVENTIONS, REFLOWED

from fewstep import checkpoint, grids, randomness, refining
from fewstep.conditions import LAST_VELOCITY
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods.refiner import Refiner
from fewstep.model import Model, ModelConfig, build
from fewstep.refining import Blocks
from fewstep.solvers import integrate

ORACLE = gaussian([1.0, -0.5], [0.5, 1.5])
SMALL = {"name": "mlp", "width": 8, "depth": 1}


def teacher(oracle=ORACLE, **convention):
    return as_model(oracle, **convention)


def silent(model, **changes):
    """An untrained refiner, which predicts no change."""
    refiner = refining.refiner_for(replaced(model), SMALL, seed=0)
    refiner.config = replace(refiner.config, **changes)
    return refiner.double()


def replaced(model):
    return Model(replace(model.config, architecture=SMALL), model.network)


def test_states_are_kept_in_float64_where_noise_is_and_the_refiner_computes_in_its_own_type():
    model, refiner = teacher(), silent(teacher())
    noise = torch.randn(4, 2, dtype=torch.float64)
    exact = refining.follow(as_flow(model), refiner, noise, Blocks(1, 1, 1))
    rounded = refining.follow(as_flow(model), refiner.float(), noise, Blocks(1, 1, 1))
    assert rounded.x.dtype == torch.float64
    torch.testing.assert_close(rounded.x, exact.x, rtol=1e-5, atol=1e-6)


class Exact(torch.nn.Module):
    """The refiner of oracle A: linear in the state and the last velocity, at whatever times."""

    def forward(self, x, t, last_velocity, **conditions):
        return ORACLE.velocity(x, t) - last_velocity


def exact_refiner():
    refiner = silent(teacher())
    refiner.network = Exact()
    return refiner


@pytest.mark.parametrize("blocks", [(1, 0, 0), (0, 1, 0), (0, 1, 2), (1, 1, 1), (2, 3, 4)])
def test_on_a_straight_flow_every_kind_of_step_is_exact_at_its_declared_cost(blocks):
    blocks, noise = Blocks(*blocks), REFLOWED.noise(20)
    model = teacher(REFLOWED)
    found = refining.follow(as_flow(model), silent(model), noise, blocks)
    torch.testing.assert_close(found.x, ORACLE.mean + ORACLE.std * noise)
    assert (found.nfe, found.refinements) == (blocks.calls, blocks.refinements)
    assert blocks.cost(0.1) == pytest.approx(found.nfe + 0.1 * found.refinements)


@pytest.mark.parametrize(("path", "prediction"), [("linear", "velocity"), ("vp", "noise"), ("ve", "data")])
def test_costs_are_counted_where_a_path_gives_no_velocity_at_its_ends(path, prediction):
    flow, noise = as_flow(teacher(path=path, prediction=prediction)), ORACLE.noise(3)
    found = refining.follow(flow, exact_refiner(), noise, Blocks(1, 2, 2))
    assert found.nfe == Blocks(1, 2, 2).calls
    assert Blocks(1, 2, 2).refinements - found.refinements == (flow.t_end < 1)


def test_heun_and_pseudo_steps_are_those_of_the_solvers():
    flow, noise = as_flow(teacher()), ORACLE.noise(20)
    for blocks, solver in ((Blocks(5, 0, 0), "heun"), (Blocks(0, 5, 0), "heun_pc")):
        found = refining.follow(flow, silent(teacher()), noise, blocks)
        expected = integrate(flow, noise, grids.uniform(5, solver=solver))
        assert found.x.equal(expected.x)
        assert found.nfe == expected.nfe


def test_with_an_exact_refiner_refined_steps_have_second_order():
    flow, noise, errors = as_flow(teacher()), ORACLE.noise(200), []
    for steps in (16, 32, 64):
        found = refining.follow(flow, exact_refiner(), noise, Blocks(1, 1, steps - 2)).x
        errors.append(float((found - ORACLE.position(noise, 1.0)).norm()))
    assert [math.log2(coarse / fine) for coarse, fine in pairwise(errors)] == pytest.approx([2, 2], abs=0.25)


@pytest.mark.parametrize(("path", "prediction"), CONVENTIONS)
def test_the_exact_refiner_has_no_loss_and_is_linear_in_state_and_velocity(path, prediction):
    """Oracle A: change = a(t) (x - t mean) - (v - mean), a of the Gaussian's velocity; on any path."""
    model, refiner = teacher(path=path, prediction=prediction), exact_refiner()
    batch, keys = {"data": ORACLE.sample(50)}, randomness.keys_of(0, 0, 50)
    nets = {"student": refiner, "teacher": model}
    assert Refiner().loss(nets, batch, "student", 0.0, keys).max() < 1e-9
    assert Refiner().loss(nets | {"student": silent(model)}, batch, "student", 0.0, keys).min() > 0
    x, t, v = torch.randn(3, 2).double(), torch.tensor([0.2, 0.5, 0.9]).double(), torch.randn(3, 2).double()
    a = (t[:, None] * ORACLE.std**2 - (1 - t[:, None])) / (
        (1 - t[:, None]) ** 2 + (t[:, None] * ORACLE.std) ** 2
    )
    expected = a * (x - t[:, None] * ORACLE.mean) - (v - ORACLE.mean)
    torch.testing.assert_close(refining.change(refiner, x, t, v), expected)


def test_a_linear_refiner_fitted_at_one_time_and_step_reaches_no_loss(monkeypatch):
    """Oracle A: the change is linear in the state and the last velocity, for fixed times."""

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2).double()

        def forward(self, x, t, last_velocity, **conditions):
            return self.layer(torch.cat([x, last_velocity], dim=1))

    monkeypatch.setattr(randomness, "uniforms", lambda stream, keys: torch.full((len(keys),), 0.4).double())
    refiner, batch, keys = silent(teacher()), {"data": ORACLE.sample(100)}, randomness.keys_of(0, 0, 100)
    refiner.network = Linear()
    nets = {"student": refiner, "teacher": teacher()}
    optimiser = torch.optim.LBFGS(
        refiner.network.parameters(),
        max_iter=300,
        tolerance_grad=0,
        tolerance_change=0,  # else it stops before it is there
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        loss = Refiner().loss(nets, batch, "student", 0.0, keys).mean()
        loss.backward()
        return loss

    assert closure() > 1e-3
    for _ in range(3):
        optimiser.step(closure)
    assert closure() < 1e-20


def test_steps_of_a_refiner_stay_where_the_teacher_has_a_velocity():
    asked = []

    class Listening(Exact):
        def forward(self, x, t, last_velocity, **conditions):
            asked.append(t)
            return super().forward(x, t, last_velocity)

    model, refiner = teacher(path="vp", prediction="data"), exact_refiner()
    refiner.network = Listening()
    batch, keys = {"data": ORACLE.sample(2000)}, randomness.keys_of(0, 0, 2000)
    Refiner(span=1.0).loss({"student": refiner, "teacher": model}, batch, "student", 0.0, keys)
    flow = as_flow(model)
    assert flow.t_start <= asked[0].min()
    assert asked[0].max() <= flow.t_end
    assert (asked[0] == flow.t_end).any()


def test_a_refiner_is_refused_without_its_teacher_and_a_flow_as_a_refiner(tmp_path):
    model = build(ModelConfig(architecture=SMALL, shape=(2,), classes=3), seed=0)
    refiner = refining.refiner_for(model, SMALL | {"width": 4}, seed=0)
    checkpoint.save_model(tmp_path / "refiner", refiner)
    read = checkpoint.load_model(tmp_path / "refiner")
    assert read.config == refiner.config
    assert read.config.refines
    with pytest.raises(UserError, match=r"is a refiner, .* is no flow without it"):
        as_flow(read)
    with pytest.raises(UserError, match="this model is no refiner"):
        refining.change(model, torch.zeros(1, 2), 0.5, torch.zeros(1, 2))
    with pytest.raises(UserError, match="is a refiner"):
        Refiner().networks(refiner, lambda name: refiner)
    with pytest.raises(UserError, match="trains a refiner, which is given the last velocity"):
        Refiner().networks(model, lambda name: model)
    with pytest.raises(UserError, match="must make the same kind of samples"):
        Refiner().networks(refiner, lambda name: teacher())


def test_a_label_reaches_teacher_and_refiner():
    model = build(ModelConfig(architecture=SMALL, shape=(1, 8, 8), classes=3), seed=0)
    refiner = refining.refiner_for(model, {"name": "unet", "width": 4, "multipliers": [1, 2]}, seed=0)
    with torch.no_grad():
        for weight in (*model.parameters(), *refiner.parameters()):
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    noise = torch.randn(2, 1, 8, 8)
    one, other = (
        refining.follow(as_flow(model), refiner, noise, Blocks(0, 1, 1), label=torch.tensor(label)).x
        for label in ([0, 1], [0, 2])
    )
    torch.testing.assert_close(one[0], other[0])
    assert not torch.allclose(one[1], other[1])


@pytest.mark.parametrize("blocks", [(0, 0, 3), (-1, 2, 0), (0, 1, -1)])
def test_blocks_that_can_not_be_are_refused(blocks):
    told = f"blocks {' '.join(map(str, blocks))}: the first or second number must be 1 or more, and none"
    with pytest.raises(UserError, match=told):
        Blocks(*blocks)


def test_times_must_be_as_many_as_the_steps():
    with pytest.raises(UserError, match="are 3 steps, but the times are of 2"):
        refining.grid_of(as_flow(teacher()), Blocks(1, 1, 1), (0.0, 0.5, 1.0))


@pytest.mark.parametrize(("budget", "ratio"), [(2, 0.1), (4, 0.25), (7.5, 0.5)])
def test_affordable_blocks_are_within_the_budget_and_leave_no_call_of_the_flow(budget, ratio):
    found = refining.affordable(budget, ratio, most_refined=3)
    assert found
    assert all(blocks.cost(ratio) <= budget + 1e-9 for blocks in found)
    assert all(replace(b, pseudo=b.pseudo + 1).cost(ratio) > budget for b in found)
    assert max(blocks.refined for blocks in found) <= 3
    with pytest.raises(UserError, match="a budget must be 2 or more"):
        refining.affordable(1, ratio)


def test_the_chosen_blocks_end_nearest_to_the_truth():
    flow, noise = as_flow(teacher()), ORACLE.noise(100)
    truth = ORACLE.position(noise, 1.0)
    best, error = refining.choose(flow, exact_refiner(), noise, truth, budget=4, ratio=0.05)
    assert best.refined == 8  # an exact refiner is worth all that it costs
    plain, without = refining.choose(flow, silent(teacher()), noise, truth, budget=4, ratio=10.0)
    assert plain.refined == 0
    assert error < without


def test_weights_of_a_refiner_depend_on_the_seed_alone_and_it_is_given_a_velocity():
    model = build(ModelConfig(architecture=SMALL, shape=(2,)), seed=0)
    one, same, other = (refining.refiner_for(model, SMALL, seed=seed) for seed in (1, 1, 2))
    weights = [refiner.network.first.weight for refiner in (one, same, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])
    assert one.config.conditions == {LAST_VELOCITY: (2,)}
    with pytest.raises(UserError, match="give it the teacher of this student"):
        refining.refiner_for(
            build(replace(model.config, grid=grids.uniform(2), trained_times="grid"), seed=0), SMALL, seed=0
        )

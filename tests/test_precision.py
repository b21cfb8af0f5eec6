"""States and times are in float32 or better, whatever a network computes in, and finite."""

import pytest
import torch
from oracles import gaussian
from torch import nn

from fewstep import grids, solvers
from fewstep.errors import UserError
from fewstep.finite import NotFiniteError
from fewstep.flow import FieldFlow, as_flow
from fewstep.grids import Grid
from fewstep.model import ModelConfig, build
from fewstep.reference import reference
from fewstep.searching.noise import Given

HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("solver", solvers.registry.available("fewstep.solvers"))
def test_noise_in_half_precision_is_followed_in_float32(half, solver):
    flow, noise = gaussian([0.0], [0.5]).flow(), torch.randn(64, 1).to(half)
    found = solvers.integrate(flow, noise, grids.uniform(256, solver=solver)).x
    assert found.dtype == torch.float32
    assert torch.equal(found, solvers.integrate(flow, noise.float(), grids.uniform(256, solver=solver)).x)


@pytest.mark.parametrize("half", HALVES)
def test_a_velocity_in_half_precision_is_added_up_in_float32(half):
    asked = []

    def velocity(x, t):
        asked.append((x.dtype, t.dtype))
        return torch.full_like(x, 1.0, dtype=half)

    found = solvers.integrate(FieldFlow(velocity), torch.zeros(2, 3), grids.uniform(1000)).x
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.ones(2, 3), rtol=0, atol=1e-4)  # bfloat16 would stop at .5
    assert set(asked) == {(torch.float32, torch.float32)}


def test_a_flow_of_the_users_may_answer_in_half_precision():
    class Half(FieldFlow):
        def __call__(self, x, t, **conditions):
            return super().__call__(x, t, **conditions).bfloat16()

    found = solvers.integrate(Half(lambda x, t: torch.ones_like(x)), torch.zeros(2, 3), grids.uniform(1000)).x
    torch.testing.assert_close(found, torch.ones(2, 3), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("path", "prediction"), [("linear", "velocity"), ("cosine", "noise"), ("vp", "data")]
)
def test_a_network_in_bfloat16_has_state_and_time_in_float32(path, prediction):
    architecture = {"name": "mlp", "width": 16, "depth": 1}
    config = ModelConfig(architecture=architecture, shape=(3,), path=path, prediction=prediction)
    model = build(config, seed=0).to(torch.bfloat16).eval()
    times = []
    model.network.register_forward_pre_hook(lambda network, given: times.append(given[1].dtype))
    flow, noise = as_flow(model), torch.randn(8, 3)
    grid = grids.spaced("uniform", 16, start=flow.t_start, end=flow.t_end, solver="euler")
    assert solvers.integrate(flow, noise, grid).x.dtype == torch.float32
    assert flow(noise.double(), 0.5).dtype == torch.float64
    assert set(times) <= {torch.float32, torch.float64}


def test_float64_stays():
    flow, noise = gaussian([0.0], [0.5]).flow(), torch.randn(4, 1, dtype=torch.float64)
    assert solvers.integrate(flow, noise, grids.uniform(3)).x.dtype == torch.float64
    assert (
        solvers.integrate(flow, torch.zeros(4, 1, dtype=torch.int64), grids.uniform(3)).x.dtype
        == torch.float32
    )


def test_searches_and_references_get_float32():
    noise = torch.randn(8, 2).bfloat16()
    ((given, _),) = Given(noise, {}, {"search": 8}, 8).batches("search", 8)
    assert given.dtype == torch.float32
    assert reference(gaussian([0.0, 0.0], [1.0, 0.5]).flow(), noise, tolerance=1e-5).x.dtype == torch.float32


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("solver", "step", "time"), [("euler", 3, "0.75"), ("heun", 2, "0.5"), ("ab2", 3, "0.75")]
)
def test_the_step_and_time_at_which_a_state_is_not_finite_are_reported(bad, solver, step, time):
    flow = FieldFlow(lambda x, t: torch.where(t >= 0.5, bad, 1.0)[:, None].expand_as(x))
    with pytest.raises(NotFiniteError) as caught:
        solvers.integrate(flow, torch.zeros(2, 3), grids.uniform(4, solver=solver))
    told = f"at t = {time} the state is not finite after step {step} of 4"
    assert str(caught.value) == f"{told}; take more steps or less guidance, or another model"


def test_a_state_that_overflows_is_refused():
    with pytest.raises(UserError, match=r"at t = 1 the state is not finite after step 2 of 2"):
        solvers.integrate(FieldFlow(lambda x, t: x * 3e38), torch.ones(2, 1), Grid((0.0, 0.5, 1.0)))


def test_noise_that_is_not_finite_is_refused():
    noise = torch.tensor([[0.0], [torch.nan]])
    with pytest.raises(
        NotFiniteError, match="at t = 0 the state is not finite in the noise; take other noise"
    ) as caught:
        solvers.integrate(gaussian([0.0], [0.5]).flow(), noise, grids.uniform(2))
    assert caught.value.rows == [1]


def test_a_network_without_weights_gets_the_state_as_it_is():
    class Still(nn.Module):
        def forward(self, x, t):
            return torch.zeros_like(x)

    from fewstep.model import Model

    flow = as_flow(Model(ModelConfig(architecture={"name": "mlp"}, shape=(2,)), Still()))
    assert flow(torch.ones(3, 2, dtype=torch.float64), 0.5).dtype == torch.float64

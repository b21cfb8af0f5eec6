"""Flow map distillation with a normalised tangent, and a derivative whose factor rises from 0."""

import pytest
import torch
from flow_maps import as_flow_map
from oracles import as_model, gaussian

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods import _spans
from fewstep.methods.flow_map_distillation import IDENTITIES, FlowMapDistillation

ORACLE, OTHER = gaussian([1.0, -0.5], [0.5, 1.5]), gaussian([3.0, -0.5], [0.5, 0.4])
N = 200
KEYS = randomness.keys_of(0, 0, N)


def nets(student=OTHER):
    return {"student": as_flow_map(student), "teacher": as_model(ORACLE)}


def test_without_the_derivative_the_target_is_the_teachers_velocity_for_every_end():
    method, x, t = (
        FlowMapDistillation(identity="eulerian", exact=True),
        ORACLE.noise(N),
        torch.rand(N).double(),
    )
    until = t + (1 - t) * torch.rand(N).double()
    flows = [as_flow(model) for model in nets().values()]
    none, half, whole = (method.target(*flows, x, t, until, {}, KEYS, warm) for warm in (0.0, 0.5, 1.0))
    torch.testing.assert_close(none, ORACLE.velocity(x, t), rtol=0, atol=1e-14)
    torch.testing.assert_close(half, (none + whole) / 2, rtol=0, atol=1e-12)
    assert (whole - none).abs().max() > 0.1


def test_the_factor_rises_over_the_warmup():
    warming, plain = (
        FlowMapDistillation(identity="eulerian", exact=True, warmup=share) for share in (0.5, 0.0)
    )
    batch = {"data": ORACLE.sample(N)}
    at = [warming.loss(nets(), batch, "student", progress, KEYS) for progress in (0.0, 0.25, 0.5, 1.0)]
    settled = plain.loss(nets(), batch, "student", 0.0, KEYS)
    assert torch.equal(at[2], settled)
    assert torch.equal(at[3], settled)
    assert not torch.allclose(at[0], at[1])
    assert not torch.allclose(at[1], settled)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_normalised_tangent_has_the_direction_of_the_error_and_at_most_length_1(identity):
    batch = {"data": ORACLE.sample(N)}
    method, plain = (FlowMapDistillation(identity=identity, normalise=on) for on in (True, False))
    losses, squares = (each.loss(nets(), batch, "student", 1.0, KEYS) for each in (method, plain))
    size = squares.sqrt()  # of g
    torch.testing.assert_close(losses, (size / (size + _spans.SOFT)) ** 2)
    assert losses.max() < 1
    assert method.loss(nets(ORACLE), batch, "student", 1.0, KEYS).mean() < 1e-2


def test_its_gradient_is_that_of_the_tangent():
    method = FlowMapDistillation(identity="lagrangian", normalise=True)
    found = nets()
    student = found["student"]
    shift = torch.zeros(N, 2, dtype=torch.float64, requires_grad=True)
    student.register_forward_hook(lambda module, args, output: output + shift)
    losses = method.loss(found, {"data": ORACLE.sample(N)}, "student", 1.0, KEYS)
    (gradient,) = torch.autograd.grad(losses.sum(), shift)
    torch.testing.assert_close(
        gradient.square().sum(dim=1), 2 * losses.detach()
    )  # a mean over two dimensions
    assert as_flow(student).velocity_until == "any"


@pytest.mark.parametrize("identity", ["lagrangian", "semigroup"])
def test_a_warmup_without_that_derivative_is_refused(identity):
    with pytest.raises(UserError, match=f"warmup is of the derivative .*, and identity {identity}"):
        FlowMapDistillation(identity=identity, warmup=0.1)

"""Other forms of the loss of MeanFlow have its gradient."""

import torch
from recorded import student_of

from fewstep import derivatives, randomness
from fewstep.flow import as_flow
from fewstep.methods import _spans
from fewstep.methods.meanflow import Meanflow
from fewstep.paths import like

KEYS = randomness.keys_of(0, 0, 64)


def test_the_velocity_that_an_average_implies_and_the_expanded_square_have_its_gradient():
    """Forms of improved MeanFlow (arXiv 2512.02012) and alpha-Flow (2510.20771), with the same tangent."""
    method = Meanflow(power=0.0, exact=True)
    model = student_of(method).double()
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            noise = randomness.noises("weights", randomness.keys_of(number, 0, weight.numel()), (1,))
            weight.add_(0.3 * noise.reshape(weight.shape))
    noise, data = (randomness.noises(name, KEYS, (2,)).double() for name in ("noise", "data"))
    flow = as_flow(model)
    shares = {name: getattr(method, name) for name in ("to_data", "from_noise", "at_once")}
    t, until = (time.double() for time in _spans.draw_spans(flow, KEYS, **shares))
    x, velocity, span = _spans.on_chord(noise, data, t), data - noise, like(until - t, noise)
    u = _spans.average_velocity(flow, {})
    change = derivatives.along_flow(u, x, t, until, velocity, exact=True)
    average = u(x, t, until)
    losses = {
        "average": method.loss({"student": model}, {"noise": noise, "data": data}, "student", 0.0, KEYS),
        "velocity": (average - span * change - velocity).square().mean(dim=1),
        "expanded": ((average - velocity).square() - 2 * span * average * change).mean(dim=1),
    }
    weights = list(model.parameters())
    first, *others = (
        torch.autograd.grad(loss.sum(), weights, retain_graph=True, materialize_grads=True)
        for loss in losses.values()
    )
    assert max(float(part.abs().max()) for part in first) > 0.1
    for other in others:
        for one, two in zip(first, other, strict=True):
            torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-12)

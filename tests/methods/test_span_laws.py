"""The laws of where the steps of MeanFlow start and end."""

import pytest
import torch
from recorded import student_of

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.methods import _spans
from fewstep.methods.meanflow import Meanflow

N = 4000
LAWS = {  # cumulative distributions
    ("uniform", 0.0): lambda t: t,
    ("logit_normal", 0.0): lambda t: torch.special.ndtr(torch.logit(t)),
    ("logit_normal", 0.4): lambda t: torch.special.ndtr(torch.logit(t) - 0.4),
}


def distance(times, law):
    """Return the distance of Kolmogorov between samples and a cumulative distribution."""
    reached = torch.arange(1, len(times) + 1) / len(times)
    expected = law(times.sort().values)
    return float(torch.maximum(reached - expected, expected - reached + 1 / len(times)).max())


@pytest.mark.parametrize("named", list(LAWS), ids=str)
def test_starts_and_ends_are_two_times_of_the_law_in_order(named, monkeypatch):
    drawn, draw = [], _spans.draw_spans

    def drawing(*args, **options):
        drawn.append(draw(*args, **options | {"at_once": 0.0}))
        return drawn[-1]

    monkeypatch.setattr(_spans, "draw_spans", drawing)
    model = student_of(Meanflow())
    batch = {name: torch.zeros(N, 2) for name in ("noise", "data")}
    method = Meanflow(times=named[0], location=named[1])
    method.loss({"student": model}, batch, "student", 0.0, randomness.keys_of(0, 0, N))
    t, until = drawn[0]
    assert (t <= until).all()
    law = LAWS[named]
    bound = 1.63 / N**0.5  # passed by one in a hundred
    assert distance(t, lambda x: 1 - (1 - law(x)) ** 2) < bound
    assert distance(until, lambda x: law(x) ** 2) < bound


def test_a_location_is_of_a_logit_normal_law_alone():
    for law in ("uniform", "u_shaped"):
        with pytest.raises(UserError, match=f"location 0.4 is of times logit_normal, not {law}"):
            Meanflow(times=law, location=0.4)
    with pytest.raises(UserError, match="location must be a finite number"):
        Meanflow(times="logit_normal", location=float("nan"))
    with pytest.raises(UserError, match="unknown time law 'logit_norml'; did you mean 'logit_normal'"):
        Meanflow(times="logit_norml")

"""MeanFlow with guidance: the mix of velocities, which is the tangent too, and conditions that are hidden."""

from dataclasses import replace

import pytest
import torch

from fewstep import grids, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods import _spans
from fewstep.methods._hidden_conditions import hidden_of
from fewstep.methods.meanflow import Meanflow
from fewstep.model import Model, ModelConfig

N = 200
KEYS = randomness.keys_of(0, 0, N)
METHOD = Meanflow(learn_from="data", label_dropout=0.25, guidance=3.0, mixing=0.6, power=0, exact=True)
SCALES = torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64)  # of two classes and of none


class Scaled(torch.nn.Module):
    """An average velocity that is a multiple of x, another one for each class."""

    def forward(self, x, t, label=None, until=None):
        return SCALES[label][:, None] * x


def scaled():
    architecture = {"name": "scaled", "second_time": True, "slow_times": True}
    return Model(ModelConfig(architecture=architecture, shape=(2,), classes=2), Scaled())


@pytest.fixture
def batch():
    noise, data = (randomness.noises(name, KEYS, (2,)).double() for name in ("noise", "data"))
    return {"noise": noise, "data": data, "label": KEYS[:, 1] % 2}


def places(batch):
    """Return points, the lengths of steps from there, and whose conditions are hidden, in columns."""
    shares = {"to_data": 0.0, "from_noise": 0.0, "at_once": 0.25}
    t, until = (time.double() for time in _spans.draw_spans(as_flow(scaled()), KEYS, **shares))
    x = _spans.on_chord(batch["noise"], batch["data"], t)
    return x, (until - t)[:, None], hidden_of(0.25, KEYS)[:, None]


def test_the_mix_is_the_tangent_too_and_hidden_conditions_have_neither(batch):
    x, span, hidden = places(batch)
    chord, own = batch["data"] - batch["noise"], SCALES[batch["label"]][:, None]
    mixed = 0.4 * 3 * chord + 0.6 * own * x + (1 - 0.4 * 3 - 0.6) * SCALES[2] * x
    velocity, own = torch.where(hidden, chord, mixed), torch.where(hidden, SCALES[2], own)
    target = velocity + span * own * velocity  # the derivative along w of a multiple of x is that of w
    found = METHOD.loss({"student": scaled()}, batch, "student", 0.0, KEYS)
    torch.testing.assert_close(found, (own * x - target).square().mean(dim=1), rtol=1e-12, atol=1e-12)
    assert 0.15 < hidden.double().mean() < 0.35


class Constant(torch.nn.Module):
    """What velocity `1` of every chord, guided by 3 away from `-1`, is: 1 + 2 * 2."""

    def forward(self, x, t, label=None, until=None):
        return torch.where(label[:, None] == 2, -1.0, 5.0).expand_as(x).double()


def test_nothing_is_left_to_learn_where_the_student_is_the_guided_velocity(batch):
    model = Model(scaled().config, Constant())
    losses = METHOD.loss({"student": model}, batch | {"data": batch["noise"] + 1}, "student", 0.0, KEYS)
    hidden = hidden_of(0.25, KEYS)
    assert losses[~hidden].max() < 1e-20
    torch.testing.assert_close(losses[hidden], torch.full_like(losses[hidden], 4.0))  # (-1 - 1)^2


def test_without_guidance_hidden_conditions_alone_make_a_difference(batch):
    plain, dropping = (
        replace(METHOD, guidance=1.0, label_dropout=share).loss(
            {"student": scaled()}, batch, "student", 0, KEYS
        )
        for share in (0.0, 0.25)
    )
    hidden = hidden_of(0.25, KEYS)
    assert torch.equal(plain[~hidden], dropping[~hidden])
    assert (plain[hidden] - dropping[hidden]).abs().min() > 1e-6


def test_the_student_says_what_it_was_taught():
    assert METHOD.trained()["baked_guidance"] == 3.0
    facts = replace(METHOD, guidance=1.0).trained()
    assert (facts["guidable"], "baked_guidance" in facts) == (True, False)
    assert METHOD.needs.conditions
    assert not Meanflow().needs.conditions
    config = ModelConfig(architecture={"name": "mlp"}, shape=(2,), grid=grids.uniform(1))
    with pytest.raises(UserError, match=r"label_dropout 0\.25 needs a model with classes"):
        METHOD.check_labels(bool(config.condition_names))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"guidance": 2.0}, "guidance 2.0 needs learn_from data and a label_dropout above 0"),
        ({"guidance": 2.0, "label_dropout": 0.1}, "guidance 2.0 needs learn_from data"),
        ({"guidance": float("nan")}, "guidance must be a finite number"),
        ({"mixing": 1.0}, "mixing must be from 0 up to but not 1"),
        ({"label_dropout": 1.5}, "label_dropout is a share from 0 to 1"),
    ],
)
def test_options_that_can_not_be(options, told):
    with pytest.raises(UserError, match=told):
        Meanflow(**options)

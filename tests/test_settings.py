import re

import pytest

from fewstep.errors import UserError
from fewstep.settings import MonitorSettings, TrainSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("warmup", -1),
        ("warmup", 11),
        ("decay", "linear"),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9,)),
        ("clip", 0.0),
        ("clip", float("nan")),
        ("ema", 1.0),
        ("precision", "float16"),
        ("frozen", "float16"),
    ],
)
def test_impossible_values_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"{name} must be .*, got"):
        TrainSettings(**{"steps": 10, name: value})


def test_frozen_weights_in_half_need_networks_that_compute_in_half():
    with pytest.raises(UserError, match="frozen bfloat16 needs precision: bfloat16; set that too"):
        TrainSettings(steps=10, frozen="bfloat16")


@pytest.mark.parametrize(
    ("name", "value"), [("samples", 99), ("looks", 0), ("patience", 0), ("nfe", ()), ("nfe", (0, 1))]
)
def test_a_monitor_that_cannot_look_is_refused_by_name(name, value):
    written = str(list(value) if isinstance(value, tuple) else value)
    with pytest.raises(UserError, match=f"{name} must be .*, got {re.escape(written)}$"):
        MonitorSettings(**{name: value})
    assert MonitorSettings(patience=1).patience == 1


def test_the_rate_rises_then_falls_to_zero():
    settings = TrainSettings(steps=100, learning_rate=2.0, warmup=10)
    assert [settings.rate(step) for step in (0, 4, 9, 10, 55, 100)] == pytest.approx([0.2, 1, 2, 2, 1, 0])
    rates = [settings.rate(step) for step in range(10, 101)]
    assert rates == sorted(rates, reverse=True)
    constant = TrainSettings(steps=100, learning_rate=2.0, decay="constant")
    assert {constant.rate(step) for step in range(101)} == {2.0}


def test_lists_from_json_become_tuples():
    assert [type(beta) for beta in TrainSettings(steps=1, betas=[0, 0.99]).betas] == [float, float]
    assert TrainSettings(steps=1, betas=[0.5, 0.9]) == TrainSettings(steps=1, betas=(0.5, 0.9))

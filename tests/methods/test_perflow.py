"""Phased with `compare: velocity`, PeRFlow's regression: reflow in one phase, and exact steps in several."""

import pytest
import torch
from oracles import as_model
from test_fixed_points import ORACLE, Phases, Shifted

from fewstep import grids, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods.phased import Phased
from fewstep.methods.reflow import Reflow
from fewstep.model import ModelConfig, build
from fewstep.solvers import integrate

N = 50
KEYS = randomness.keys_of(0, 0, N)


def in_phases(steps, count):
    """Return a model that follows the chords of phases of an exact flow without error, and those states."""
    grid = grids.uniform(steps)
    oracle = Phases(ORACLE.mean, ORACLE.std)
    object.__setattr__(oracle, "edges", grid.times[:: steps // count])
    model = as_model(oracle)
    model.config = ModelConfig(**{**vars(model.config), "grid": grid, "trained_times": "grid"})
    noise = ORACLE.noise(N)
    states = torch.stack([ORACLE.position(noise, t) for t in grid.times], dim=1)
    return model, {"states": states}


def test_twelve_steps_in_four_phases_are_exact_and_leave_nothing_to_learn():
    method = Phased(steps_per_phase=3, compare="velocity", distance="l2")
    model, batch = in_phases(12, 4)
    assert method.loss({"student": model}, batch, "student", 0.0, KEYS).max() < 1e-28
    end = integrate(as_flow(model), batch["states"][:, 0], model.config.grid).x
    torch.testing.assert_close(end, batch["states"][:, -1], rtol=1e-15, atol=1e-15)
    off = Shifted(model, N)
    off.shift.data += 0.1
    losses = method.loss({"student": off}, batch, "student", 0.0, KEYS)
    torch.testing.assert_close(losses, torch.full_like(losses, 0.01))  # at any place in a phase of any length


@pytest.mark.parametrize("distance", ["l2", "huber"])
def test_with_one_phase_it_is_the_loss_of_reflow(distance, monkeypatch):
    config = ModelConfig(
        architecture={"name": "mlp", "width": 8, "depth": 1}, shape=(2,), grid=grids.uniform(1)
    )
    model = build(config, seed=0).double()
    for parameter in model.parameters():
        parameter.data += 0.1
    drawn = randomness.uniforms("any", KEYS)
    monkeypatch.setattr(randomness, "uniforms", lambda stream, keys: drawn)  # the same times for both
    noise, data = ORACLE.noise(N), ORACLE.sample(N)
    phased, end = (
        Phased(compare=compare, distance=distance).loss(
            {"student": model}, {"states": torch.stack([noise, data], dim=1)}, "student", 0.0, KEYS
        )
        for compare in ("velocity", "end")
    )
    pairs = {"noise": noise, "data": data}
    reflow = Reflow(times="uniform", distance=distance).loss({"student": model}, pairs, "student", 0.0, KEYS)
    torch.testing.assert_close(phased, reflow, rtol=1e-12, atol=1e-15)
    if distance == "l2":  # what ends compare falls with the square of what is left of the phase
        torch.testing.assert_close(end, (1 - drawn.double()) ** 2 * reflow, rtol=1e-12, atol=1e-15)


def test_what_can_not_be_compared_is_named():
    with pytest.raises(UserError, match="unknown compare 'velocty'; did you mean 'velocity'"):
        Phased(compare="velocty")

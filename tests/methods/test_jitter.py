"""Straightening with jittered timesteps: which times are taken, and what is learnt there."""

from dataclasses import replace

import pytest
import torch
from oracles import as_model, gaussian

from fewstep import grids, randomness
from fewstep.errors import UserError
from fewstep.grids import Grid, reach
from fewstep.methods.straighten import Straighten
from fewstep.model import Model, ModelConfig
from fewstep.training.timesteps import near_timesteps

ORACLE = gaussian([1.0, -0.5], [0.5, 1.5])
TIMESTEPS = (0.0, 0.25, 0.75, 1.0)
STORED = grids.uniform(40).times


def trajectories(n):
    """The exact flow's states at all stored times, and these times."""
    noise = ORACLE.noise(n)
    states = torch.stack([ORACLE.position(noise, t) for t in STORED], dim=1)
    return {"states": states, "times": torch.tensor(STORED, dtype=states.dtype).expand(n, -1)}


def straight(n):
    """States of a flow that moves each noise by 2 in all, evenly."""
    noise = ORACLE.noise(n)
    states = torch.stack([noise + 2 * t for t in STORED], dim=1)
    return {"states": states, "times": torch.tensor(STORED, dtype=states.dtype).expand(n, -1)}


def student(**changes):
    model = as_model(ORACLE)
    config = replace(model.config, grid=Grid(TIMESTEPS), trained_times="grid", **changes)
    return Model(config, model.network)


def test_jittered_times_are_near_all_timesteps_and_the_ends_stay():
    keys = randomness.keys_of(0, 0, 500)
    batch = near_timesteps(TIMESTEPS, 0.3, trajectories(500), keys)
    for timestep in range(len(TIMESTEPS)):
        low, high = reach(TIMESTEPS, timestep, 0.3)
        seen = {round(t, 6) for t in batch["times"][:, timestep].tolist()}
        assert seen == {round(t, 6) for t in STORED if low - 1e-9 <= t <= high + 1e-9}
    assert (batch["times"].diff(dim=1) > 0).all()
    at = batch["times"][:, 1].tolist()
    expected = [ORACLE.position(ORACLE.noise(500)[i : i + 1], t)[0] for i, t in enumerate(at[:20])]
    torch.testing.assert_close(batch["states"][:20, 1], torch.stack(expected))


@pytest.mark.parametrize("on_policy", [True, False])
def test_nothing_is_left_to_learn_where_the_flow_is_straight(on_policy):
    class Even(torch.nn.Module):
        def forward(self, x, t):
            return torch.full_like(x, 2.0)

    model = Model(
        ModelConfig(architecture={"name": "even"}, shape=(2,), grid=Grid(TIMESTEPS), trained_times="grid"),
        Even(),
    )
    keys = randomness.keys_of(0, 0, 50)
    method = Straighten(jitter=0.3, on_policy=on_policy)
    assert method.loss({"student": model}, straight(50), "student", 0.0, keys).max() < 1e-12


@pytest.mark.parametrize("on_policy", [True, False])
def test_the_loss_of_a_sample_is_its_own(on_policy):
    method, keys = Straighten(jitter=0.2, on_policy=on_policy), randomness.keys_of(3, 0, 5)
    five = method.loss({"student": student()}, trajectories(5), "student", 0.0, keys)
    three = {name: part[:3] for name, part in trajectories(5).items()}
    torch.testing.assert_close(method.loss({"student": student()}, three, "student", 0.0, keys[:3]), five[:3])
    other = method.loss({"student": student()}, trajectories(5), "student", 0.0, randomness.keys_of(4, 0, 5))
    assert not torch.equal(other, five)  # other timesteps


def test_a_student_says_how_it_was_trained():
    kinds = {"trained_times": "grid", "equal_steps": None, "map_preserving": True, "guidable": False}
    assert Straighten().trained() == kinds | {"jitter": 0.0}
    assert student(jitter=0.2).config.jitter == 0.2


@pytest.mark.parametrize("jitter", [-0.1, 0.5, float("nan")])
def test_impossible_jitter_is_refused(jitter):
    with pytest.raises(UserError, match=r"jitter must be from 0 up to but not 0\.5"):
        Straighten(jitter=jitter)
    with pytest.raises(UserError, match=r"jitter must be from 0 up to but not 0\.5"):
        student(jitter=jitter)
    with pytest.raises(
        UserError, match=r"is of students of a grid; got 0\.2 for a model trained at times: all"
    ):
        ModelConfig(architecture={"name": "mlp"}, shape=(2,), jitter=0.2)


def test_a_jitter_too_small_to_reach_another_state_is_refused():
    with pytest.raises(
        UserError, match=r"jitter 0\.01 moves no timestep: the states of the trajectories are further"
    ):
        near_timesteps(TIMESTEPS, 0.01, trajectories(2), randomness.keys_of(0, 0, 2))


def test_trajectories_without_a_state_near_a_timestep_are_refused():
    thin = {"states": torch.zeros(2, 2, 2), "times": torch.tensor([[0.0, 1.0]]).expand(2, -1)}
    with pytest.raises(UserError, match=r"no state near the timestep at 0\.25; make them again"):
        near_timesteps(TIMESTEPS, 0.1, thin, randomness.keys_of(0, 0, 2))

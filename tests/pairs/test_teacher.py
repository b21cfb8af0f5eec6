import pytest
import torch
from oracles import gaussian
from teaching import FINE, MEAN, STD, labelled_flow, network_flow, pairs_of, trajectories_of

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.grids import Grid
from fewstep.pairs import check_pairs, invert_pairs, select_timesteps
from fewstep.shards import write_shards

SHARES = (0.5, 0.0, 0.2, 0.3)


@pytest.fixture
def exact():
    return gaussian(MEAN, STD).flow()


# Pairs


def test_pairs_of_an_exact_flow_obey_its_map(exact):
    pairs = pairs_of(exact)
    torch.testing.assert_close(pairs["data"], MEAN + STD * pairs["noise"], rtol=0, atol=1e-4)
    assert pairs.keys() == {"noise", "data"}


def test_noise_belongs_to_the_index_and_its_stream(exact):
    keys = randomness.keys_of(0, 0, 200)
    assert torch.equal(pairs_of(exact)["noise"], randomness.noises("couple", keys, (3,)))
    assert torch.equal(pairs_of(exact, 50, 60)["noise"], pairs_of(exact)["noise"][50:60])
    states = trajectories_of(exact, 0, 200)["states"]
    assert torch.equal(states[:, 0], randomness.noises("trajectories", keys, (3,)))


def test_pairs_are_the_same_at_any_batch_size():
    flow = network_flow()
    three, five = pairs_of(flow, stop=16, batch=3), pairs_of(flow, stop=16, batch=5)
    assert torch.equal(three["noise"], five["noise"])
    torch.testing.assert_close(three["data"], five["data"], rtol=1e-5, atol=1e-6)
    assert not three["data"].requires_grad


def test_labels_come_by_their_shares_and_reach_the_flow():
    pairs = pairs_of(labelled_flow(), 5, 15, shares=SHARES, batch=3)
    assert torch.equal(pairs["label"], randomness.labels("couple", randomness.keys_of(0, 5, 15), SHARES))
    torch.testing.assert_close(pairs["data"], pairs["noise"] + pairs["label"][:, None])
    states = trajectories_of(labelled_flow(), 5, 15, shares=SHARES)
    torch.testing.assert_close(states["states"][:, -1], states["states"][:, 0] + states["label"][:, None])


def test_equal_pairs_make_equal_shards(tmp_path):
    flow = network_flow()

    def make(start, stop):
        return pairs_of(flow, start, stop, batch=5)

    digests = {write_shards(tmp_path / name, 40, 16, make, facts={}).digest for name in "ab"}
    assert len(digests) == 1


# Trajectories


def test_trajectories_are_where_the_exact_flow_is(exact):
    timesteps = (0.0, 0.125, 0.5, 1.0)
    states = trajectories_of(exact, timesteps=timesteps)["states"]
    assert states.shape == (20, 4, 3)
    for position, t in enumerate(timesteps):
        expected = gaussian(MEAN, STD).position(states[:, 0], t)
        torch.testing.assert_close(states[:, position], expected, rtol=0, atol=1e-4)


def test_trajectories_are_the_same_at_any_batch_size():
    flow = network_flow()
    three, five = trajectories_of(flow, batch=3), trajectories_of(flow, batch=5)
    torch.testing.assert_close(three["states"], five["states"], rtol=1e-5, atol=1e-6)


def test_a_timestep_the_fine_grid_does_not_visit_is_refused(exact):
    with pytest.raises(UserError, match=r"time 0\.3 is not among"):
        trajectories_of(exact, timesteps=(0.0, 0.3, 1.0))


def test_a_student_takes_the_states_at_its_own_timesteps(exact):
    timesteps = (0.0, 0.125, 0.5, 0.75, 1.0)
    states = trajectories_of(exact, timesteps=timesteps)["states"]
    chosen = select_timesteps(states, timesteps, Grid((0.0, 0.5, 1.0)))
    assert torch.equal(chosen, states[:, [0, 2, 4]])
    with pytest.raises(UserError, match=r"time 0\.25 is not among"):
        select_timesteps(states, timesteps, Grid((0.0, 0.25, 1.0)))


def test_inverted_data_of_an_exact_flow_has_the_noise_of_its_map_and_a_normal_law():
    oracle = gaussian(MEAN, STD)
    data = oracle.sample(4000).float()
    made = invert_pairs(oracle.flow(), {"data": data}, FINE, batch=1000)
    torch.testing.assert_close(made["noise"], ((data - MEAN) / STD), rtol=0, atol=2e-4)
    assert torch.equal(made["data"], data)
    checks = check_pairs(made, oracle.flow(), grid=FINE, batch=1000)
    assert checks.problems() == []
    tight = gaussian(MEAN, STD / 2).flow()  # of other data: the noise is twice as wide
    other = invert_pairs(tight, {"data": data}, FINE, batch=1000)
    assert "not standard normal" in check_pairs(other, tight, grid=FINE, batch=1000).problems()[0]


def test_inverted_data_that_leaves_the_finite_numbers_is_named():
    flow = FieldFlow(lambda x, t: torch.where(x > 5, torch.nan, -x))
    data = torch.zeros(6, 3)
    data[4] = 9.0
    with pytest.raises(UserError, match="inverted sample 4 "):
        invert_pairs(flow, {"data": data}, FINE, batch=3)

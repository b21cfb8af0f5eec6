import pytest
import torch
from oracles import as_model, finite_set, gaussian, two_gaussians
from torch import nn

from fewstep import randomness
from fewstep.couplings.teacher import PairChecks, check_pairs, make_pairs, make_trajectories, select_knots
from fewstep.errors import UserError
from fewstep.flow import FieldFlow, as_flow
from fewstep.grids import Grid, uniform
from fewstep.shards import write_shards

MEAN, STD = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.3, 1.0, 2.0])
FINE = uniform(32, solver="rk4")


@pytest.fixture
def exact():
    return gaussian(MEAN, STD).flow()


def pairs_of(flow, start=0, stop=200, *, grid=FINE, batch=64, classes=0, shape=(3,), seed=0):
    return make_pairs(
        flow, seed=seed, start=start, stop=stop, shape=shape, classes=classes, grid=grid, batch=batch
    )


def trajectories_of(flow, start=0, stop=20, *, knots=(0.0, 0.25, 1.0), fine=FINE, batch=8, classes=0):
    return make_trajectories(
        flow, seed=0, start=start, stop=stop, shape=(3,), classes=classes, knots=knots, fine=fine, batch=batch
    )


def labelled_flow():
    """Carry noise to noise + label."""
    return FieldFlow(lambda x, t, label: label[:, None].to(x).expand_as(x))


def network_flow():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 3))
    return FieldFlow(lambda x, t: network(x))


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


def test_labels_go_round_and_reach_the_flow():
    pairs = pairs_of(labelled_flow(), 5, 15, classes=4, batch=3)
    assert pairs["label"].tolist() == [index % 4 for index in range(5, 15)]
    torch.testing.assert_close(pairs["data"], pairs["noise"] + pairs["label"][:, None])
    states = trajectories_of(labelled_flow(), 5, 15, classes=4)
    torch.testing.assert_close(states["states"][:, -1], states["states"][:, 0] + states["label"][:, None])


def test_equal_pairs_make_equal_shards(tmp_path):
    flow = network_flow()

    def make(start, stop):
        return pairs_of(flow, start, stop, batch=5)

    digests = {write_shards(tmp_path / name, 40, 16, make, facts={}).digest for name in "ab"}
    assert len(digests) == 1


# Trajectories


def test_trajectories_are_where_the_exact_flow_is(exact):
    knots = (0.0, 0.125, 0.5, 1.0)
    states = trajectories_of(exact, knots=knots)["states"]
    assert states.shape == (20, 4, 3)
    for position, t in enumerate(knots):
        expected = gaussian(MEAN, STD).position(states[:, 0], t)
        torch.testing.assert_close(states[:, position], expected, rtol=0, atol=1e-4)


def test_trajectories_are_the_same_at_any_batch_size():
    flow = network_flow()
    three, five = trajectories_of(flow, batch=3), trajectories_of(flow, batch=5)
    torch.testing.assert_close(three["states"], five["states"], rtol=1e-5, atol=1e-6)


def test_a_knot_the_fine_grid_does_not_visit_is_refused(exact):
    with pytest.raises(UserError, match=r"time 0\.3 is not among"):
        trajectories_of(exact, knots=(0.0, 0.3, 1.0))


def test_a_student_takes_the_states_at_its_own_knots(exact):
    knots = (0.0, 0.125, 0.5, 0.75, 1.0)
    states = trajectories_of(exact, knots=knots)["states"]
    chosen = select_knots(states, knots, Grid((0.0, 0.5, 1.0)))
    assert torch.equal(chosen, states[:, [0, 2, 4]])
    with pytest.raises(UserError, match=r"time 0\.25 is not among"):
        select_knots(states, knots, Grid((0.0, 0.25, 1.0)))


# Checks


def check(pairs, flow, grid=FINE, batch=64):
    return check_pairs(pairs, flow, grid=grid, batch=batch)


@pytest.mark.parametrize("path", ["linear", "cosine", "ve", "vp"])
@pytest.mark.parametrize("prediction", ["velocity", "data", "noise"])
def test_good_pairs_pass_on_every_path(path, prediction):
    flow = as_flow(as_model(two_gaussians(), path=path, prediction=prediction))
    grid = uniform(32, start=flow.t_start, solver="heun")
    checks = check(pairs_of(flow, grid=grid, shape=(2,)), flow, grid)
    assert checks.problems() == []
    assert checks.back_rmse < 0.1
    assert checks.duplicates == 0
    assert checks.cost < 0.9 * checks.independent_cost


def test_good_pairs_of_a_finite_set_pass():
    flow = finite_set([[2.0, 0.0], [-2.0, 1.0], [0.0, -2.0]]).flow()
    assert check(pairs_of(flow, shape=(2,)), flow).problems() == []


def test_good_labelled_pairs_pass():
    pairs = pairs_of(labelled_flow(), classes=4)
    checks = check(pairs, labelled_flow())
    assert checks.problems() == []
    assert checks.back_rmse == pytest.approx(0, abs=1e-5)


def test_the_measurements_of_an_exact_flow(exact):
    pairs = pairs_of(exact, stop=4000, batch=4000)
    checks = check(pairs, exact, batch=4000)
    assert checks.noise_z < 4
    assert checks.data_z > 20
    assert checks.back_rmse < 1e-3
    expected_cost = float((MEAN**2 + (1 - STD) ** 2).sum())
    independent_cost = float((MEAN**2 + 1 + STD**2).sum())
    assert checks.cost == pytest.approx(expected_cost, rel=0.05)
    assert checks.independent_cost == pytest.approx(independent_cost, rel=0.05)
    assert checks.stranger_rmse == pytest.approx(2**0.5, rel=0.05)


def test_measurements_are_the_same_at_any_batch_size(exact):
    pairs = pairs_of(exact, stop=20)
    three, five = check(pairs, exact, batch=3), check(pairs, exact, batch=5)
    assert vars(three) == pytest.approx(vars(five))


def test_reversed_pairs_are_called_so(exact):
    pairs = pairs_of(exact)
    swapped = {"noise": pairs["data"], "data": pairs["noise"]}
    problems = check(swapped, exact).problems()
    assert "reversed" in problems[0]


def test_reversed_images_are_called_so_though_each_pixel_looks_normal():
    smooth = torch.randn(500, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth[:, :, :, 1::2] = smooth[:, :, :, ::2]  # unit normal pixels, equal neighbours
    pairs = {"noise": smooth, "data": randomness.noises("couple", randomness.keys_of(0, 0, 500), (1, 4, 4))}
    flow = FieldFlow(lambda x, t: torch.zeros_like(x))
    assert "reversed" in check(pairs, flow).problems()[0]


def spoiled(exact, **fields):
    return check({**pairs_of(exact), **fields}, exact).problems()


def test_noise_of_the_wrong_scale_is_found(exact):
    pairs = pairs_of(exact, stop=1000, batch=1000)
    noise = pairs["noise"]
    for wrong in (1.5 * noise, noise + 1, noise.sign(), noise[:, :1].expand_as(noise).contiguous()):
        problems = check({**pairs, "noise": wrong}, exact, batch=1000).problems()
        assert any("not standard normal" in problem for problem in problems)


def test_copied_noise_is_found(exact):
    pairs = pairs_of(exact)
    twice = {name: torch.cat([field, field[:7]]) for name, field in pairs.items()}
    assert any(problem.startswith("7 noises are copies") for problem in check(twice, exact).problems())


def test_shuffled_pairs_are_found(exact):
    data = pairs_of(exact)["data"]
    problems = spoiled(exact, data=data.flip(0))
    assert any("integrating back" in problem for problem in problems)


def test_pairs_of_another_model_are_found(exact):
    other = gaussian(-MEAN, STD.flip(0)).flow()
    problems = check(pairs_of(exact), other).problems()
    assert any("integrating back" in problem for problem in problems)


def test_mirrored_pairs_are_found(exact):
    pairs = pairs_of(exact)
    assert any("further apart" in problem for problem in spoiled(exact, data=2 * MEAN - pairs["data"]))


def test_numbers_that_are_not_numbers_are_problems():
    nan = float("nan")
    checks = PairChecks(
        noise_z=nan,
        data_z=9.0,
        duplicates=0,
        back_rmse=nan,
        stranger_rmse=1.0,
        cost=nan,
        independent_cost=1.0,
    )
    assert len(checks.problems()) == 3


def test_a_single_pair_cannot_be_checked(exact):
    with pytest.raises(UserError, match="at least 2"):
        check(pairs_of(exact, stop=1), exact)

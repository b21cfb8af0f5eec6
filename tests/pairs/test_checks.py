"""Bad pairs are told from good ones, with what is wrong; good ones with what a round can make of them."""

import re
from dataclasses import replace

import pytest
import torch
from oracles import as_model, finite_set, gaussian, two_gaussians
from teaching import FINE, MEAN, STD, labelled_flow, pairs_of

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.flow import FieldFlow, as_flow
from fewstep.grids import uniform
from fewstep.model import ModelConfig, build
from fewstep.pairs import PairChecks, PairStatistics, check_pairs
from fewstep.pairs.crossing import crossing

NAN = float("nan")


@pytest.fixture
def exact():
    return gaussian(MEAN, STD).flow()


def check(pairs, flow, grid=FINE, batch=64, **options):
    return check_pairs(pairs, flow, grid=grid, batch=batch, **options)


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
    pairs = pairs_of(labelled_flow(), shares=(0.25,) * 4)
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


@pytest.mark.parametrize("first", range(0, 640, 32))
def test_few_shuffled_points_are_found_whatever_chance_does(first):
    """Of such sets of 32 pairs in the plane a limit of 90 % alone would let some pass."""
    flow = two_gaussians().flow()
    pairs = pairs_of(flow, first, first + 32, shape=(2,))
    assert check(pairs, flow).problems() == []
    checks = check(pairs | {"data": pairs["data"].flip(0)}, flow)
    assert any("integrating back" in problem for problem in checks.problems())
    assert not any("too coarse" in sentence for sentence in checks.advice())


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_very_few_good_points_pass(count):
    flow = two_gaussians().flow()
    assert not any("integrating" in p for p in check(pairs_of(flow, 0, count, shape=(2,)), flow).problems())


def test_the_limit_of_the_way_back_is_lower_for_fewer_pairs():
    assert replace(GOOD, back_rmse=1.2).problems() == []
    assert replace(GOOD, back_rmse=0.65, back_se=0.3).problems() == []
    (problem,) = replace(GOOD, back_rmse=1.2, back_se=0.1).problems()
    assert "by 1.2, no better than pairs of another model may by chance" in problem
    assert "below 70% of that, pairs pass" in problem


def test_pairs_of_another_model_are_found(exact):
    other = gaussian(-MEAN, STD.flip(0)).flow()
    problems = check(pairs_of(exact), other).problems()
    assert any("integrating back" in problem for problem in problems)


def test_mirrored_pairs_are_found(exact):
    pairs = pairs_of(exact)
    assert any("further apart" in problem for problem in spoiled(exact, data=2 * MEAN - pairs["data"]))


GOOD = PairChecks(
    count=1000,
    noise_z=1.5,
    noise_off="mean",
    data_z=20.0,
    noise_norm=1.0,
    noise_autocorrelation=0.0,
    worst_norm_z=3.5,
    duplicates=0,
    back_rmse=0.01,
    stranger_rmse=1.4,
    cost=40.0,
    independent_cost=100.0,
    correlation=0.9,
    data_variance=20.0,
    straightness=12.0,
    first_order=4.0,
    crossing=48.0,
    gap=0.1,
    gap_se=0.5,
)


def test_good_pairs_have_no_problems_and_no_advice():
    assert GOOD.problems() == GOOD.advice() == []


def test_measurements_that_are_nan_are_problems():
    assert len(replace(GOOD, noise_z=NAN, worst_norm_z=NAN, back_rmse=NAN, cost=NAN).problems()) == 4


def test_the_norm_of_one_noise_may_be_less_likely_the_more_there_are():
    assert replace(GOOD, worst_norm_z=6.9).problems() == []
    (problem,) = replace(GOOD, worst_norm_z=6.9, count=10).problems()
    assert problem.startswith("a noise has a norm 6.9 standard deviations from what is likely")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"back_rmse": 0.42}, "integrating back misses the noise by 30% .* take more calls"),
        ({"back_rmse": 1.1}, "by 79% of .* take more calls, or another model made the pairs$"),
        ({"correlation": 0.05}, r"hardly correlate \(0\.05\), so lines of pairs may cross"),
        ({"straightness": 0.1}, r"straight already \(S is 0\.5% of the data's variance\)"),
        ({"straightness": 30.0}, r"flow is curved \(S 30, V 48\)"),
        ({"gap": -6.0}, r"does not fit its own samples: .* by 54, those of an exact one by S \+ V = 60 "),
        ({"gap": 6.0}, r"\(gap 6 ± 0\.5\); errors go into the pairs"),
    ],
)
def test_each_obstacle_to_a_reflow_round_has_its_own_advice(changes, said):
    (sentence,) = replace(GOOD, **changes).advice()
    assert re.search(said, sentence)


@pytest.mark.parametrize("changes", [{"gap": 6.0, "gap_se": 2.5}, {"gap": 2.9, "gap_se": 0.1}])
def test_a_gap_by_chance_or_too_small_to_matter_is_none(changes):
    assert replace(GOOD, **changes).advice() == []


def test_unknown_measurements_of_a_reflowed_teacher_are_not_judged():
    unknown = {"crossing": None, "gap": None, "gap_se": None}
    assert replace(GOOD, straightness=30.0, **unknown).advice() == []
    assert len(replace(GOOD, straightness=0.1, **unknown).advice()) == 1


def test_a_single_pair_cannot_be_checked(exact):
    with pytest.raises(UserError, match="at least 2"):
        check(pairs_of(exact, stop=1), exact)


# The identity: random pairs cost S + V more than those of an exact flow.


def test_s_and_v_of_a_gaussian_have_their_closed_form(exact):
    oracle = gaussian(MEAN, STD)
    pairs = pairs_of(exact, stop=2000, batch=2000)
    noise = pairs["noise"] / pairs["noise"].square().mean(0).sqrt()  # S is quadratic in the noise
    pairs = {"noise": noise, "data": oracle.position(noise, 1.0)}
    checks = check(pairs, exact, batch=500, independent=True)
    assert checks.straightness == pytest.approx(oracle.straightness, rel=2e-3)
    assert checks.first_order == pytest.approx(oracle.first_order, rel=5e-3)
    assert checks.crossing == pytest.approx(oracle.irreducible_loss, rel=0.05)
    assert abs(checks.gap) < 4 * checks.gap_se
    assert checks.gap_se < 0.05 * checks.crossing


@pytest.mark.parametrize("oracle", [two_gaussians(), finite_set([[2.0, 0.0], [-2.0, 1.0], [0.0, -2.0]])])
@pytest.mark.parametrize(("path", "prediction"), [("linear", "data"), ("ve", "noise")])
def test_the_gap_of_an_exact_flow_is_chance(oracle, path, prediction):
    flow = as_flow(as_model(oracle, path=path, prediction=prediction))
    grid = uniform(32, start=flow.t_start, solver="heun")
    pairs = pairs_of(flow, stop=1500, grid=grid, shape=(2,), batch=1500)
    checks = check(pairs, flow, grid, batch=1500, independent=True)
    assert abs(checks.gap) < 4 * checks.gap_se
    assert checks.gap_se < 0.04 * (checks.straightness + checks.crossing)


def test_a_teacher_that_does_not_fit_its_own_samples_has_a_gap(exact):
    wrong = FieldFlow(lambda x, t: 1.3 * exact(x, t))
    checks = check(pairs_of(wrong, stop=1000, batch=1000), wrong, batch=1000, independent=True)
    assert checks.problems() == []
    assert any("does not fit its own samples" in sentence for sentence in checks.advice())


def test_v_takes_eight_velocities_and_sees_the_conditions():
    asked = []

    def velocity(x, t, label):
        asked.append(t)
        return label[:, None].to(x).expand_as(x)

    data, label = torch.zeros(6, 3), torch.arange(6)
    v, cost = crossing(FieldFlow(velocity, t_start=0.05, t_end=0.9), data, range(10, 16), label=label)
    noise = randomness.noises("crossing noise", randomness.keys_of(0, 10, 16), (3,))
    torch.testing.assert_close(v, (noise + label[:, None]).square().sum(1).double())
    torch.testing.assert_close(cost, noise.square().sum(1).double())
    times = torch.stack(asked)
    assert times.shape == (8, 6)
    assert times.min() >= 0.05
    assert times.max() <= 0.9
    assert (times.diff(dim=0) > 0).all()


def test_without_independent_lines_or_under_guidance_there_is_no_v(exact):
    checks = check(pairs_of(exact), exact)
    assert checks.crossing is checks.gap is checks.gap_se is None
    architecture = {"name": "mlp", "width": 8, "depth": 1}
    model = build(ModelConfig(architecture=architecture, shape=(3,), classes=2), seed=0).eval()
    for guidance, known in ((1.0, True), (2.0, False)):
        flow, grid = as_flow(model, guidance=guidance), uniform(4)
        pairs = pairs_of(flow, stop=8, shares=(0.5, 0.5), grid=grid)
        assert (check(pairs, flow, grid, independent=True).crossing is not None) == known


def test_statistics_may_be_those_of_more_pairs(exact):
    shards = [PairStatistics.of(pairs_of(exact, n, n + 100), total=300) for n in (0, 100, 0)]
    checks = check(pairs_of(exact), exact, statistics=shards[0] + shards[1] + shards[2])
    assert (checks.count, checks.duplicates) == (300, 100)
    assert checks.cost == pytest.approx((shards[0].cost * 2 + shards[1].cost) / 3)

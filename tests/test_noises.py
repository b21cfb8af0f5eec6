"""Student-t noise: its law is the kernel of PFGM++, and all that draws or scores noise knows it."""

import json
from dataclasses import dataclass, replace

import numpy as np
import oracles
import pytest
import torch
from scipy import stats

from fewstep import checkpoint, grids, noises, randomness, samplers, shards
from fewstep.draws import draws
from fewstep.errors import UserError
from fewstep.exporting import description
from fewstep.exporting.sampler import ExportedSampler
from fewstep.flow import FieldFlow, as_flow
from fewstep.methods.flow_matching import FlowMatching
from fewstep.methods.reflow import Reflow
from fewstep.methods.sim import Sim
from fewstep.model import ModelConfig, build
from fewstep.noises import GAUSSIAN, StudentT
from fewstep.pairs import PairStatistics, check_pairs, make_pairs, make_trajectories
from fewstep.paths import like
from fewstep.samplers.reinterpolate import Reinterpolate
from fewstep.samplers.sde import Sde
from fewstep.shards.fields import draw, is_drawn_as_ever
from fewstep.solvers import integrate, trajectory
from stages import pretrain
from stages.settings.params import canonical

NETWORK = {"name": "mlp", "width": 8, "depth": 1}
T3 = {"name": "student_t", "degrees": 3}


def keys_of(n, seed=0):
    return randomness.keys_of(seed, 0, n)


def norms(law, n, dimensions):
    return law.draw("test", keys_of(n), (dimensions,)).double().norm(dim=1)


def student(noise=T3, **changes):
    return build(ModelConfig(architecture=NETWORK, shape=(2,), noise=noise, **changes), seed=0)


def test_norms_are_those_of_the_beta_law_of_the_paper():
    # R = r sqrt(beta / (1 - beta)) with beta ~ Beta(N / 2, D / 2), Xu et al. 2023, section 3.1
    found = 0.7 * norms(StudentT(16), 40_000, 50)
    quantiles = np.quantile(found, [0.05, 0.25, 0.5, 0.75, 0.95])
    assert quantiles == pytest.approx([3.64, 4.39, 5.02, 5.79, 7.22], rel=0.01)
    beta = (found / 0.7) ** 2 / ((found / 0.7) ** 2 + 16)
    assert stats.kstest(beta, stats.beta(25, 8).cdf).pvalue > 0.001


@pytest.mark.parametrize(("degrees", "dimensions"), [(3, 1), (3, 50), (128, 8), (2048, 3072)])
def test_the_radius_of_student_t_noise_is_independent_of_its_direction_and_maps_to_the_normal_one(
    degrees, dimensions
):
    law, n = StudentT(degrees), 2000
    mapped = law.as_normal(law.draw("test", keys_of(n), (dimensions,)).numpy())
    squares = (mapped**2).sum(1)
    assert stats.kstest(squares, stats.chi2(dimensions).cdf).pvalue > 0.001
    assert stats.kstest(mapped[:, 0], stats.norm.cdf).pvalue > 0.001


def test_the_map_to_normal_noise_keeps_directions_and_quantiles_into_both_tails():
    law, sizes = StudentT(5), np.array([1e-3, 0.3, 1.0, 4.0, 50.0])
    mapped = law.as_normal(np.outer(sizes, [0.6, 0.8]))
    assert mapped[:, 1] / mapped[:, 0] == pytest.approx(4 / 3)
    radius = stats.f(2, 5)
    assert stats.chi2(2).sf((mapped**2).sum(1)) == pytest.approx(radius.sf(sizes**2 / 2), rel=1e-9)
    assert (law.as_normal(np.zeros((1, 2))) == 0).all()


def test_infinite_degrees_are_normal_noise_to_the_byte(tmp_path):
    assert noises.get({"name": "student_t", "degrees": float("inf")}) is GAUSSIAN
    law, keys = noises.StudentT(float("inf")), keys_of(4)
    assert torch.equal(law.draw("x", keys, (3,)), GAUSSIAN.draw("x", keys, (3,)))
    assert np.array_equal(law.as_normal(np.eye(3)), np.eye(3))
    for name, noise in (("one", "gaussian"), ("other", {"name": "student_t", "degrees": float("inf")})):
        checkpoint.save_model(tmp_path / name, student(noise))
    configs = [(tmp_path / name / "config.json").read_bytes() for name in ("one", "other")]
    assert configs[0] == configs[1]
    assert json.loads(configs[0])["noise"] == "gaussian"
    keys = keys_of(5)
    assert GAUSSIAN.draw("x", keys, (3,)).equal(randomness.noises("x", keys, (3,)))
    assert "law" not in shards.drawn("x", 0, 0, (3,))["drawn"]


def test_many_degrees_are_nearly_normal_and_end_where_normal_noise_does():
    keys = keys_of(200)
    normal, nearly = (law.draw("x", keys, (2,)).double() for law in (GAUSSIAN, StudentT(1e8)))
    assert (nearly - normal).abs().max() < 1e-3
    oracle = oracles.gaussian([1.0, -0.5], [0.5, 1.5])
    assert (oracle.position(nearly, 1.0) - oracle.position(normal, 1.0)).abs().max() < 2e-3


@dataclass(frozen=True)
class Points(oracles.Oracle):
    """Oracle of PFGM++: some points, a sum over which gives E[data | x]; Xu et al. 2023, eq. 3 and 4."""

    weights: torch.Tensor  # (m,)
    points: torch.Tensor  # (m, d)
    degrees: float

    t_end = 1 - 1e-3

    def posterior(self, x, a, b):
        radius = b.square() * self.degrees
        apart = (x[:, None] - like(a, x)[:, None] * self.points).square().sum(-1)
        power = -(x.shape[1] + self.degrees) / 2
        share = torch.softmax(self.weights.log() + power * (apart + radius[:, None]).log(), dim=1)
        data = share @ self.points
        return data, (x - like(a, x) * data) / like(b, x)


@pytest.mark.parametrize("degrees", [3, 16, 128])
def test_the_flow_of_two_points_ends_at_them_as_often_as_their_weights(degrees):
    points = torch.tensor([[1.0, 0.5, -1.0], [-1.5, 0.0, 0.5]], dtype=torch.float64)
    flow = Points(torch.tensor([0.3, 0.7]).double(), points, degrees).flow()
    noise, n = StudentT(degrees).draw("test", keys_of(4000), (3,)).double(), 4000
    grid = grids.uniform(150, solver="heun", end=flow.t_end)
    ends = integrate(flow, noise, grid).x
    apart = torch.cdist(ends, points)
    assert apart.min(dim=1).values.quantile(0.99) < 0.01
    share = float((apart[:, 0] < apart[:, 1]).double().mean())
    assert share == pytest.approx(0.3, abs=3.5 * (0.21 / n) ** 0.5)
    normal = integrate(flow, GAUSSIAN.draw("test", keys_of(n), (3,)).double(), grid).x
    assert (normal - ends).abs().max() > 0.1  # the two noises do not end alike


def test_a_million_degrees_end_where_the_gaussian_flow_of_the_same_noise_does():
    points = torch.tensor([[1.0, 0.5, -1.0], [-1.5, 0.0, 0.5], [0.3, -1.2, 0.8]], dtype=torch.float64)
    weights, noise = torch.tensor([0.3, 0.5, 0.2]).double(), oracles.finite_set(points).noise(300)
    augmented, normal = (Points(weights, points, 1e6), oracles.mixture(weights, points, [0.0] * 3))
    grid = grids.uniform(150, solver="heun", end=augmented.t_end)
    ends = [integrate(flow.flow(), noise, grid).x for flow in (augmented, normal)]
    assert (ends[0] - ends[1]).abs().max() < 1e-3
    few = integrate(Points(weights, points, 3.0).flow(), noise, grid).x
    assert (few - ends[1]).abs().max() > 0.1


def test_the_flow_of_one_point_keeps_direction_and_radius_over_sigma():
    point = torch.tensor([[0.4, -0.2]], dtype=torch.float64)
    flow = Points(torch.ones(1).double(), point, 3.0).flow()
    noise = StudentT(3).draw("test", keys_of(50), (2,)).double()
    *_, half, _ = trajectory(flow, noise, grids.Grid((0.0, 0.25, 0.5, 1.0)))
    assert (half - 0.5 * noise - 0.5 * point).abs().max() < 1e-9


def test_a_model_makes_pairs_trajectories_and_draws_of_its_own_noise():
    model = student()
    flow, told = as_flow(model), {"shape": (2,), "conditions": model.conditions, "batch": 4}
    expected = StudentT(3).draw("couple", keys_of(6), (2,))
    grid = grids.uniform(2)
    pairs = make_pairs(flow, seed=0, start=0, stop=6, grid=grid, **told)
    assert pairs["noise"].equal(expected)
    (states,) = make_trajectories(
        flow, seed=0, start=0, stop=1, timesteps=grid.times, fine=grid, **told
    ).values()
    assert states[:, 0].equal(StudentT(3).draw("trajectories", keys_of(1), (2,)))
    field = shards.drawn("couple", 0, 2, (2,), model.noise)
    assert draw(field, torch.arange(4)).equal(expected[2:])
    assert is_drawn_as_ever(json.loads(json.dumps(field)))
    field["drawn"]["law"] = "gaussian"
    assert not is_drawn_as_ever(field)
    ((drawn, _),) = draws("couple", 0, range(6), law=model.noise, **told | {"batch": 6})
    assert drawn.equal(expected)


def test_pretraining_sees_noise_of_the_models_law():
    batch, keys = {"data": torch.zeros(5, 2)}, keys_of(5)
    found = FlowMatching().prepare_batch(batch, keys, StudentT(3))["noise"]
    assert found.equal(StudentT(3).draw("train.noise", keys, (2,)))
    assert not found.equal(GAUSSIAN.draw("train.noise", keys, (2,)))


def exact_flow(degrees):
    """Two points far apart, seen as a flow of Student-t noise."""
    points = torch.tensor([[2.0, 1.0, 0.0], [-2.0, 0.0, 1.0]], dtype=torch.float64)
    oracle = Points(torch.tensor([0.5, 0.5]).double(), points, degrees)
    flow = FieldFlow(oracle.velocity, t_end=oracle.t_end)
    flow.noise = StudentT(degrees)
    return flow, points


def test_checks_pass_pairs_of_their_own_law_and_refuse_those_of_another():
    flow, points = exact_flow(3)
    noise = StudentT(3).draw("test", keys_of(1500), (3,))
    pairs = {"noise": noise, "data": points.float()[(noise[:, 0] < 0).long()]}
    other = pairs | {"noise": GAUSSIAN.draw("test", keys_of(1500), (3,))}
    grid = grids.uniform(16, solver="heun", end=flow.t_end)
    passed = check_pairs(pairs, flow, grid=grid, batch=1500)
    assert passed.noise_z < 5
    assert not [told for told in passed.problems() if "normal" in told or "norm " in told]
    (told,) = [
        told for told in check_pairs(other, flow, grid=grid, batch=1500).problems() if "normal" in told
    ]
    assert "mapped from student_t with 3 degrees to normal noise" in told
    flow.noise = GAUSSIAN
    assert check_pairs(pairs, flow, grid=grid, batch=1500).noise_z > 100


def test_statistics_of_mapped_noise_add_up_and_survive_json():
    noise = StudentT(4).draw("test", keys_of(300), (2, 3))
    pairs = {"noise": noise, "data": 0.5 * noise}
    whole = PairStatistics.of(pairs, total=300, law=StudentT(4))
    parts = [
        PairStatistics.of({name: x[part] for name, x in pairs.items()}, total=300, law=StudentT(4))
        for part in (slice(0, 100), slice(100, 300))
    ]
    added = PairStatistics.from_json((parts[0] + parts[1]).to_json())
    assert added.normal.worst()[1] == pytest.approx(whole.normal.worst()[1])
    assert added.cost == pytest.approx(float((0.25 * noise.double() ** 2).sum(dim=(1, 2)).mean()))
    assert "mapped" not in PairStatistics.of(pairs, total=300).to_json()


NORMAL_ALONE = {
    "score": lambda: Sim().networks(student(grid=grids.uniform(1)), lambda name: student()),
    "annealing": lambda: Reflow(anneal=0.5).networks(student(), lambda name: student()),
    "this sampler": lambda: samplers.sample(
        as_flow(student()), torch.zeros(2, 2), (0.0, 0.5, 1.0), Sde(), keys=keys_of(2)
    ),
    "prediction score": lambda: student(prediction="score", path="vp"),
    "gamma": lambda: student(prediction="v", path={"name": "linear", "gamma": 1.0}),
}


@pytest.mark.parametrize("what", NORMAL_ALONE)
def test_what_holds_for_normal_noise_alone_refuses_other_noise_with_one_message(what):
    with pytest.raises(
        UserError, match=f"{what}.* holds for normal noise alone, but the model's is student_t with 3 degrees"
    ):
        NORMAL_ALONE[what]()


def test_infinite_degrees_are_the_setting_gaussian():
    told = {"method": "flow_matching", "model": {"name": "mlp"}, "train": {"steps": 1}}
    noise = {"name": "student_t", "degrees": float("inf")}
    assert canonical(pretrain.Config(**told, noise=noise)) == canonical(pretrain.Config(**told))


def test_a_sampler_that_adds_no_noise_takes_any():
    model = student()
    model.config = replace(model.config, learned_from="pairs")
    made = samplers.sample(
        as_flow(model), torch.ones(2, 2), (0.0, 0.5, 1.0), Reinterpolate(), keys=keys_of(2)
    )
    assert made.nfe == 2


@pytest.mark.parametrize(
    ("noise", "told"),
    [
        ("normal", "unknown noise 'normal'"),
        ({"name": "student_t", "degrees": 2}, "a number above 2"),
        ({"name": "student_t", "degrees": "many"}, "a number above 2"),
        ({"name": "student_t", "degrees": float("nan")}, "a number above 2"),
        ({"name": "student_t", "dimensions": 128}, "unknown option 'dimensions'"),
        ({"name": "gaussian", "degrees": 3}, "there are: none"),
    ],
)
def test_a_law_that_can_not_be_is_refused(noise, told):
    with pytest.raises(UserError, match=told):
        noises.get(noise)


def test_an_exported_sampler_says_how_its_noise_is_drawn():
    told, grid = {"guidance": 1.0, "nfe": 2, "digest": "d", "differences": {}}, grids.uniform(2)

    def page(noise):
        model = student(noise)
        facts = description.facts(model.config, grid, **told)
        return facts, description.readme("m", facts, [], ExportedSampler(model, grid, 1.0))

    _, text = page(T3)
    assert "| `noise` | float32 (batch, 2) | student_t with 3 degrees |" in text
    assert "multiply that of each sample by sqrt(3 / w)" in text
    facts, text = page("gaussian")
    assert "noise" not in facts
    assert "| standard normal |" in text

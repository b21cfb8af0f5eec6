"""Sums over pairs: they add up, survive JSON, follow the laws of normal noise, and find copies."""

import json

import numpy as np
import pytest
import torch

from fewstep import randomness
from fewstep.pairs import PairStatistics, copies
from fewstep.pairs.normality import NormalSums, norm_z

IMAGES = (2, 4, 5)


def pairs(start=0, stop=300, shape=IMAGES):
    noise = randomness.noises("test", randomness.keys_of(0, start, stop), shape)
    return {"noise": noise, "data": 0.5 * noise + noise.flip(1) + 2}


def part(fields, start, stop):
    return {name: field[start:stop] for name, field in fields.items()}


def numbers(statistics):
    """Everything that is kept, in one row."""
    found = []

    def collect(tree):
        for value in tree.values() if isinstance(tree, dict) else tree:
            collect(value) if isinstance(value, dict | list) else found.append(value)

    collect(json.loads(statistics.to_json()))
    return found


def test_shards_add_up_to_the_whole_in_any_grouping():
    whole = pairs()
    a, b, c = (PairStatistics.of(part(whole, *ends), total=300) for ends in ((0, 7), (7, 200), (200, 300)))
    expected = numbers(PairStatistics.of(whole, total=300))
    for together in (a + b + c, a + (b + c), c + a + b):
        assert numbers(together) == pytest.approx(expected, rel=1e-12)
    assert (a + b + c).to_json() == (a + b + c).to_json()


def test_statistics_survive_json_exactly_and_do_not_grow():
    few, more = (PairStatistics.of(pairs(0, n), total=10**9) for n in (50, 500))
    again = PairStatistics.from_json(few.to_json())
    assert again.to_json() == few.to_json()
    assert (again + more).to_json() == (few + more).to_json()
    assert len(numbers(few)) == len(numbers(more))


def test_statistics_of_pairs_are_those_of_numpy():
    fields = pairs(shape=(3,))
    noise, data = (fields[name].double().numpy() for name in ("noise", "data"))
    statistics = PairStatistics.of(part(fields, 0, 100), total=300)
    statistics += PairStatistics.of(part(fields, 100, 300), total=300)
    assert statistics.count == 300
    assert statistics.cost == pytest.approx(((data - noise) ** 2).sum(1).mean())
    independent = ((data[:, None] - noise[None]) ** 2).sum(2).mean()
    assert statistics.independent_cost == pytest.approx(independent)
    each = [np.corrcoef(noise[:, i], data[:, i])[0, 1] for i in range(3)]
    assert statistics.correlation == pytest.approx(np.average(each, weights=data.std(0) * noise.std(0)))
    np.testing.assert_allclose(statistics.data.variance, data.var(0))


@pytest.mark.parametrize(("factor", "expected"), [(2.0, 1), (-3.0, -1)])
def test_pixels_that_never_change_do_not_dilute_the_correlation(factor, expected):
    noise = pairs()["noise"]
    data = factor * noise
    data[:, :, 0] = -1.0
    assert PairStatistics.of({"noise": noise, "data": data}, total=300).correlation == pytest.approx(expected)


# Noise


def sums(samples):
    return NormalSums.of(np.asarray(samples))


def test_every_statistic_of_normal_noise_has_mean_square_one():
    """A standard error that is off by a tenth would show here."""
    generator = np.random.default_rng(0)
    scores = [sums(generator.standard_normal((60, 3, 4)))._scores() for _ in range(1000)]
    for name in scores[0]:
        assert np.mean([score[name] ** 2 for score in scores]) == pytest.approx(1, abs=0.2), name


def smooth(noise):
    noise[:, :, :, 1::2] = noise[:, :, :, ::2]
    return noise


def off_shell(noise):
    """Mix of two scales: each number has variance 1, but norms are too small or too large."""
    noise[::2] *= 0.8
    noise[1::2] *= (2 - 0.8**2) ** 0.5
    return noise


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda noise: noise + 0.2, "mean"),
        (lambda noise: noise * 1.2, "variance"),
        (np.sign, "tails"),
        (smooth, "neighbours along axis 2"),
        (lambda noise: smooth(noise.swapaxes(2, 3)).swapaxes(2, 3), "neighbours along axis 1"),
        (off_shell, "spread of norms"),
    ],
)
def test_each_problem_of_noise_is_named(spoil, said):
    noise = pairs(shape=(2, 8, 8))["noise"].numpy()
    assert sums(noise).worst()[1] < 5
    name, z = sums(spoil(noise.copy())).worst()
    assert (name, z > 6) == (said, True)


def test_autocorrelation_is_along_the_worst_axis():
    noise = pairs(shape=(2, 8, 8))["noise"].numpy()
    assert abs(sums(noise).autocorrelation) < 0.03
    assert sums(3 * smooth(noise)).autocorrelation == pytest.approx(4 / 7, abs=0.05)
    assert sums(noise[:, :1, :1, 0]).autocorrelation == 0  # one number has no neighbours


def test_norms_are_judged_by_the_chi_law():
    assert sums(pairs()["noise"]).norm == pytest.approx(1, abs=0.02)
    for d in (2, 50, 3072):
        z = norm_z(np.random.default_rng(1).chisquare(d, 20_000), d)
        assert (z.mean(), z.std()) == pytest.approx((0, 1), abs=0.03)
    noise = pairs(shape=(64,))["noise"].numpy()
    noise[17] *= 2
    assert sums(noise).farthest == pytest.approx(norm_z((noise[17] ** 2).sum(), 64))


# Copies


def test_copies_are_found_within_a_shard_and_across():
    whole = pairs()
    first, second = part(whole, 0, 100), part(whole, 90, 200)
    twice = {name: torch.cat([field, field[:3], field[:1]]) for name, field in first.items()}
    a, b = PairStatistics.of(twice, total=214), PairStatistics.of(second, total=214)
    assert a.copies.found == 4
    assert b.copies.found == 0
    assert (a + b).copies.found == (b + a).copies.found == 14
    assert (a + b + b).copies.found == 14 + 110


def test_of_very_many_pairs_a_sample_is_compared_that_still_finds_a_doubled_shard(monkeypatch):
    monkeypatch.setattr(copies, "COMPARED", 1000)
    shards = [PairStatistics.of(pairs(n, n + 500), total=10_000).copies for n in range(0, 2000, 500)]
    together = shards[0] + shards[1] + shards[2] + shards[3]
    assert together.found == 0
    assert len(together.digests) == pytest.approx(200, abs=50)
    assert (together + shards[2]).found == len(shards[2].digests) == pytest.approx(50, abs=25)

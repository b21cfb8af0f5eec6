from dataclasses import replace

import numpy as np
import pytest

from fewstep.errors import UserError
from fewstep.metrics import kernel, protocol
from fewstep.metrics.frechet import Moments, frechet_distance
from fewstep.metrics.neighbours import manifold_scores
from fewstep.metrics.protocol import Floor, Reference, score_blocks

FLOOR = Floor(fd_clf=0.0, kid_clf=0.0, samples=50)


def normal(n, seed, d=4):
    return np.random.default_rng(seed).normal(size=(n, d))


def distance(a, b):
    return frechet_distance(Moments.of(a), Moments.of(b))


@pytest.fixture(scope="module")
def reference():
    return Reference.of(normal(500, 99))


def scores_of(reference, blocks):
    return score_blocks(reference, blocks, floor=FLOOR, seed=0)


def test_values_are_those_of_the_concatenated_and_of_the_single_blocks(reference):
    blocks = [normal(60, seed) * 1.4 for seed in range(5)]
    scores = scores_of(reference, blocks)
    real = reference.features
    assert scores.fd_clf == pytest.approx(distance(real, np.concatenate(blocks)))
    assert scores.fd_without[2] == pytest.approx(distance(real, np.concatenate(blocks[:2] + blocks[3:])))
    single = [distance(real, block) for block in blocks]
    assert scores.fd_block_mean == pytest.approx(np.mean(single))
    assert scores.fd_block_mean_se == pytest.approx(np.std(single, ddof=1) / 5**0.5)
    assert scores.kid_clf == pytest.approx(np.mean([kernel.kernel_distance(real, b) for b in blocks]))
    assert (scores.blocks, scores.samples_per_block) == (5, 60)


def test_block_mean_shows_the_bias_of_small_samples(reference):
    scores = scores_of(reference, [normal(40, seed) for seed in range(8)])
    assert scores.fd_block_mean > 2 * scores.fd_clf
    assert abs(scores.kid_clf) < 4 * scores.kid_clf_se


def test_jackknife_of_a_mean_is_the_standard_error_of_the_mean():
    values = np.array([1.0, 4.0, 2.0, 8.0])
    without = [np.delete(values, i).mean() for i in range(4)]
    assert protocol.jackknife_error(without) == pytest.approx(protocol.mean_and_error(values)[1])


def test_standard_errors_are_the_spread_over_repeated_runs(reference):
    runs = [scores_of(reference, [normal(40, (run, block)) * 1.4 for block in range(8)]) for run in range(60)]
    for value, error in (
        ("fd_clf", "fd_clf_se"),
        ("fd_block_mean", "fd_block_mean_se"),
        ("kid_clf", "kid_clf_se"),
    ):
        spread = np.std([getattr(run, value) for run in runs])
        claimed = np.mean([getattr(run, error) for run in runs])
        assert claimed == pytest.approx(spread, rel=0.35)


def test_ratio_of_a_model_with_itself_is_one_for_certain(reference):
    scores = scores_of(reference, [normal(60, seed) * 1.4 for seed in range(5)])
    assert protocol.ratio([scores], [scores]) == protocol.Ratio(1.0, 0.0, 0.0, (1.0,))


def test_pairing_cancels_what_the_shared_noise_does_to_both(reference):
    noise = [normal(60, seed) for seed in range(8)]
    a, b = (scores_of(reference, [scale * block for block in noise]) for scale in (1.5, 1.6))
    other = scores_of(reference, [1.6 * normal(60, seed) for seed in range(100, 108)])
    found = protocol.ratio([a], [b])
    assert found.mean == pytest.approx(a.fd_clf / b.fd_clf)
    assert found.error < protocol.ratio([a], [other]).error / 3


def test_the_error_of_a_ratio_is_as_large_as_its_standard_error(reference):
    ratios = []
    for run in range(60):
        noise = [normal(40, (run, block)) for block in range(8)]
        a, b = (scores_of(reference, [scale * block for block in noise]) for scale in (1.4, 1.8))
        ratios.append(protocol.ratio([a], [b]))
    spread = np.std([ratio.mean for ratio in ratios])
    assert np.mean([ratio.error for ratio in ratios]) == pytest.approx(spread, rel=0.35)


def test_ratio_by_several_nets_is_their_mean_with_the_jackknife_of_the_mean(reference):
    other = Reference.of(normal(500, 98) * [1, 1, 1, 3])
    blocks = [[scale * normal(60, seed) for seed in range(5)] for scale in (1.5, 1.6)]
    a, b = ([score_blocks(ref, made, floor=FLOOR, seed=0) for ref in (reference, other)] for made in blocks)
    found = protocol.ratio(a, b)
    alone = [protocol.ratio([x], [y]).mean for x, y in zip(a, b, strict=True)]
    assert found.by_net == pytest.approx(alone)
    assert found.mean == pytest.approx(np.mean(alone))
    assert found.spread == pytest.approx(np.std(alone, ddof=1))
    without = [
        [x / y for x, y in zip(p.fd_without, q.fd_without, strict=True)] for p, q in zip(a, b, strict=True)
    ]
    assert found.error == pytest.approx(protocol.jackknife_error(np.mean(without, axis=0)))


def test_a_run_has_converged_when_no_net_sees_it_move_by_its_error(reference):
    blocks = [normal(60, seed) * 1.4 for seed in range(5)]
    fine = scores_of(reference, blocks)
    near = scores_of(reference, [block * (1 + 1e-5) for block in blocks])
    far = scores_of(reference, [block * 1.5 for block in blocks])
    small, large = (protocol.moved([fine, coarse], [fine, fine]) for coarse in (near, far))
    assert (small.little, large.little) == (True, False)
    assert small.errors < 1 < large.errors
    moved = abs(far.fd_clf - fine.fd_clf) / fine.fd_clf_se
    assert protocol.moved([far], [fine]).errors == pytest.approx(moved)
    assert protocol.moved([far], [fine]).share == pytest.approx(1 - far.fd_clf / fine.fd_clf)
    noisy = replace(fine, fd_clf_se=1e3)  # an error so large that it would hide any move
    assert not protocol.moved([replace(noisy, fd_clf=noisy.fd_clf * 1.06)], [noisy]).little
    assert protocol.moved([replace(noisy, fd_clf=noisy.fd_clf * 1.04)], [noisy]).little


def test_blocks_that_can_not_be_paired_are_a_bug(reference):
    a, b = (scores_of(reference, [normal(n, seed) for seed in range(3)]) for n in (40, 50))
    with pytest.raises(AssertionError, match="can't be paired"):
        protocol.ratio([a], [b])
    with pytest.raises(AssertionError, match="can't be paired"):
        protocol.ratio([a, a], [a])


@pytest.mark.parametrize(("block", "held_out", "samples"), [(1000, 80, 80), (30, 80, 30), (1000, 900, 500)])
def test_floor_is_drawn_at_the_size_of_a_block_or_what_there_is(reference, block, held_out, samples):
    found = protocol.measure_floor(reference, normal(held_out, 7), block=block, seed=0)
    assert found.samples == samples


def test_floor_is_what_a_perfect_model_scores_at_its_n(reference):
    """At 50 a side; the pooled value, of 400, is far below."""
    floor = protocol.measure_floor(reference, normal(300, 7), block=50, seed=0)
    perfect = score_blocks(reference, [normal(50, seed) for seed in range(8)], floor=floor, seed=0)
    assert perfect.fd_at_floor_n == pytest.approx(floor.fd_clf, rel=0.25)
    assert perfect.fd_clf < floor.fd_clf / 2
    assert abs(floor.kid_clf) < 0.05


def test_floor_of_a_copied_training_set_is_not_zero(reference):
    """Draws of the two sides are independent, so that even one set twice shows the spread of n."""
    floor = protocol.measure_floor(reference, reference.features, block=50, seed=0)
    assert floor.fd_clf > 0.05


def test_same_arguments_same_scores_and_another_seed_redraws_the_floor(reference):
    first, again, other = (
        protocol.measure_floor(reference, normal(300, 7), block=50, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_one_block_has_no_standard_error(reference):
    with pytest.raises(UserError, match="two or more blocks of samples, got 1"):
        scores_of(reference, [normal(50, 0)])


def test_the_least_that_prepare_may_keep_is_enough_for_every_number(reference):
    real, held_out = normal(protocol.LEAST_TRAIN, 1), normal(protocol.LEAST_HELD_OUT, 2)
    floor = protocol.measure_floor(Reference.of(real), held_out, block=50, seed=0)
    scores = score_blocks(Reference.of(real), [normal(50, 3), normal(50, 4)], floor=floor, seed=0)
    numbers = [*vars(floor).values(), scores.fd_clf, scores.fd_clf_se, scores.fd_at_floor_n, scores.kid_clf]
    assert np.isfinite(numbers + list(manifold_scores(real, normal(50, 3)).values())).all()
    with pytest.raises(UserError, match="2 samples or more, got 1"):
        protocol.measure_floor(reference, held_out[:1], block=50, seed=0)

import multiprocessing
import warnings

import numpy as np
import pytest
import sklearn
from missing import make_missing

from fewstep.errors import UserError
from fewstep.metrics import neighbours
from fewstep.metrics.neighbours import manifold_scores, median_nearest


def two_clusters(n, seed, apart=50.0):
    """Two normal clusters, `apart` from one another."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 2))
    points[n // 2 :, 0] += apart
    return points


def test_one_law_scores_well_throughout():
    scores = manifold_scores(two_clusters(400, 0), two_clusters(400, 1))
    assert all(scores[name] > 0.9 for name in ("precision", "recall", "coverage"))
    assert scores["density"] == pytest.approx(1, abs=0.15)


def test_a_missing_cluster_costs_recall_and_not_precision():
    samples = two_clusters(400, 1, apart=0)
    scores = manifold_scores(two_clusters(400, 0), samples)
    assert scores["precision"] > 0.9
    assert scores["recall"] == pytest.approx(0.5, abs=0.05)
    assert scores["coverage"] == pytest.approx(0.5, abs=0.05)


def test_a_cluster_that_is_not_in_the_data_costs_precision_and_not_recall():
    scores = manifold_scores(two_clusters(400, 0, apart=0), two_clusters(400, 1))
    assert scores["precision"] == pytest.approx(0.5, abs=0.05)
    assert scores["recall"] > 0.9


def test_both_sides_are_cut_to_the_same_number(capsys):
    scores = manifold_scores(two_clusters(400, 0), two_clusters(100, 1))
    assert scores["samples"] == 100
    assert scores == manifold_scores(two_clusters(400, 0), two_clusters(100, 1))
    assert scores != manifold_scores(two_clusters(400, 0), two_clusters(100, 1), seed=1)
    assert capsys.readouterr().out == ""


def test_a_worker_of_a_stage_is_not_warned_that_it_may_start_no_processes(monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifold_scores(two_clusters(40, 0), two_clusters(40, 1))


def test_too_few_samples_are_refused():
    with pytest.raises(UserError, match="5 neighbours; 6 samples are too few"):
        manifold_scores(two_clusters(400, 0), two_clusters(6, 1))


def test_a_missing_library_is_answered_with_the_extra_that_brings_it(monkeypatch):
    make_missing(monkeypatch, "prdc", "fewstep.metrics.neighbours")
    with pytest.raises(UserError, match=r"needs prdc: pip install 'fewstep\[metrics\]'"):
        manifold_scores(two_clusters(40, 0), two_clusters(40, 1))


def test_the_nearest_of_a_copy_is_near_and_that_of_fresh_data_as_far_as_of_held_out_data():
    train, held_out, fresh = (two_clusters(400, seed) for seed in range(3))
    usual = median_nearest(held_out, [train])
    assert median_nearest(train[:100] + 1e-6, [train]) < 1e-3 * usual
    assert median_nearest(fresh, [train]) == pytest.approx(usual, rel=0.25)


def test_the_nearest_is_found_whatever_parts_the_data_comes_in():
    train, fresh = two_clusters(400, 0), two_clusters(50, 1)
    parts = (train[start : start + 7] for start in range(0, 400, 7))
    assert median_nearest(fresh, parts) == median_nearest(fresh, [train])


def test_the_distance_is_the_median():
    samples = np.array([[1.0], [7.0], [9.0]])
    assert median_nearest(samples, [np.array([[0.0], [10.0]])]) == 1


def test_the_nearest_of_large_samples_are_found_with_few_of_them_in_memory_at_once(monkeypatch):
    generator = np.random.default_rng(0)
    samples, data = (generator.standard_normal((n, 100), dtype=np.float32) for n in (30, 50))
    chunks, find = [], neighbours.metrics.pairwise_distances_argmin_min

    def seen(*sides):
        chunks.append(sklearn.get_config()["pairwise_dist_chunk_size"])
        return find(*sides)

    monkeypatch.setattr("sklearn.metrics.pairwise_distances_argmin_min", seen)
    whole = median_nearest(samples, [data])
    monkeypatch.setattr(neighbours, "CHUNK_BYTES", 8 * 100 * 20)
    assert median_nearest(samples, [data]) == pytest.approx(whole, rel=1e-6)
    assert chunks == [256, 20]

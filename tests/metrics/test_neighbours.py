import multiprocessing
import warnings

import numpy as np
import pytest
from missing import make_missing

from fewstep.errors import UserError
from fewstep.metrics.neighbours import manifold_scores, nearest_neighbour_ratio


def two_heaps(n, seed, apart=50.0):
    """Two normal heaps, `apart` from one another."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 2))
    points[n // 2 :, 0] += apart
    return points


def test_one_law_scores_well_throughout():
    scores = manifold_scores(two_heaps(400, 0), two_heaps(400, 1))
    assert all(scores[name] > 0.9 for name in ("precision", "recall", "coverage"))
    assert scores["density"] == pytest.approx(1, abs=0.15)


def test_a_missing_heap_costs_recall_and_not_precision():
    samples = two_heaps(400, 1, apart=0)
    scores = manifold_scores(two_heaps(400, 0), samples)
    assert scores["precision"] > 0.9
    assert scores["recall"] == pytest.approx(0.5, abs=0.05)
    assert scores["coverage"] == pytest.approx(0.5, abs=0.05)


def test_a_heap_that_is_not_in_the_data_costs_precision_and_not_recall():
    scores = manifold_scores(two_heaps(400, 0, apart=0), two_heaps(400, 1))
    assert scores["precision"] == pytest.approx(0.5, abs=0.05)
    assert scores["recall"] > 0.9


def test_both_sides_are_cut_to_the_same_number(capsys):
    scores = manifold_scores(two_heaps(400, 0), two_heaps(100, 1))
    assert scores["samples"] == 100
    assert scores == manifold_scores(two_heaps(400, 0), two_heaps(100, 1))
    assert scores != manifold_scores(two_heaps(400, 0), two_heaps(100, 1), seed=1)
    assert capsys.readouterr().out == ""


def test_a_worker_of_a_stage_is_not_warned_that_it_may_start_no_processes(monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifold_scores(two_heaps(40, 0), two_heaps(40, 1))


def test_too_few_samples_are_refused():
    with pytest.raises(UserError, match="5 neighbours; 6 samples are too few"):
        manifold_scores(two_heaps(400, 0), two_heaps(6, 1))


def test_a_missing_library_is_answered_with_the_extra_that_brings_it(monkeypatch):
    make_missing(monkeypatch, "prdc", "fewstep.metrics.neighbours")
    with pytest.raises(UserError, match=r"needs prdc: pip install 'fewstep\[metrics\]'"):
        manifold_scores(two_heaps(40, 0), two_heaps(40, 1))


def test_nearest_neighbour_ratio_is_small_for_copies_and_one_for_fresh_data():
    train, held_out, fresh = (two_heaps(400, seed) for seed in range(3))
    copies = train[:100] + 1e-6
    assert nearest_neighbour_ratio(copies, train, held_out) < 1e-3
    assert nearest_neighbour_ratio(fresh, train, held_out) == pytest.approx(1, abs=0.25)
    assert nearest_neighbour_ratio(held_out * 1.0, train, held_out) == 1


def test_nearest_neighbour_ratio_has_no_value_where_held_out_data_repeats_the_training_set():
    train = two_heaps(40, 0)
    assert nearest_neighbour_ratio(two_heaps(10, 1), train, train[:20]) is None
    assert nearest_neighbour_ratio(train[:10], train, train[:20]) is None
    assert nearest_neighbour_ratio(train[:10], train, two_heaps(20, 1)) == 0


def test_nearest_neighbour_ratio_is_that_of_the_medians():
    train = np.array([[0.0], [10.0]])
    ratio = nearest_neighbour_ratio(np.array([[1.0], [7.0], [9.0]]), train, np.array([[2.0], [13.0]]))
    assert ratio == pytest.approx(1 / 2.5)

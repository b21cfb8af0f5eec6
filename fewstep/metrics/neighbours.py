"""What nearest neighbours tell: whether samples are lifelike, cover the data, or copy it."""

import contextlib
import io

import numpy as np
from etils.epy import lazy_imports

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.extras import brought_by

with lazy_imports(error_callback=brought_by("metrics", what="this metric", library="prdc")):
    import joblib
    import prdc

with lazy_imports(error_callback=brought_by("metrics", what="this metric", library="scikit-learn")):
    from sklearn import metrics

NEIGHBOURS = 5


def manifold_scores(reference: np.ndarray, samples: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """Return precision, recall, density, coverage and the number of samples a side, "samples".

    Naeem et al. 2020 (arXiv 2002.09797), with 5 neighbours. The radii depend on how many samples
    there are, so both sides, features (n, d) and (m, d), are cut to the smaller of n and m, by a
    draw that `seed` decides. Below about 1000 a side the numbers are rough.

    Raises:
        UserError: if a side has 6 samples or fewer, or prdc is not installed.
    """
    n = min(len(reference), len(samples))
    if n <= NEIGHBOURS + 1:
        raise UserError(f"precision and recall look at {NEIGHBOURS} neighbours; {n} samples are too few")
    pick_reference, pick_samples = (
        randomness.permutation("neighbours", seed, 0, len(side))[:n] for side in (reference, samples)
    )
    quiet = contextlib.redirect_stdout(io.StringIO())  # prdc prints the counts
    with (
        quiet,
        joblib.parallel_config(backend="sequential"),
    ):  # and asks for 8 jobs, which workers may not start
        scores = prdc.compute_prdc(reference[pick_reference], samples[pick_samples], NEIGHBOURS)
    return {name: float(score) for name, score in scores.items()} | {"samples": n}


def nearest_neighbour_ratio(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> float | None:
    """Return how far samples are from the training set, as a multiple of how far held-out data is.

    The median Euclidean distance to the nearest training sample, of the samples and of held-out
    data, divided. Well below 1 the model copies what it was trained on. All are (n, dims); use the
    data itself, not features. None if at least half of the held-out data repeats training data: there
    is then no distance to compare with.
    """
    near, usual = (
        np.median(metrics.pairwise_distances_argmin_min(side, train)[1]) for side in (samples, held_out)
    )
    return float(near / usual) if usual > 0 else None

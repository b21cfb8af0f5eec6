"""What nearest neighbours tell: whether samples are lifelike, cover the data, or copy it."""

import contextlib
import io
from collections.abc import Iterable

import numpy as np

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.lazy import brought_by, lazy_imports

with lazy_imports(error_callback=brought_by("metrics", what="this metric", library="prdc")):
    import joblib
    import prdc

with lazy_imports(error_callback=brought_by("metrics", what="this metric", library="scikit-learn")):
    import sklearn
    from sklearn import metrics

NEIGHBOURS = 5
CHUNK, CHUNK_BYTES = 256, 2**27  # samples that scikit-learn holds as float64: its own number, and a limit


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


def median_nearest(samples: np.ndarray, parts: Iterable[np.ndarray]) -> float:
    """Return the median Euclidean distance of samples, (n, dims), to the nearest of a set of data.

    Well below that of held-out data, a model copies what it was trained on. Use the data, not features.

    Args:
        samples: Of a model, or held-out data.
        parts: The data, (m, dims) at a time, so that it need not fit in memory.

    Raises:
        UserError: if scikit-learn is not installed.
    """
    nearest = np.full(len(samples), np.inf)
    chunk = max(1, min(CHUNK, CHUNK_BYTES // (8 * samples.shape[1])))
    with sklearn.config_context(pairwise_dist_chunk_size=chunk):
        for part in parts:
            nearest = np.minimum(nearest, metrics.pairwise_distances_argmin_min(samples, part)[1])
    return float(np.median(nearest))

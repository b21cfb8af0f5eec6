"""The protocol by which feature distances become numbers that may be compared.

A Fréchet distance is biased upwards, the more so the fewer the samples, and its spread over noise
batches is large. So every model makes the same number of disjoint blocks of samples, from the same
noise as every other model, and:

- pooled value: one distance, all blocks together against the whole reference. This is fd_clf. Its
  standard error is that of the jackknife that leaves one block out.
- block mean: the mean of the distances of each block against the whole reference, with the standard
  error of that mean. Larger than the pooled value, for its n is smaller; its job is to show the bias.
- ratio of two models: of their pooled values by each net (`nets`), and the mean of these, its standard
  error by the jackknife that leaves the same block out of both, so that what the shared noise does to
  both cancels. Beside it, the standard deviation of the ratios over the nets.
- kid_clf is unbiased, so its pooled value would say no more than its block mean: that is kid_clf.
- floor: held-out data against training data with n samples a side, n no larger than a block, mean
  over redraws. Held-out sets are small, so it must not be compared with fd_clf but with
  fd_at_floor_n, the model's samples against training data, drawn n a side in the same way.
- converged: a fine run whose distance moves little when its steps are doubled: less than its standard error
  by every net, and less than a twentieth in the mean over the nets, where the shared noise cancels.
  Ratios are to such a run of the teacher, not to one that few steps have left unfinished.

Standard errors are about the noise. They leave out the reference's own finite size, which all models
share, and the training seed: a claim needs several of those. A raw Fréchet distance is never
bootstrapped, for drawing samples twice biases it further.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import numpy as np

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.metrics import kernel
from fewstep.metrics.frechet import Moments, frechet_distance
from fewstep.metrics.neighbours import NEIGHBOURS

REDRAWS = 8
KEPT = 10_000  # samples of the reference that more than their moments is kept of
LEAST_TRAIN = NEIGHBOURS + 2  # samples with which every number can be worked out
LEAST_HELD_OUT = 2
LITTLE = 0.05  # as a share of a distance: what a converged run may still move


@dataclass(frozen=True)
class Reference:
    """What of the training set's features, by one net, its samples are compared with."""

    moments: Moments
    """Of the whole set, or of features.LOOKED_AT samples of it."""
    features: np.ndarray
    """Those of at most KEPT samples, (n, d): the others are left out of kid_clf, precision and the floor."""

    @classmethod
    def of(cls, features: np.ndarray) -> "Reference":
        """Return the reference of a set of at most KEPT samples, features (n, d).

        Raises:
            UserError: if features are not finite.
        """
        return cls(Moments.of(features), features)

    @cached_property
    def within(self) -> float:
        """Their mean kernel with one another."""
        return kernel.within(self.features)


@dataclass(frozen=True)
class Floor:
    """The distance of real data from real data: what no model needs to beat."""

    fd_clf: float
    """Held-out against training data, `samples` a side; compare with fd_at_floor_n."""
    kid_clf: float
    """The whole of both."""
    samples: int
    """Samples a side in fd_clf."""


@dataclass(frozen=True)
class BlockScores:
    """The scores of one model; the module says what each means."""

    fd_clf: float
    fd_clf_se: float
    """Standard error of fd_clf, about the noise; each `_se` is that of the field before it."""
    fd_block_mean: float
    fd_block_mean_se: float
    fd_at_floor_n: float
    kid_clf: float
    kid_clf_se: float
    blocks: int
    samples_per_block: int
    fd_without: tuple[float, ...]
    """The pooled distance without block i; what `ratio` needs."""


def score_blocks(reference: Reference, blocks: list[np.ndarray], *, floor: Floor, seed: int) -> BlockScores:
    """Return the scores of one model from the features of its blocks of samples.

    Args:
        reference: The training set.
        blocks: Features (n, d) of each block, the same n in all; the same noise for all models.
        floor: The floor that the scores will stand beside.
        seed: Decides the draws of fd_at_floor_n, with which the floor was drawn too.

    Raises:
        UserError: if there are fewer than two blocks, or features are not finite.
    """
    if len(blocks) < 2:
        raise UserError(f"a standard error needs two or more blocks of samples, got {len(blocks)}")
    assert len({len(block) for block in blocks}) == 1, "blocks have different sizes"
    moments = [Moments.of(block) for block in blocks]
    fd_pooled = frechet_distance(reference.moments, reduce(add, moments))
    fd_without = tuple(
        frechet_distance(reference.moments, reduce(add, moments[:i] + moments[i + 1 :]))
        for i in range(len(moments))
    )
    fd_mean, fd_mean_se = mean_and_error([frechet_distance(reference.moments, m) for m in moments])
    kid, kid_se = mean_and_error(
        [
            kernel.within(block) + reference.within - 2 * kernel.between(block, reference.features)
            for block in blocks
        ]
    )
    return BlockScores(
        fd_clf=fd_pooled,
        fd_clf_se=jackknife_error(fd_without),
        fd_block_mean=fd_mean,
        fd_block_mean_se=fd_mean_se,
        fd_at_floor_n=_redrawn(reference.features, np.concatenate(blocks), floor.samples, seed=seed),
        kid_clf=kid,
        kid_clf_se=kid_se,
        blocks=len(blocks),
        samples_per_block=len(blocks[0]),
        fd_without=fd_without,
    )


@dataclass(frozen=True)
class Ratio:
    """The distance of one model over that of another."""

    mean: float
    """Over the nets."""
    error: float
    """Standard error of the mean, about the noise."""
    spread: float
    """Standard deviation over the nets; 0 for one net."""
    by_net: tuple[float, ...]


def ratio(a: Sequence[BlockScores], b: Sequence[BlockScores]) -> Ratio:
    """Return fd_clf of `a` over that of `b`, both by the same nets in the same order."""
    kinds = {(one.blocks, one.samples_per_block) for one in (*a, *b)}
    assert (len(kinds), len(a)) == (1, len(b)), "blocks can't be paired"
    by_net = tuple(x.fd_clf / y.fd_clf for x, y in zip(a, b, strict=True))
    without = np.mean([np.divide(x.fd_without, y.fd_without) for x, y in zip(a, b, strict=True)], axis=0)
    spread = float(np.std(by_net, ddof=1)) if len(by_net) > 1 else 0.0
    return Ratio(float(np.mean(by_net)), jackknife_error(without), spread, by_net)


@dataclass(frozen=True)
class Move:
    """How far fd_clf moves between a run and one of twice the steps."""

    share: float
    """As a share of the finer run's, in the mean over the nets."""
    errors: float
    """In standard errors of the finer run's, by the worst net."""

    @property
    def little(self) -> bool:
        """Whether the finer run counts as converged."""
        return self.errors < 1 and abs(self.share) < LITTLE


def moved(coarse: Sequence[BlockScores], fine: Sequence[BlockScores]) -> Move:
    """Return how far two runs are apart, both scored by the same nets in the same order."""
    errors = (abs(y.fd_clf - x.fd_clf) / y.fd_clf_se for x, y in zip(coarse, fine, strict=True))
    return Move(1 - ratio(coarse, fine).mean, max(errors))


def measure_floor(reference: Reference, held_out: np.ndarray, *, block: int, seed: int) -> Floor:
    """Return the floor at the size of a block, or at the most that the real data allows.

    Args:
        reference: The training set.
        held_out: Features of data that neither model nor feature net were trained on, (n, d).
        block: Samples in a block.
        seed: Decides the draws.

    Raises:
        UserError: if a side or a block has fewer than two samples, or features are not finite.
    """
    samples = min(block, len(held_out), len(reference.features))
    if samples < LEAST_HELD_OUT:
        raise UserError(f"a floor compares sets of {LEAST_HELD_OUT} samples or more, got {samples}")
    return Floor(
        fd_clf=_redrawn(reference.features, held_out, samples, seed=seed),
        kid_clf=kernel.kernel_distance(reference.features, held_out),
        samples=samples,
    )


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of one value per block, and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


def jackknife_error(without: Sequence[float]) -> float:
    """Return a statistic's standard error from its values without each block; Efron and Stein 1981."""
    return float(np.sqrt((len(without) - 1) * np.var(without)))


def _redrawn(reference: np.ndarray, others: np.ndarray, samples: int, *, seed: int) -> float:
    """Return the mean Fréchet distance of draws, without replacement, of `samples` from each side."""
    distances = []
    for redraw in range(REDRAWS):
        # two streams: a model's samples must not be drawn in step with the data
        real = randomness.permutation("floor reference", seed, redraw, len(reference))[:samples]
        other = randomness.permutation("floor samples", seed, redraw, len(others))[:samples]
        distances.append(frechet_distance(Moments.of(reference[real]), Moments.of(others[other])))
    return float(np.mean(distances))

"""What is measured on pairs, and what it means for a model that is trained on them."""

import math
from dataclasses import dataclass

Z_LIMIT = 6.0  # a normal statistic exceeds it once in 5e8 draws
BACK_LIMIT = 0.9  # of the distance to a stranger's noise, as far as chance does not bring wrong pairs below
BACK_ERRORS = 3.0  # standard errors
BACK_RIGHT = 0.5  # of that distance, below which pairs pass, however few they are
COST_LIMIT = 1.01  # of the cost of independent pairs

BACK_DOUBT = 0.6  # of that distance; more is hardly seen of coarse steps alone
BACK_ADVICE = 0.25  # of the distance to a stranger's noise; digits have 0.16 with 64 calls, 0.28 with 32
GAP_ADVICE = 0.05  # of S + V; a coarse grid of 4 Heun steps makes 0.04
GAP_ERRORS = 3.0  # standard errors
CURVED = 0.5  # S over V; a Gaussian has 0.27, distant points 0.59
STRAIGHT = 0.01  # S over the variance of the data
UNRELATED = 0.1  # correlation


@dataclass(frozen=True, kw_only=True)
class PairChecks:
    """What was measured on pairs of noise and data; `problems` and `advice` judge it.

    Squared distances (cost, independent_cost, straightness, first_order, crossing, gap) are
    summed over coordinates.
    """

    count: int
    """Pairs that the statistics are of: all of them but for back, stranger, straightness, first_order,
    crossing and gap."""
    noise_z: float
    """How far, in standard errors, the noise is from standard normal in its worst statistic. Noise of another
    law is mapped to normal noise first, as for the other numbers of the noise; see fewstep.noises."""
    noise_off: str
    """That statistic."""
    data_z: float
    """The same of the data, which should not be normal noise."""
    noise_norm: float
    """The root mean square of |noise| / sqrt(coordinates): 1 if normal."""
    noise_autocorrelation: float
    """The correlation of neighbours in the noise, along the axis where it is largest: 0 if normal."""
    worst_norm_z: float
    """How many standard deviations the norm of the least likely noise is off."""
    duplicates: int
    """Noises that occur more than once, each further one counted."""
    back_rmse: float
    """Root mean square distance from the noise, when the flow is integrated back from the data."""
    stranger_rmse: float
    """The same distance from another pair's noise: what a wrong pair would give."""
    back_se: float = 0.0
    """The standard error of back_rmse over stranger_rmse in pairs of another model, where it is about 1."""
    cost: float
    """Mean squared distance of a pair."""
    independent_cost: float
    """The same if noise and data were paired at random."""
    correlation: float
    """Of noise with data, averaged over coordinates: 0 if paired at random."""
    data_variance: float
    """Summed over coordinates."""
    straightness: float
    """S, how much the teacher's trajectories turn: 0 if they are straight."""
    first_order: float
    """F, how much the noise that their slopes point back to varies: 0 if one step is exact."""
    crossing: float | None
    """V, how much lines between independent noise and data cross; None if the teacher learnt other lines."""
    gap: float | None
    """(independent_cost - cost) - (S + V) on the held-out pairs: 0 for an exact teacher. None as V is."""
    gap_se: float | None
    """Its standard error."""

    @property
    def back_limit(self) -> float:
        """Below which share of stranger_rmse back_rmse must be, which 16 or more wrong pairs hardly are."""
        return max(BACK_RIGHT, min(BACK_LIMIT, 1 - BACK_ERRORS * self.back_se))

    def problems(self) -> list[str]:
        """Return what is wrong, a sentence each; empty if the pairs can be trained on."""
        found = []
        if not self.noise_z < Z_LIMIT:
            if self.data_z < Z_LIMIT:
                found.append("the pairs are reversed: their data is standard normal and their noise is not")
            else:
                found.append(
                    f"the noise is not standard normal: its {self.noise_off} is off by {self.noise_z:.3g} "
                    "standard errors; was it scaled, or rounded when it was stored?"
                )
        if not self.worst_norm_z < math.sqrt(Z_LIMIT**2 + 2 * math.log(self.count)):
            found.append(
                f"a noise has a norm {self.worst_norm_z:.3g} standard deviations from what is likely, and "
                "lines from such noise cross those of others: is a pair damaged?"
            )
        if self.duplicates:
            found.append(f"{self.duplicates} noises are copies of another one: do shards share indices?")
        if not self.back_rmse < self.back_limit * self.stranger_rmse:
            found.append(
                f"integrating back from the data misses the noise by {self.back_rmse:.3g}, no better than "
                f"pairs of another model may by chance, which miss it by {self.stranger_rmse:.3g} on average "
                f"(below {self.back_limit:.0%} of that, pairs pass): was it this model, with this guidance "
                "and grid? If so, take more calls, or hold out more pairs"
            )
        if not self.cost < COST_LIMIT * self.independent_cost:
            found.append(
                f"pairs are further apart ({self.cost:.4g}) than random ones ({self.independent_cost:.4g}): "
                "does each noise lie beside its own data?"
            )
        return found

    def advice(self) -> list[str]:
        """Return why a model trained on the pairs may come out worse than hoped, a sentence each."""
        found = []
        if BACK_ADVICE * self.stranger_rmse < self.back_rmse < self.back_limit * self.stranger_rmse:
            ratio = self.back_rmse / self.stranger_rmse
            or_else = ", or another model made the pairs" if ratio > BACK_DOUBT else ""
            found.append(
                f"integrating back misses the noise by {ratio:.0%} of the distance to another pair's: the "
                f"steps are too coarse for this flow, so take more calls{or_else}"
            )
        if 0 <= self.correlation < UNRELATED:
            found.append(
                f"noise and data hardly correlate ({self.correlation:.2f}), so lines of pairs may cross as "
                "those of random pairs do; where they cross a model learns their mean"
            )
        if self.straightness < STRAIGHT * self.data_variance:
            found.append(
                f"the teacher's flow is straight already (S is {self.straightness / self.data_variance:.1%} "
                "of the data's variance): another round gains little and adds the errors of its training"
            )
        if self.crossing is None or self.gap is None or self.gap_se is None:
            return found
        if self.straightness > CURVED * self.crossing:
            found.append(
                f"the teacher's flow is curved (S {self.straightness:.4g}, V {self.crossing:.4g}): it "
                "decides late where a noise goes, so its pairs need many calls, and one round may not do"
            )
        known = self.straightness + self.crossing
        if abs(self.gap) > max(GAP_ADVICE * known, GAP_ERRORS * self.gap_se):
            found.append(
                "the teacher does not fit its own samples: its pairs are closer than random ones by "
                f"{known + self.gap:.4g}, those of an exact one by S + V = {known:.4g} (gap {self.gap:.3g} ± "
                f"{self.gap_se:.2g}); errors go into the pairs: train it longer, make it larger, or take "
                "more calls"
            )
        return found

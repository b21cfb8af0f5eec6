"""Sums over all pairs that tell, without a network, what is wrong with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fewstep.noises import GAUSSIAN, Law
from fewstep.pairs.copies import Copies
from fewstep.pairs.normality import NormalSums


@dataclass(frozen=True, eq=False, kw_only=True)
class PairStatistics:
    """What is known of a set of pairs; that of two sets is added with +.

    Its size depends on the shape of a sample, not on the number of pairs. Any order of additions gives
    the same numbers but for rounding; add shards in their order to get the same bits.
    """

    noise: NormalSums
    data: NormalSums
    products: np.ndarray
    """Sums of noise times data, of each coordinate, (*shape)."""
    copies: Copies
    """Of the noises."""
    mapped: NormalSums | None = None
    """Of the noise as it would be if its law were normal; None if that is its law."""

    @classmethod
    def of(cls, pairs: dict[str, Tensor], *, total: int, law: Law = GAUSSIAN) -> PairStatistics:
        """Return the statistics of one shard.

        Args:
            pairs: "noise" and "data", (n, *shape), on the CPU; all shards as they were made, or all as
                they are stored, since rounding would hide a copy.
            total: pairs in all shards together; it decides which noises are compared across shards.
            law: of the noise.
        """
        noise, data = (pairs[name].float().numpy() for name in ("noise", "data"))
        return cls(
            noise=NormalSums.of(noise),
            data=NormalSums.of(data),
            products=(noise.astype(np.float64) * data).sum(0),
            copies=Copies.of(noise, total=total),
            mapped=None if law == GAUSSIAN else NormalSums.of(law.as_normal(noise)),
        )

    def __add__(self, other: PairStatistics) -> PairStatistics:
        """Return the statistics of both sets together."""
        names = ("noise", "data", "products", "copies")
        mapped = self.mapped + other.mapped if self.mapped and other.mapped else None
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return PairStatistics(**sums, mapped=mapped)

    @property
    def normal(self) -> NormalSums:
        """Of what is standard normal if the noise is of its law."""
        return self.mapped or self.noise

    def noise_off(self, law: Law) -> tuple[str, float]:
        """Return the noise's statistic that is most standard errors from `law`, in words, and how many."""
        name, off = self.normal.worst()
        return name if law == GAUSSIAN else f"{name}, mapped from {law.told()} to normal noise,", off

    @property
    def count(self) -> int:
        """How many pairs there are."""
        return self.noise.count

    @property
    def cost(self) -> float:
        """The mean squared distance of a pair, summed over coordinates."""
        return float((self.noise.squares + self.data.squares - 2 * self.products).sum() / self.count)

    @property
    def independent_cost(self) -> float:
        """What it would be if noise and data were paired at random."""
        return self.cost + 2 * float(self._covariance().sum())

    @property
    def correlation(self) -> float:
        """The correlation of noise with data: the average over coordinates, weighted by their spread.

        Without the weights, pixels that are all but constant would count as much as those that matter.
        """
        spread = np.sqrt(self.noise.variance * self.data.variance).sum()
        return float(self._covariance().sum() / max(spread, 1e-300))

    def _covariance(self) -> np.ndarray:
        return self.products / self.count - self.noise.total * self.data.total / self.count**2

    def to_json(self) -> str:
        """Return these statistics as JSON; numbers survive exactly."""
        plain: dict[str, Any] = {
            "noise": self.noise.plain(),
            "data": self.data.plain(),
            "products": self.products.tolist(),
            "copies": {"found": self.copies.found, "digests": sorted(self.copies.digests)},
        }
        if self.mapped:
            plain["mapped"] = self.mapped.plain()
        return json.dumps(plain, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PairStatistics:
        """Return what `to_json` wrote."""
        plain = json.loads(text)
        return cls(
            noise=NormalSums.restore(plain["noise"]),
            data=NormalSums.restore(plain["data"]),
            products=np.array(plain["products"]),
            copies=Copies(plain["copies"]["found"], frozenset(plain["copies"]["digests"])),
            mapped=NormalSums.restore(plain["mapped"]) if "mapped" in plain else None,
        )

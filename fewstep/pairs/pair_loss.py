"""Pair loss: whether a model that learnt from pairs knows its own better than fresh ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

RATIO_LIMIT = 1.1
ERRORS = 3.0  # standard errors of the difference


@dataclass(frozen=True, kw_only=True)
class PairLoss:
    """A trained model's mean loss on pairs that it was trained on, and on held-out ones."""

    train: float
    held_out: float
    ratio: float
    """held_out / train: above 1 as far as the model remembers pairs instead of what they have in common."""
    difference_se: float
    """The standard error of held_out - train."""

    @classmethod
    def of(cls, known: Tensor, fresh: Tensor) -> PairLoss:
        """Return those of losses on single pairs, both (n,), taken at the same times."""
        known, fresh = known.double(), fresh.double()
        return cls(
            train=float(known.mean()),
            held_out=float(fresh.mean()),
            ratio=float(fresh.mean() / known.mean()),
            difference_se=float((fresh - known).std() / len(fresh) ** 0.5),
        )

    def advice(self, pairs: int, section: str) -> str:
        """Say whether `pairs`, which the settings in `section` ask for, are enough."""
        losses = (
            f"loss {self.train:.3g} on its own, {self.held_out:.3g} ± {self.difference_se:.2g} on fresh ones"
        )
        if not self.ratio > RATIO_LIMIT:
            return f"{pairs} pairs are enough ({losses})"
        if not self.held_out - self.train > ERRORS * self.difference_se:
            return f"whether {pairs} pairs are enough can't be told ({losses}): raise {section}.held_out"
        return (
            f"the model knows its training pairs better than fresh ones ({losses}): make more pairs "
            f"({section}.pairs, now {pairs}) or train fewer steps"
        )

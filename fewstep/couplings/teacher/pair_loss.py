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

    @property
    def remembers(self) -> bool:
        """Whether fresh pairs are harder by more than chance, and by more than can be left alone."""
        beyond_chance = self.held_out - self.train > ERRORS * self.difference_se
        return self.ratio > RATIO_LIMIT and beyond_chance

    def advice(self, pairs: int, setting: str) -> str:
        """Say whether `pairs`, which the setting `setting` asks for, are enough."""
        losses = f"{self.train:.3g} on its own, {self.held_out:.3g} ± {self.difference_se:.2g} on fresh ones"
        if self.remembers:
            return (
                f"the model knows its training pairs better than fresh ones (loss {losses}): make more pairs "
                f"({setting}, now {pairs}) or train fewer steps"
            )
        return f"{pairs} pairs are enough (loss {losses})"

"""Bellman: the published search of BOSS, over the mean square of what single jumps are off by."""

from __future__ import annotations

from dataclasses import dataclass

from fewstep.searching.over_jumps import OverJumps


@dataclass(frozen=True, kw_only=True)
class Bellman(OverJumps):
    """BOSS phase 1; Nguyen, Nguyen and Nguyen 2024 (arXiv 2312.16414). No data is needed.

    The objective adds up errors of single jumps from states of the fine trajectory. It is not the error
    at the end, nor a bound of it, and at few steps its grid can be worse than equal steps.
    """
